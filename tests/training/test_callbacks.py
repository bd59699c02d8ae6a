"""Callbacks: any object with some of the methods, and how one ends a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxnet.errors import UsageError
from jaxnet.training import Callback, Checkpoints, Trainer
from tests.training.helpers import bits, classifier, table

pytestmark = pytest.mark.usefixtures("shared_programs")

DATA, VALID = table(40), table(20, seed=1)
TASK = classifier()


class Rows:
    """A plain class with one method."""

    def __init__(self, enough: int | None = None) -> None:
        self.rows: list[Any] = []
        self.enough = enough

    def on_epoch(self, row, trained):
        self.rows.append((row["epoch"], int(trained.state.step)))
        return "good enough" if row["epoch"] == self.enough else None


class Steps:
    """Another one, which wants no more than some steps."""

    def __init__(self, most: int) -> None:
        self.most, self.told = most, []

    def on_chunk(self, step, loss):
        self.told.append((step, loss))
        return "out of time" if step >= self.most else None

    def on_stop(self, reason):
        self.told.append(reason)


class History:
    """It ends a run that has had its epochs before it begins."""

    def on_start(self, plan):
        return "had enough" if len(plan.history) >= 2 else None


def fit(callbacks: list[Any], folder: Any = None, epochs: int = 4) -> Any:
    checkpoints = Checkpoints(folder, min_seconds=0) if folder else None
    trainer = Trainer(TASK, checkpoints=checkpoints, callbacks=callbacks, steps_per_dispatch=2)
    return trainer.fit(DATA, VALID, epochs=epochs, batch_size=8)


@pytest.mark.slow
def test_a_callback_ends_the_run_with_its_reason_and_the_same_call_goes_on(tmp_path):
    whole = fit([])
    rows, steps = Rows(enough=2), Steps(most=7)
    first = fit([steps], tmp_path)
    # Within an epoch of 5 steps; the chunk that was under way is taken, and counts.
    assert first.stop_reason == "out of time" and 7 <= first.last_step < 10
    assert steps.told[-1] == "out of time" and len(first.history) == 1
    second = fit([rows, Callback()], tmp_path)
    assert (second.stop_reason, second.last_step) == ("good enough", 10)
    assert rows.rows == [(2, 10)]
    third = fit([History()], tmp_path)
    assert (third.stop_reason, third.last_step) == ("had enough", 10)
    last = fit([], tmp_path)
    assert (last.stop_reason, last.last_step) == ("epochs", 20)
    assert bits(last.state) == bits(whole.state)
    assert last.history == whole.history


def test_the_best_state_is_restored_when_a_callback_ends_the_run():
    result = fit([Rows(enough=3)])
    best = int(np.argmin(result.history["val_loss"]))
    assert result.best_step == result.history["step"][best] == int(result.state.step)
    assert len(result.history) == 3


def test_what_ends_a_run_by_itself_is_its_reason():
    assert fit([Rows(enough=2)], epochs=2).stop_reason == "epochs"


class Misspelt:
    def on_epoch_end(self, row, state): ...


class Truth:
    def on_epoch(self, row, state):
        return True


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Rows, r"got the class Rows: pass an instance of it"),
        (Misspelt(), r"Misspelt has on_epoch_end, which is never called"),
        (print, r"methods on_start, on_chunk, on_epoch, on_stop; .* has none of them"),
        (Truth(), r"Truth.on_epoch returned True: expected None, or a string"),
    ],
)
def test_what_cannot_be_a_callback_is_refused(callback, message):
    with pytest.raises(UsageError, match=message):
        fit([callback], epochs=1)
