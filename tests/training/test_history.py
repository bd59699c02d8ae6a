"""The history: exact sums, exact files."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from jaxnet.training import History
from jaxnet.training.history import add_steps

ROWS = (
    {"epoch": 1, "step": 4, "loss": 1 / 3, "val_loss": math.pi},
    {"epoch": 2, "step": 8, "loss": 0.1 + 0.2, "val_loss": float("nan")},
)


def test_sums_do_not_depend_on_where_stretches_end():
    # float32 values of very different sizes, so that another order of adding shows.
    steps = (10.0 ** np.random.default_rng(0).uniform(-8, 8, (50, 3))).astype(np.float32)
    whole = add_steps(None, {"loss": steps})["loss"]
    for cuts in ([1] * 50, [7] * 7 + [1], [30, 0, 20]):
        total = None
        for piece in np.split(steps, np.cumsum(cuts)[:-1]):
            total = add_steps(total, {"loss": piece})
        assert total is not None
        assert total["loss"].tobytes() == whole.tobytes()
    exact = [math.fsum(column) for column in steps.T.astype(np.float64)]
    np.testing.assert_allclose(whole, exact, rtol=1e-14)


def test_sums_are_taken_in_float64():
    ones = np.ones(10, np.float32)
    assert add_steps({"loss": np.array(2.0**24)}, {"loss": ones})["loss"] == 2**24 + 10


def test_a_column_has_nan_where_a_row_lacks_it():
    history = History(ROWS[:1]).add({"epoch": 2, "step": 8, "loss": 0.5})
    assert history["loss"] == [1 / 3, 0.5]
    assert history["val_loss"][0] == math.pi
    assert math.isnan(history["val_loss"][1])
    assert history.columns == ["epoch", "step", "loss", "val_loss"]
    assert len(history) == 2


def test_an_unknown_column_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="no column 'val_los'; this history has epoch, step, loss"):
        History(ROWS)["val_los"]


def test_numbers_read_back_from_csv_exactly(tmp_path):
    History(ROWS).write_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["epoch", "step", "loss", "val_loss"]
    assert [float(row["loss"]) for row in read] == [1 / 3, 0.1 + 0.2]
    assert float(read[0]["val_loss"]) == math.pi
    assert math.isnan(float(read[1]["val_loss"]))
