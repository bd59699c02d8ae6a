"""Timing of a run: compiling, training, waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax

from jaxnet import ending
from jaxnet.cluster import activity
from jaxnet.data.pipeline.device_batches import Chunk
from jaxnet.training.programs import Log


@dataclass
class Clock:
    """Measures compile, training and data-wait time of this process.

    Attributes:
        begun: the start time, in seconds of `time.perf_counter`.
        compiling: seconds until the first chunk, which compiles, was done; None before.
        training: seconds of training after that.
        waiting: the part of `training` in which the device was idle for lack of data.
        steps: the number of steps in `training`.
        pace: seconds per step in the latest chunk; None before it is known.
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
        """Exclude the time since the last chunk, such as an evaluation, from `training`."""
        self._since = time.perf_counter()

    def done(self, steps: int) -> None:
        """Record that `steps` steps finished."""
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        if self.compiling is None:
            self.compiling = self.seconds()
            self.waiting = 0.0
            return
        self.training += elapsed
        self.steps += steps
        self.pace = elapsed / max(steps, 1)

    def _announce(self) -> None:
        """Announce that training steps, the first of which compiles, are running."""
        if self.compiling is None:
            doing = "compiling, and taking the first steps"
            activity.own.begin(doing, activity.COMPILING, waits=True)
            ending.begin(doing)
        else:
            activity.own.begin("taking steps", waits=True)

    def timed(self, chunks: Iterator[Chunk], busy: Callable[[], Log | None]) -> Iterator[Chunk]:
        """Yield the chunks; `waiting` grows by the time that the device is idle for lack of one.

        A thread records when the device finishes its work: loading before that costs nothing,
        however long it takes.

        Args:
            chunks: the chunks to train on.
            busy: the dispatch in flight, or None.
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
    """Block until the device has finished `work`; the time at which it did."""
    jax.block_until_ready(work.parts)
    return time.perf_counter()
