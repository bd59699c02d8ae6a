"""Where the time of a run goes: compiling, taking steps, waiting for data."""

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
    """Measures where the time of this process goes.

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
