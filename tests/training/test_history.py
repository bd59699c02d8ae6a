"""The history: exact sums, exact files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxnet.training import History, RunWriter
from jaxnet.training.callbacks import Plan
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


# --- the files of a run --------------------------------------------------------------------------


def epochs(first: int, last: int, **more: float) -> list[dict[str, float]]:
    return [{"epoch": i, "step": 4 * i, "loss": 1 / i, **more} for i in range(first, last + 1)]


def written(folder: Path, history: list[dict[str, float]], rows: list[dict[str, float]]) -> Path:
    """What a run leaves that goes on after `history` with `rows`."""
    writer = RunWriter(folder)
    writer.on_start(Plan(9, 4, 36, 0, History(tuple(history))))
    for row in rows:
        writer.on_epoch(row, None)
    writer.on_stop("epochs")
    return folder / "history.csv"


def expected(folder: Path, rows: list[dict[str, float]]) -> bytes:
    History(tuple(rows)).write_csv(folder / "expected.csv")
    return (folder / "expected.csv").read_bytes()


def test_an_epoch_adds_a_line_to_the_history_and_writes_nothing_else(tmp_path):
    writer = RunWriter(tmp_path)
    writer.on_start(Plan(9, 4, 36, 0, History()))
    writer.on_epoch(epochs(1, 1)[0], None)
    file = (tmp_path / "history.csv").stat().st_ino
    for row in epochs(2, 9):
        writer.on_epoch(row, None)
    assert (tmp_path / "history.csv").stat().st_ino == file  # the same file, and no new one
    assert (tmp_path / "history.csv").read_bytes() == expected(tmp_path, epochs(1, 9))


@pytest.mark.parametrize("torn", [b"", b"6,2", b"6,24,0.1666"])
def test_a_run_killed_while_it_wrote_leaves_each_epoch_once(torn, tmp_path):
    """It had come to the sixth epoch, and goes on from a checkpoint after the third."""
    file = written(tmp_path, [], epochs(1, 5))
    with open(file, "ab") as opened:
        opened.write(torn)
    with open(tmp_path / "metrics.jsonl", "ab") as opened:
        opened.write(b'\xff\xfe\n5\n{"epoch": 6, "st')
    written(tmp_path, epochs(1, 3), epochs(4, 7))
    assert file.read_bytes() == expected(tmp_path, epochs(1, 7))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 8))


def test_a_column_that_comes_later_gets_its_place_in_the_header(tmp_path):
    rows = [*epochs(1, 2), *epochs(3, 4, val_loss=0.5), *epochs(5, 5)]
    assert written(tmp_path, [], rows).read_bytes() == expected(tmp_path, rows)


def test_a_run_with_nothing_left_to_do_has_its_history_and_a_new_one_none(tmp_path):
    file = written(tmp_path, epochs(1, 3), [])
    assert file.read_bytes() == expected(tmp_path, epochs(1, 3))
    assert not written(tmp_path, [], []).exists()


def test_sums_are_the_same_bits_however_steps_are_grouped_and_however_large_they_are():
    rng = np.random.default_rng(0)
    for shape in [(), (3, 3), (80, 80)]:
        # Of many magnitudes, so that each other order would round otherwise.
        steps = (rng.normal(size=(12, *shape)) * 10.0 ** rng.integers(-6, 6, (12, *shape))).astype(
            np.float32
        )
        expected = np.zeros(shape)
        for step in steps:
            expected = expected + step.astype(np.float64)
        for cuts in ([], [1], [5, 6], range(1, 12)):
            total = None
            for part in np.split(steps, list(cuts)):
                total = add_steps(total, {"m": part})
            assert total is not None and total["m"].tobytes() == expected.tobytes()
