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

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxnet import ending
from jaxnet.cluster import activity, processes
from jaxnet.data.pipeline.epochs import Chunk, Pipeline
from jaxnet.metrics.direction import Direction
from jaxnet.training.callbacks import Plan, Watchers
from jaxnet.training.checkpoints import CheckpointStore
from jaxnet.training.dispatch_size import Pace, pace
from jaxnet.training.early_stopping import EarlyStopping
from jaxnet.training.history import JudgedRow, add_steps, as_metrics, computed, scalars
from jaxnet.training.kept import Kept
from jaxnet.training.preemption import Preemption
from jaxnet.training.programs import Log, Programs, halt_names, halt_reason, without_halts
from jaxnet.training.progress import Progress

PyTree = Any


@dataclass(frozen=True)
class Halt:
    """A step that ended training.

    Attributes:
        reason: the metric `halt/REASON` that the step reported.
        step: the number of steps before it. With a task that has `sound` the state is the one after
            these, and otherwise the one that this step gave.
        batch: the batch that the step was given.
    """

    reason: str
    step: int
    batch: dict[str, Any]


@dataclass
class Clock:
    """Where the time of this process goes.

    Attributes:
        begun: when it began, in seconds of `time.perf_counter`.
        compiling: seconds until the first chunk was done, which compiles; None before.
        training: seconds of taking steps after that.
        waiting: seconds of these in which the device had nothing to do because data was missing.
        steps: the steps taken in them.
        pace: seconds a step, lately; None before it is known.
    """

    begun: float = field(default_factory=time.perf_counter)
    compiling: float | None = None
    training: float = 0.0
    waiting: float = 0.0
    steps: int = 0
    pace: float | None = None
    _since: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """Seconds since this clock began."""
        return time.perf_counter() - self.begun

    def restart(self) -> None:
        """What went before was no training."""
        self._since = time.perf_counter()

    def done(self, steps: int) -> None:
        """So many steps are known to be done."""
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        if self.compiling is None:
            self.compiling = self.seconds()
            self.waiting = 0.0
            return
        self.training += elapsed
        self.steps += steps
        self.pace = elapsed / max(steps, 1)

    def _announce(self) -> None:
        """Say that steps are taken, the first of which compiles."""
        if self.compiling is None:
            doing = "compiling, and taking the first steps"
            activity.own.begin(doing, activity.COMPILING, waits=True)
            ending.begin(doing)
        else:
            activity.own.begin("taking steps", waits=True)

    def timed(self, chunks: Iterator[Chunk], busy: Callable[[], Log | None]) -> Iterator[Chunk]:
        """The chunks; counted as waiting is the time that the device stands idle for one.

        A thread watches when the device is done: what comes before that kept nobody waiting,
        however long it took.

        Args:
            chunks: what to take steps from.
            busy: what the device is at work on, as far as that isn't known to be done.
        """
        with ThreadPoolExecutor(1, "jaxnet-clock") as watch:
            while True:
                asked = time.perf_counter()
                work = busy()
                done = watch.submit(_end, work) if work else None
                activity.own.begin("waiting for data")
                chunk = next(chunks, None)
                self._announce()
                arrived = time.perf_counter()
                if done is None:
                    self.waiting += arrived - asked
                elif done.done():
                    self.waiting += arrived - max(asked, done.result())
                if chunk is None:
                    return
                yield chunk


def _end(work: Log) -> float:
    """When the device is done with it."""
    jax.block_until_ready(work.parts)
    return time.perf_counter()


@dataclass
class Loop:
    """One call of `Trainer.fit`.

    Attributes:
        programs: the compiled task.
        train: what to learn from.
        evaluate: the validation metrics of a state; none without validation data.
        metrics: a training step's metrics, as shapes.
        early_stopping: when to stop, resolved for what this run measures.
        declared: which way the metrics get better, as they say themselves, by column.
        store: where to save, if anywhere.
        save_every: save after so many steps, and not only after epochs.
        save_seconds: skip the save after an epoch where the last save is younger than this.
        watchers: whom to tell, and what they want.
        steps: the number of steps in all.
        end: the reason to report when they are done.
    """

    programs: Programs
    train: Pipeline
    evaluate: Callable[[PyTree], dict[str, Any]]
    metrics: PyTree
    early_stopping: EarlyStopping
    declared: Mapping[str, Direction]
    store: CheckpointStore | None
    save_every: int | None
    save_seconds: float
    watchers: Watchers
    steps: int
    end: str
    name: str = ""
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(init=False)
    preemption: Preemption = field(default_factory=Preemption)
    best: Kept | None = None
    halt: Halt | None = None
    _earlier_seconds: float = 0.0
    # The step that was saved last, and when; and the best one's progress while that isn't saved.
    _saved: int = -1
    _saved_at: float = field(default_factory=time.perf_counter)
    _unsaved_best: Progress | None = None

    def run(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress, str]:
        """Train from here on. Returns the last state and progress, and why training ended."""
        self._earlier_seconds = progress.seconds
        self._saved = progress.step or -1
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
                    self._save_due(state, progress)
                raise
            self._save_due(state, progress)
            reason = self.finished(progress)
        self._save(state, progress)
        if self.store:
            with activity.own.within(f"saving into {self.store.folder}", activity.SAVING):
                self.store.finish()
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
            save = bool(self.save_every) and step % self.save_every == 0 and not judged
            preempted = self.preemption.asked() and not judged
            agree = self.pace.due(step)
            # The other processes hear of a wish where all wait for each other anyway.
            heed = (bool(self.watchers.wish) and not processes.several()) or agree or save
            if not (heed or preempted or may_halt or self.clock.pace is None):
                continue
            if may_halt and (halted := self._halted(before, state, feed, log, progress)):
                self.pace.close()
                return *halted, self.halt.reason if self.halt else None
            progress, in_flight = self._collect(in_flight, progress), None
            if preempted:
                self.pace.close()
                return state, progress, "preempted"
            if agree:
                self.pace.agree(step)
            if save:
                self._save(state, progress)
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
        self.watchers.tell("on_chunk", progress.step, self._measured(progress).get("loss"))
        return progress

    def _halted(
        self, before: PyTree, state: PyTree, feed: Any, log: Log, progress: Progress
    ) -> tuple[PyTree, Progress] | None:
        """State and progress to end with, if a step of the chunk ended training."""
        metrics = log.fetch()
        reason = halt_reason(metrics)
        taken = kept = len(jax.tree.leaves(metrics)[0])
        sound = self.programs.sound
        if sound and (reason or not sound(before, state)):
            reason = reason or halt_names(self.metrics)[0]

            def again(steps: int) -> PyTree:
                start = self.programs.copy(before)
                return self.programs.train(progress.form, start, feed, steps)[0]

            state, kept = _rewound(before, again, sound, taken - (halt_reason(metrics) is not None))
        if reason is None:
            return None
        halting = min(kept, taken - 1)
        self.halt = Halt(reason, progress.step + halting, processes.on_host(feed.batch(halting)))
        return state, self._collect(log, progress, kept)

    def _judge(self, state: PyTree, progress: Progress) -> tuple[PyTree, Progress]:
        """The end of an epoch: evaluate, and let the task and early stopping judge."""
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            **self._measured(progress),
            **self._evaluated(state),
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
            self.best = Kept.of(state, self.programs.copy)
            self._unsaved_best = self._timed(progress)
        return state, progress

    def _evaluated(self, state: PyTree) -> dict[str, float]:
        with activity.own.within("evaluating", activity.EVALUATING):
            return scalars(self.evaluate(state))

    def _show(self, progress: Progress, state: PyTree) -> None:
        """The last of an epoch: tell the callbacks, and lend them the state."""
        if self.watchers.look:
            state = self.programs.forms.to_plain(state)
            state = processes.on_host(state) if processes.several() else state
        self.watchers.tell("on_epoch", progress.history.rows[-1], state)

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
            left = self.steps - offset - position
            if self.save_every:
                left = min(left, self.save_every - (offset + position) % self.save_every)
            return min(left, self.pace.steps(offset + position), most)

        return size

    def _measured(self, progress: Progress) -> dict[str, float]:
        """The means over the epoch so far."""
        if progress.sums is None:
            return {}
        return scalars(computed(as_metrics(progress.sums, without_halts(self.metrics))))

    def _save_due(self, state: PyTree, progress: Progress) -> None:
        """Save the end of an epoch, unless the last save is too young."""
        if self.store is None:
            return
        waited = time.perf_counter() - self._saved_at
        if processes.from_first(lambda: waited >= self.save_seconds):
            self._save(state, progress)

    def _save(self, state: PyTree, progress: Progress) -> None:
        """Save a step that isn't saved yet, and before it the best one."""
        if self.store is None or progress.step == self._saved:
            return
        best, pending = progress.stopping.best_step, self._unsaved_best
        plain = self.programs.forms.to_plain
        with activity.own.within(f"saving into {self.store.folder}", activity.SAVING):
            if pending is not None and self.best and pending.step < progress.step:
                self.store.save(best, plain(self.best.state()), pending.to_json(), best)
            self.store.save(progress.step, plain(state), self._timed(progress).to_json(), best)
        self._saved, self._saved_at, self._unsaved_best = progress.step, time.perf_counter(), None

    def _timed(self, progress: Progress) -> Progress:
        return replace(progress, seconds=self._earlier_seconds + self.clock.seconds())


def _rewound(
    before: PyTree,
    train: Callable[[int], PyTree],
    sound: Callable[[PyTree, PyTree], Any],
    most: int,
) -> tuple[PyTree, int]:
    """The last sound state of a chunk, and the number of steps that lead to it.

    The chunk is taken again from its beginning, `before`, with fewer steps and by the same
    program, so that a healthy run pays for one copy and one check a chunk, not for one a step.
    """
    low, high, kept = 0, most + 1, before
    steps = most
    while high - low > 1:
        state = train(steps)
        if sound(before, state):
            low, kept = steps, state
        else:
            high = steps
        steps = (low + high) // 2
    return kept, low
