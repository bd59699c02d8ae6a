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


class Fails:
    """It raises an exception at an epoch or a step, once it is told to."""

    def __init__(self, epoch: int | None = None, step: int | None = None) -> None:
        self.epoch, self.step, self.told = epoch, step, []

    def on_chunk(self, step, loss):
        self.told.append(step)
        if self.step is not None and step >= self.step:
            raise KeyError("val_acuracy")

    def on_epoch(self, row, trained):
        self.told.append(row["epoch"])
        if row["epoch"] == self.epoch:
            raise KeyError("val_acuracy")

    def on_stop(self, reason):
        self.told.append(reason)


@pytest.mark.parametrize(
    ("where", "method", "steps"),
    [
        ({"epoch": 1}, "on_epoch", (5,)),
        ({"epoch": 4}, "on_epoch", (20,)),
        # A chunk that is under way is taken, and saved.
        ({"step": 6}, "on_chunk", range(7, 11)),
    ],
    ids=["first epoch", "last epoch", "within an epoch"],
)
def test_a_run_whose_callback_raises_ends_saved_and_the_error_names_it(
    where, method, steps, tmp_path
):
    fails, others = Fails(**where), Fails()
    # Epochs come too quickly to be saved one by one.
    slow = Checkpoints(tmp_path / "run", min_seconds=1000)
    trainer = Trainer(TASK, checkpoints=slow, callbacks=[fails, others], steps_per_dispatch=2)
    with pytest.raises(KeyError, match="val_acuracy") as caught:
        trainer.fit(DATA, VALID, epochs=4, batch_size=8)
    saved = max(int(path.name) for path in (tmp_path / "run").iterdir() if path.name.isdigit())
    assert saved in steps
    assert caught.value.__notes__ == [
        f"The callback Fails.{method} raised this.",
        f"The run is saved at step {saved} in {tmp_path / 'run'}: the same call continues from "
        "there.",
    ]
    # It isn't called again, but for the end; the others are called as ever.
    assert fails.told[-1] == others.told[-1] == "error"
    assert others.told[: len(fails.told) - 1] == fails.told[:-1]
    resumed = fit([], tmp_path / "run")
    assert bits(resumed.state) == bits(fit([]).state)
    assert resumed.history == fit([]).history


def test_without_checkpoints_the_error_says_that_nothing_was_saved():
    with pytest.raises(KeyError) as caught:
        fit([Fails(epoch=1), Fails(step=4)])
    notes = caught.value.__notes__
    assert notes[0] == "The callback Fails.on_chunk raised this."
    assert notes[1] == "Besides, the callback Fails.on_epoch raised KeyError: 'val_acuracy'"
    assert notes[2] == "Nothing was saved: the Trainer has no checkpoints."


def test_what_fails_at_the_start_is_raised_at_once():
    class Refuses:
        def on_start(self, plan):
            raise ValueError("no log here")

    with pytest.raises(ValueError, match="no log here") as caught:
        fit([Refuses()])
    assert caught.value.__notes__ == ["The callback Refuses.on_start raised this."]
