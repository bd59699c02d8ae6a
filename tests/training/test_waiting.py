"""`data_wait_share`: the device waits only while it has nothing else to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax.numpy as jnp
import pytest

from jaxnet.data.pipeline.epochs import Chunk
from jaxnet.training import clock as clocks
from jaxnet.training.clock import Clock
from jaxnet.training.programs import Log

BEGIN, TAKES = 100.0, 3.0


class Device:
    """Stands in for the clock, and for the thread that watches when the device is done."""

    now = BEGIN
    done_at: float | None = None

    def perf_counter(self) -> float:
        return self.now

    def submit(self, end: Callable[[Log], float], work: Log) -> Future[float]:
        future: Future[float] = Future()
        if self.done_at is not None:
            future.set_result(self.done_at)
        return future

    def __call__(self, *_) -> Device:
        return self

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_) -> None:
        pass


@pytest.mark.parametrize(
    ("busy", "done_at", "expected"),
    [
        (False, None, TAKES),  # nothing to do all the time
        (True, None, 0.0),  # still at work when the data comes
        (True, BEGIN - 1, TAKES),  # done before the data was asked for
        (True, BEGIN + 1, TAKES - 1),
        (True, BEGIN + 2.5, TAKES - 2.5),
    ],
)
def test_the_device_waits_from_when_it_is_done_until_data_comes(
    monkeypatch, busy, done_at, expected
):
    device = Device()
    device.done_at = done_at
    monkeypatch.setattr(clocks, "time", device)
    monkeypatch.setattr(clocks, "ThreadPoolExecutor", device)

    def chunks() -> Iterator[Chunk]:
        device.now += TAKES
        yield Chunk(None, 1)

    clock = Clock()
    made = clock.timed(chunks(), lambda: Log((), 1) if busy else None)
    next(made)
    assert clock.waiting == expected


def test_the_end_of_work_is_when_its_results_are_there(monkeypatch):
    device = Device()
    monkeypatch.setattr(clocks, "time", device)
    with ThreadPoolExecutor(1) as watch:
        assert watch.submit(clocks._end, Log(({"loss": jnp.ones(3)},), 3)).result() == BEGIN
