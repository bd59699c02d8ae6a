"""The training loop.

Its order is deliberate:

1. dispatch a chunk of steps before fetching the metrics of the previous chunk, so that the device
   never waits for the host;
2. save between chunks, so that a checkpoint is consistent, and save the best step before it, so
   that a run can be resumed from each checkpoint alone;
3. at the end of an epoch evaluate, update early stopping, call the callbacks and save. An epoch
   counts as done only when it is saved, so the files that callbacks write are complete whenever a
   run is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxnet.cluster import activity, processes
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.metrics.direction import Direction
from jaxnet.training.callbacks import Plan, Watchers
from jaxnet.training.clock import Clock
from jaxnet.training.dispatch_size import Pace, pace
from jaxnet.training.early_stopping import EarlyStopping
from jaxnet.training.halting import Halt, halted
from jaxnet.training.history import JudgedRow, add_steps
from jaxnet.training.preemption import Preemption
from jaxnet.training.programs import Log, Programs, halt_names, without_halts
from jaxnet.training.progress import Progress
from jaxnet.training.saving import Saver

PyTree = Any


@dataclass
class Loop:
    """One call of `Trainer.fit`.

    Attributes:
        programs: the compiled task.
        train: the pipeline of training data.
        evaluate: the validation metrics of a state; empty without validation data.
        trained: wraps a state as the network that callbacks receive.
        metrics: a training step's metrics, as shapes.
        early_stopping: the rule, resolved for this run's metrics.
        declared: the directions that the metrics declare, by column.
        saver: the schedule of checkpoints.
        watchers: the callbacks, and their request to stop.
        steps: the total number of steps.
        end: the stop reason when all steps are done.
        name: the name of the run in its progress display.
        clock: measures the time.
        pace: the number of steps per dispatch.
        preemption: signals to stop.
        halt: the step that halted training, if any.
    """

    programs: Programs
    train: Pipeline
    evaluate: Callable[[PyTree], dict[str, float]]
    trained: Callable[[PyTree], Any]
    metrics: PyTree
    early_stopping: EarlyStopping
    declared: Mapping[str, Direction]
    saver: Saver
    watchers: Watchers
    steps: int
    end: str
    name: str = ""
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(init=False)
    preemption: Preemption = field(default_factory=Preemption)
    halt: Halt | None = None
    _earlier_seconds: float = 0.0

    def run(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str]:
        """Train from `progress` on. Returns the last state and progress, and the stop reason."""
        self._earlier_seconds = progress.seconds
        self.saver.begin(progress)
        self.pace = pace(lambda: self.clock.pace, progress.step)
        epochs = -(-self.steps // self.train.steps)
        plan = Plan(
            epochs, self.train.steps, self.steps, progress.step, progress.history, self.name
        )
        reason = "error"
        with ExitStack() as ends:
            for callback in self.watchers.present:
                self.watchers.tell_one(callback, "on_start", plan)
                ends.callback(lambda one=callback: self.watchers.tell_one(one, "on_stop", reason))
            ends.callback(self.pace.close)
            ends.enter_context(self.preemption)
            try:
                state, progress, reason = self._epochs(state, progress)
            except BaseException as error:
                activity.own.ending(error)
                failure = self.watchers.failure
                if failure is None or error is failure:
                    raise
                raise error from failure  # the save failed too
        return state, progress, reason

    def _epochs(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str]:
        """Train epoch by epoch, until there is a reason to stop."""
        reason = self.finished(progress)
        while reason is None:
            state, progress, reason = self._train(state, progress)
            if reason:
                break
            state, progress = self._evaluate(state, progress)
            # Before the epoch is saved: what callbacks write is then complete whenever a run is
            # killed, because an epoch that isn't saved is repeated.
            try:
                self._call_back(progress, state)
            except BaseException:
                # An error in a callback loses no epoch. (Several processes must save together.)
                if not processes.several():
                    self.saver.end_of_epoch(state, self._timed(progress))
                raise
            self.saver.end_of_epoch(state, self._timed(progress))
            reason = self.finished(progress)
        self.saver.save(state, self._timed(progress))
        self.saver.finish()
        self.watchers.raise_failure(self.saver.where(progress))
        return state, progress, reason

    def _train(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str | None]:
        """Train to the end of the epoch, a halt, a signal or a callback's request to stop."""
        chunks = self.train.chunks(
            progress.seed, progress.epoch, progress.position, self._chunk_size(progress)
        )
        may_halt = bool(halt_names(self.metrics))
        step = progress.step
        in_flight = None
        self.clock.restart()
        for feed, count in self.clock.timed(chunks, lambda: in_flight):  # noqa: B023
            before = self.programs.copy(state) if may_halt else None
            state, log = self.programs.train(progress.form, state, feed, count)
            progress = self._collect(in_flight, progress)
            in_flight = log
            step += count
            # A step that ends an epoch is saved once, after its evaluation.
            evaluated = step % self.train.steps == 0 or step == self.steps
            save = self.saver.due(step) and not evaluated
            preempted = self.preemption.asked() and not evaluated
            agree = self.pace.due(step)
            # Several processes share a callback's request where they synchronise anyway.
            heed = (bool(self.watchers.wish) and not processes.several()) or agree or save
            if not (heed or preempted or may_halt or self.clock.pace is None):
                continue
            if may_halt and (end := halted(self.programs, before, state, feed, log, progress)):
                state, kept, self.halt = end
                self.pace.close()
                return state, self._collect(log, progress, kept), self.halt.reason
            progress, in_flight = self._collect(in_flight, progress), None
            if preempted:
                self.pace.close()
                return state, progress, "preempted"
            if agree:
                self.pace.agree(step)
            if save:
                self.saver.save(state, self._timed(progress))
            if heed and not evaluated and (reason := self.watchers.asked()):
                self.pace.close()
                return state, progress, reason
            if agree or save:
                self.clock.restart()
        return state, self._collect(in_flight, progress), None

    def _collect(self, log: Log | None, progress: Progress, steps: int | None = None) -> Progress:
        """Wait for the metrics of a chunk, and add its (first `steps`) steps to the progress."""
        if log is None:
            return progress
        measured = jax.tree.map(lambda leaf: leaf[:steps], log.fetch())
        self.preemption.take_over()
        taken = len(jax.tree.leaves(measured)[0])
        self.clock.done(taken)
        activity.own.step = progress.step + taken
        progress = replace(
            progress,
            position=progress.position + taken,
            step=progress.step + taken,
            sums=add_steps(progress.sums, without_halts(measured)),
        )
        self.watchers.tell("on_chunk", progress.step, progress.means(self.metrics).get("loss"))
        return progress

    def _evaluate(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress]:
        """Evaluate at the end of an epoch, and update the state, early stopping and history."""
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            **progress.means(self.metrics),
            **self.evaluate(state),
        }
        rate = self.programs.learning_rate(state)
        if self.programs.after_evaluation:
            values = {name: np.float32(value) for name, value in row.items()}
            values = JudgedRow(values, self.declared)
            state = self.programs.after_evaluation(state, values)
        value = row[self.early_stopping.monitor or "loss"]
        stopping = self.early_stopping.update(progress.stopping, value, row["step"], row["epoch"])
        # Added last: it isn't a metric, and can't be monitored.
        row = row if rate is None else {**row, "learning_rate": rate}
        progress = replace(progress, history=progress.history.add(row), stopping=stopping)
        if progress.position == self.train.steps:  # unless `steps` ends the run within an epoch
            progress = replace(progress, epoch=progress.epoch + 1, position=0, sums=None)
        if stopping.best_step == progress.step:
            self.saver.keep_best(state, self._timed(progress))
        return state, progress

    def _call_back(self, progress: Progress, state: PyTree) -> None:
        """Call `on_epoch` of the callbacks with the epoch's row and the network."""
        if self.watchers.look:
            state = self.programs.forms.to_plain(state)
            state = processes.on_host(state) if processes.several() else state
        self.watchers.tell("on_epoch", progress.history.rows[-1], self.trained(state))

    def finished(self, progress: Progress) -> str | None:
        """The reason to stop before the next epoch, or None."""
        if progress.stopping.reason:
            return progress.stopping.reason
        rows = progress.history.rows
        evaluated = bool(rows) and rows[-1]["step"] == progress.step
        if progress.step >= self.steps and evaluated:
            return self.end
        return "preempted" if self.preemption.asked() else self.watchers.asked()

    def _chunk_size(self, progress: Progress) -> Callable[[int], int]:
        """The number of steps of the next dispatch, as a function of the position in the epoch."""
        offset = progress.step - progress.position
        most = self.programs.steps_with(self.metrics)

        def size(position: int) -> int:
            step = offset + position
            within = self.saver.until_due(step) or most
            return min(self.steps - step, within, self.pace.steps(step), most)

        return size

    def _timed(self, progress: Progress) -> Progress:
        return replace(progress, seconds=self._earlier_seconds + self.clock.seconds())
