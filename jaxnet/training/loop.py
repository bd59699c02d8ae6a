"""The training loop, on a page.

Its order is deliberate:

1. dispatch a chunk of steps, and only then fetch what the chunk before it measured, so that
   the device never waits for the host;
2. save between chunks, so that a checkpoint is one moment of the run, and its best step before
   it, so that each checkpoint is enough to go on from;
3. at the end of an epoch evaluate, let the task and early stopping judge, save, and tell the
   callbacks last, so that what they report is on its way to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxnet.cluster import activity, processes
from jaxnet.data.pipeline.epochs import Pipeline
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
        train: what to learn from.
        evaluate: the validation metrics of a state; none without validation data.
        trained: the network with a state, as callbacks are lent it.
        metrics: a training step's metrics, as shapes.
        early_stopping: when to stop, resolved for what this run measures.
        declared: which way the metrics get better, as they say themselves, by column.
        saver: when to save, and where.
        watchers: the callbacks, and what they ask for.
        steps: the number of steps in all.
        end: the reason to report when they are done.
        name: what the run is called where its progress is shown.
        clock: measures it.
        halt: the step that ended training, once there is one.
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
        """Train from here on. Returns the last state and progress, and why training ended."""
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
                raise
        return state, progress, reason

    def _epochs(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str]:
        """Epoch after epoch, until there is a reason to stop."""
        reason = self.finished(progress)
        while reason is None:
            state, progress, reason = self._train(state, progress)
            if reason:
                break
            state, progress = self._judge(state, progress)
            # Before the epoch is saved, and so done: what callbacks write of it is then complete
            # whenever a run is killed, because an epoch that isn't saved is taken again.
            try:
                self._show(progress, state)
            except BaseException:
                # A callback's own fault loses no epoch. (Of several processes all save together.)
                if not processes.several():
                    self.saver.end_of_epoch(state, self._timed(progress))
                raise
            self.saver.end_of_epoch(state, self._timed(progress))
            reason = self.finished(progress)
        self.saver.save(state, self._timed(progress))
        self.saver.finish()
        return state, progress, reason

    def _train(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str | None]:
        """The steps that are left of the epoch, up to its end, a halt, a signal or a wish."""
        chunks = self.train.chunks(
            progress.seed, progress.epoch, progress.position, self._wanted(progress)
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
            # What is going to be judged is saved after that: a step has one checkpoint.
            judged = step % self.train.steps == 0 or step == self.steps
            save = self.saver.due(step) and not judged
            preempted = self.preemption.asked() and not judged
            agree = self.pace.due(step)
            # The other processes hear of a wish where all wait for each other anyway.
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
            if heed and not judged and (reason := self.watchers.asked()):
                self.pace.close()
                return state, progress, reason
            if agree or save:
                self.clock.restart()
        return state, self._collect(in_flight, progress), None

    def _collect(self, log: Log | None, progress: Progress, steps: int | None = None) -> Progress:
        """Wait for what a chunk measured, and count its steps (or the first `steps`) as done."""
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

    def _judge(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress]:
        """The end of an epoch: evaluate, and let the task and early stopping judge."""
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
        # Not before: it is nothing that was measured, and no metric to watch.
        shown = row if rate is None else {**row, "learning_rate": rate}
        progress = replace(progress, history=progress.history.add(shown), stopping=stopping)
        if progress.position == self.train.steps:  # and not in an epoch that the run's end cuts
            progress = replace(progress, epoch=progress.epoch + 1, position=0, sums=None)
        if stopping.best_step == progress.step:
            self.saver.keep_best(state, self._timed(progress))
        return state, progress

    def _show(self, progress: Progress, state: PyTree) -> None:
        """The last of an epoch: tell the callbacks, and lend them the network."""
        if self.watchers.look:
            state = self.programs.forms.to_plain(state)
            state = processes.on_host(state) if processes.several() else state
        self.watchers.tell("on_epoch", progress.history.rows[-1], self.trained(state))

    def finished(self, progress: Progress) -> str | None:
        """Why there is nothing left to do, if that is so."""
        if progress.stopping.reason:
            return progress.stopping.reason
        rows = progress.history.rows
        judged = bool(rows) and rows[-1]["step"] == progress.step
        if progress.step >= self.steps and judged:
            return self.end
        return "preempted" if self.preemption.asked() else self.watchers.asked()

    def _wanted(self, progress: Progress) -> Callable[[int], int]:
        """How many steps the next dispatch should take, by the position in the epoch."""
        offset = progress.step - progress.position
        most = self.programs.steps_with(self.metrics)

        def size(position: int) -> int:
            step = offset + position
            within = self.saver.until_due(step) or most
            return min(self.steps - step, within, self.pace.steps(step), most)

        return size

    def _timed(self, progress: Progress) -> Progress:
        return replace(progress, seconds=self._earlier_seconds + self.clock.seconds())
