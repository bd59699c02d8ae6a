"""A signal to stop ends training at the next boundary, and the same run goes on from there."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from jaxnet.training import Callback, Checkpoints, Trainer
from jaxnet.training.preemption import Preemption
from tests.training.helpers import bits, classifier, saved_steps, table
from tests.training.processes import finished, finished_here, result_of, start

STEPS = 8  # an epoch
EPOCHS = 3
SIGNALS = [signal.SIGTERM, signal.SIGINT]


# --- the wish ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_a_second_one_acts_as_before(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append(number))
    try:
        with Preemption() as preemption:
            assert preemption.requested is None
            signal.raise_signal(number)
            assert preemption.requested == number.name
            assert not seen
            signal.raise_signal(number)
            assert seen == [number]
        signal.raise_signal(number)
        assert seen == [number, number]
    finally:
        signal.signal(number, before)


def test_handlers_come_back_after_an_error():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), Preemption():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_another_thread_trains_without_handlers():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    inside: list[Any] = []

    def run() -> None:
        with Preemption() as preemption:
            inside.extend(signal.getsignal(number) for number in SIGNALS)
            inside.append(preemption.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [*handlers, None]


# --- the loop ----------------------------------------------------------------------------------


@dataclass
class Signals(Callback):
    """Sends SIGTERM to this very process when a chunk or an epoch has come to a step."""

    at: list[tuple[str, int]] = field(default_factory=list)

    def _send(self, event: tuple[str, int]) -> None:
        if event in self.at:
            self.at.remove(event)
            signal.raise_signal(signal.SIGTERM)

    def on_chunk(self, step: int, loss: float | None) -> None:
        self._send(("chunk", step))

    def on_epoch(self, row: Any, trained: Any) -> None:
        self._send(("epoch", int(row["step"])))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that trains with signals in a folder; all runs share the compiled programs."""
    folder, signals = tmp_path_factory.mktemp("run") / "checkpoints", Signals()
    trainer = Trainer(
        classifier(), checkpoints=Checkpoints(folder), callbacks=[signals], steps_per_dispatch=1
    )

    def fit(*at: tuple[str, int], resume: bool = False) -> Any:
        signals.at = list(at)
        result = trainer.fit(
            table(30), table(12, seed=1), epochs=EPOCHS, batch_size=4, resume=resume
        )
        assert not signals.at
        return result, folder

    return fit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "last_step", "rows"),
    [
        (("chunk", 1), 2, 0),
        (("chunk", 11), 12, 1),
        (("chunk", STEPS - 1), STEPS, 1),  # what is due to be judged is judged
        (("chunk", STEPS), STEPS, 1),
        (("epoch", STEPS), STEPS, 1),
        (("chunk", EPOCHS * STEPS - 3), EPOCHS * STEPS - 2, EPOCHS - 1),
    ],
)
def test_ends_at_the_next_boundary_and_goes_on_from_there(event, last_step, rows, run):
    whole, _ = run()
    preempted, folder = run(event)
    assert preempted.stop_reason == "preempted"
    assert preempted.last_step == last_step
    assert len(preempted.history) == rows
    assert saved_steps(folder)[-1] == last_step
    resumed, _ = run(resume=True)
    assert resumed.stop_reason == "epochs"
    assert resumed.history == whole.history
    assert bits(resumed.state) == bits(whole.state)


@pytest.mark.parametrize("event", ["chunk", "epoch"])
def test_a_run_that_is_done_anyway_is_done(event, run):
    whole, _ = run()
    result, _ = run((event, EPOCHS * STEPS))
    assert result.stop_reason == "epochs"
    assert result.history == whole.history


def test_without_checkpoints_it_ends_too():
    signals = Signals([("chunk", 5)])
    trainer = Trainer(classifier(), callbacks=[signals], steps_per_dispatch=1)
    result = trainer.fit(table(30), epochs=EPOCHS, batch_size=4)
    assert (result.stop_reason, result.last_step) == ("preempted", 6)


# --- a real process -----------------------------------------------------------------------------

OPTIONS = {"epochs": 8, "sleep": 0.05}


def _when_at(process: subprocess.Popen[str], step: int) -> int:
    """Wait until the process says that it has come to `step` or further."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return int(line)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()[1]}")


@pytest.mark.slow
def test_a_process_saves_and_exits_and_the_same_command_goes_on(tmp_path):
    process = start(tmp_path / "run", **OPTIONS)
    step = _when_at(process, 20)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    result = result_of(tmp_path / "run")
    assert result is not None
    assert result["stop_reason"] == "preempted"
    # A chunk is 4 steps; one may be on its way and another be dispatched.
    assert step <= result["last_step"] <= step + 3 * 4
    saved = saved_steps(tmp_path / "run" / "checkpoints")[-1]
    assert saved == result["last_step"]
    expected = finished_here(tmp_path / "whole", **{**OPTIONS, "sleep": 0})
    assert finished(tmp_path / "run", **{**OPTIONS, "sleep": 0}) == expected


@pytest.mark.slow
def test_a_process_that_is_asked_again_ends_at_once(tmp_path):
    process = start(tmp_path / "run", epochs=8, sleep=1000)
    _when_at(process, 1)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)  # signals that come together count once
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert result_of(tmp_path / "run") is None


@pytest.mark.slow
def test_preempted_at_random_moments(tmp_path):
    options = {"epochs": 30, "every_steps": 3, "sleep": 0.02}
    expected = finished_here(tmp_path / "whole", **options)
    moments, folder = random.Random(0), tmp_path / "run"
    last_steps = [0]
    while len(last_steps) <= 2:
        process = start(folder, **options)
        _when_at(process, last_steps[-1] + 1)
        time.sleep(moments.uniform(0.0, 0.4))
        process.send_signal(moments.choice(SIGNALS))
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, "")
        result = result_of(folder)
        assert result is not None
        assert result["stop_reason"] == "preempted"
        last_steps.append(result["last_step"])
    assert last_steps == sorted(set(last_steps))
    assert finished(folder, **options) == expected
