"""Who holds up a job whose processes all live."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from jaxnet.cluster.activity import Activity, State, shown_threads, stalled

PATIENCE = 30.0


def at(
    doing: str, seconds: float, step: int = 7, factor: float = 1.0, waits: bool = False
) -> State:
    return State(doing, step, seconds, "12:00:00", factor, waits)


STEPS = at("taking steps", 31, waits=True)
OUTSIDE = State(step=7)


@pytest.mark.parametrize(
    ("states", "guilty"),
    [
        ([STEPS, at("waiting for data", 31)], [1]),
        ([STEPS, at("waiting for data", 29)], []),  # it still has time
        ([STEPS, at("saving", 40, factor=2)], []),
        ([STEPS, at("saving", 61, factor=2)], [1]),
        ([at("in a callback", 61, factor=2), STEPS, STEPS], [0]),
        ([STEPS, OUTSIDE], [1]),
        ([OUTSIDE, at("taking steps", 29, waits=True)], []),
        ([OUTSIDE, OUTSIDE], []),
        ([STEPS, STEPS, at("taking steps", 31, 6, waits=True)], [2]),
        ([STEPS, STEPS], [0, 1]),
    ],
)
def test_who_holds_up_the_others(states, guilty):
    said = stalled({f"process {n}": state for n, state in enumerate(states)}, PATIENCE)
    assert [n for n in range(len(states)) if f"process {n} " in (said or "")] == guilty


def test_what_is_announced_counts_from_then_on():
    activity = Activity()
    with activity.training():
        activity.begin("taking steps", waits=True)
        activity._began -= 100
        assert activity.now().over(PATIENCE)
        with activity.within("saving", 2.0):
            assert not activity.now().over(PATIENCE)
            activity._began -= 50
            assert activity.now().seconds > 49 and not activity.now().over(PATIENCE)
        assert (activity.now().doing, activity.now().waits) == ("taking steps", True)
        assert not activity.now().over(PATIENCE)
        activity._began -= 100
        activity.forgive(90)  # it stood still
        assert not activity.now().over(PATIENCE)
    assert math.isinf(activity.now().factor) and not activity.left_early


def test_an_error_is_what_it_is_at_until_training_is_left():
    activity = Activity()
    with pytest.raises(ZeroDivisionError), activity.training():
        try:
            with activity.within("evaluating", 3.0):
                raise ZeroDivisionError("mine")
        except ZeroDivisionError as error:
            activity.ending(error)
            assert activity.now().doing == "ending after ZeroDivisionError: mine"
            raise
    assert activity.left_early and activity.now().outside
    assert activity.now().doing == "out of training after ZeroDivisionError: mine"
    with activity.training():
        assert not activity.left_early


def test_a_message_holds_a_state():
    for state in (STEPS, OUTSIDE, at("x", 1.0)):
        assert State.from_json(state.to_json()) == state


def test_the_threads_of_the_pipeline_are_shown():
    ready, done = threading.Event(), threading.Event()

    def hang_here() -> Any:
        ready.set()
        done.wait()

    thread = threading.Thread(target=hang_here, name="jaxnet-reader_0")
    thread.start()
    ready.wait()
    shown = "\n".join(shown_threads())
    done.set()
    thread.join()
    assert "thread MainThread:" in shown and "shown_threads()" in shown
    assert "thread jaxnet-reader_0:" in shown and "in hang_here: done.wait()" in shown
