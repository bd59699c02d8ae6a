"""The schedule of checkpoints, and the copy of the best state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxnet.cluster import activity, processes
from jaxnet.training.checkpoints import CheckpointStore
from jaxnet.training.kept import Kept
from jaxnet.training.progress import Progress

PyTree = Any


@dataclass
class Saver:
    """Saves each step at most once, and the best step before any later one.

    So a run can be resumed from each checkpoint alone.

    Attributes:
        store: the checkpoint store; None saves nothing.
        every_steps: the interval of saves within epochs; None saves at their end only.
        min_seconds: skip the save after an epoch if the last save is more recent than this.
        copy: copies a state on its devices.
        to_plain: converts a state to the plain form, which is saved.
        best: a copy of the best state.
    """

    store: CheckpointStore | None
    every_steps: int | None
    min_seconds: float
    copy: Callable[[PyTree], PyTree]
    to_plain: Callable[[PyTree], PyTree]
    best: Kept | None = None
    # The last saved step, its time, and the progress of the best step while it isn't saved.
    _saved: int = -1
    _saved_at: float = field(default_factory=time.perf_counter)
    _unsaved_best: Progress | None = None

    def begin(self, progress: Progress) -> None:
        """Start from `progress`, which is already saved unless it is step 0."""
        self._saved = progress.step or -1

    def due(self, step: int) -> bool:
        """Whether to save at a step within an epoch."""
        return bool(self.every_steps) and step % self.every_steps == 0

    def until_due(self, step: int) -> int | None:
        """The number of steps until the next save within an epoch; None if there is none."""
        return self.every_steps - step % self.every_steps if self.every_steps else None

    def keep_best(self, state: PyTree, progress: Progress) -> None:
        """Keep a copy of the best state so far."""
        self.best = Kept.of(state, self.copy)
        self._unsaved_best = progress

    def end_of_epoch(self, state: PyTree, progress: Progress) -> None:
        """Save at the end of an epoch, unless the last save is too recent."""
        if self.store is None:
            return
        waited = time.perf_counter() - self._saved_at
        if processes.from_first(lambda: waited >= self.min_seconds):
            self.save(state, progress)

    def save(self, state: PyTree, progress: Progress) -> None:
        """Save a step unless it is saved already, and the best step before it."""
        if self.store is None or progress.step == self._saved:
            return
        best, pending = progress.stopping.best_step, self._unsaved_best
        with activity.own.within(f"saving into {self.store.folder}", activity.SAVING):
            if pending is not None and self.best and pending.step < progress.step:
                kept = self.to_plain(self.best.state())
                self.store.save(best, kept, pending.to_json(), best)
            self.store.save(progress.step, self.to_plain(state), progress.to_json(), best)
        self._saved, self._saved_at, self._unsaved_best = progress.step, time.perf_counter(), None

    def finish(self) -> None:
        """Wait until all saves are on disk."""
        if self.store:
            with activity.own.within(f"saving into {self.store.folder}", activity.SAVING):
                self.store.finish()

    def where(self, progress: Progress) -> str:
        """Where the run was saved last, as a sentence for an error message."""
        if self.store is None:
            return "Nothing was saved: the Trainer has no checkpoints."
        return (
            f"The run is saved at step {progress.step} in {self.store.folder}: the same call "
            "continues from there."
        )
