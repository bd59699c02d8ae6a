"""When a run saves, and the copy of its best state."""

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
    """Saves each step at most once, and the best step before any that comes after it.

    So each checkpoint is enough to go on from.

    Attributes:
        store: where to save, if anywhere.
        every_steps: save this often, and not only after epochs.
        min_seconds: skip the save after an epoch where the last save is younger than this.
        copy: copies a state on its devices.
        to_plain: gives the plain form of a state, which is saved.
        best: a copy of the best state.
    """

    store: CheckpointStore | None
    every_steps: int | None
    min_seconds: float
    copy: Callable[[PyTree], PyTree]
    to_plain: Callable[[PyTree], PyTree]
    best: Kept | None = None
    # The step that was saved last, and when; and the best one's progress while that isn't saved.
    _saved: int = -1
    _saved_at: float = field(default_factory=time.perf_counter)
    _unsaved_best: Progress | None = None

    def begin(self, progress: Progress) -> None:
        """The run goes on from a step that is saved already, unless it is the first."""
        self._saved = progress.step or -1

    def due(self, step: int) -> bool:
        """Whether a step within an epoch is to be saved."""
        return bool(self.every_steps) and step % self.every_steps == 0

    def until_due(self, step: int) -> int | None:
        """The number of steps until the next one that is; None where none is."""
        return self.every_steps - step % self.every_steps if self.every_steps else None

    def keep_best(self, state: PyTree, progress: Progress) -> None:
        """Copy the best state so far."""
        self.best = Kept.of(state, self.copy)
        self._unsaved_best = progress

    def end_of_epoch(self, state: PyTree, progress: Progress) -> None:
        """Save the end of an epoch, unless the last save is too young."""
        if self.store is None:
            return
        waited = time.perf_counter() - self._saved_at
        if processes.from_first(lambda: waited >= self.min_seconds):
            self.save(state, progress)

    def save(self, state: PyTree, progress: Progress) -> None:
        """Save a step that isn't saved yet, and before it the best one."""
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
        """Wait until all is on the disk."""
        if self.store:
            with activity.own.within(f"saving into {self.store.folder}", activity.SAVING):
                self.store.finish()
