"""Parts by time and by group, and test data from another file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit

from jaxnet.data import (
    Arrays,
    Records,
    fit_table,
    load,
    read_table,
    read_table_like,
    split_by_group,
    split_by_time,
)
from jaxnet.data.split_by import check_apart
from jaxnet.errors import InputError

pandas = pytest.importorskip("pandas", reason="needs the extra [tables]")

SHARES = (0.7, 0.1, 0.2)


def arrays(n: int) -> Arrays:
    return Arrays(np.arange(n)[:, None], np.arange(n) % 2)


def rows(part: Arrays) -> np.ndarray:
    return part.inputs[:, 0].astype(int)


@pytest.mark.parametrize("kinds", ["numbers", "dates", "zones", "few"])
def test_time_goes_forward_from_part_to_part(kinds):
    rng = np.random.default_rng(0)
    days = rng.integers(0, 4 if kinds == "few" else 60, 200)
    dates = np.datetime64("2024-01-01") + days
    series = pandas.Series(dates).dt.tz_localize("Asia/Tokyo")
    times = {"numbers": days, "few": days.astype(float), "dates": dates, "zones": series}[kinds]
    parts = split_by_time(arrays(200), times, SHARES)
    found = [days[rows(part)] for part in parts]
    assert found[0].max() < found[1].min() <= found[1].max() < found[2].min()
    assert sorted(np.concatenate([rows(part) for part in parts])) == list(range(200))
    for part, share in zip(parts, SHARES, strict=True):
        assert (np.diff(rows(part)) > 0).all()
        assert kinds == "few" or abs(len(part) - 200 * share) <= np.bincount(days).max()


def test_no_group_is_in_two_parts():
    rng = np.random.default_rng(0)
    groups = rng.choice(["a", "b", "c", *map(str, range(30))], 300)
    seen = set()
    for seed in range(5):
        parts = split_by_group(arrays(300), groups, SHARES, seed)
        found = [set(groups[rows(part)]) for part in parts]
        assert sum(map(len, found)) == len(set.union(*found)) == 33
        seen.add(frozenset(found[2]))
        for part, share in zip(parts, SHARES, strict=True):
            assert abs(len(part) - 300 * share) <= np.unique(groups, return_counts=True)[1].max()
    assert len(seen) == 5
    # No further from the shares than scikit-learn, which counts groups.
    ours, theirs = [], []
    for seed in range(5):
        sizes = rng.integers(1, 60, 12)
        groups = np.repeat(np.arange(12), sizes)
        (_, test), *_ = GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(
            groups, groups=groups
        )
        theirs.append(abs(len(test) / len(groups) - 0.2))
        _, _, test = split_by_group(arrays(len(groups)), groups, SHARES, seed)
        ours.append(abs(len(test) / len(groups) - 0.2))
    assert np.mean(ours) <= np.mean(theirs)
    # One large group leaves a group for each of the other parts.
    parts = split_by_group(arrays(50), [0] * 46 + [1, 1, 2, 2], SHARES)
    assert sorted(map(len, parts)) == [2, 2, 46]


TABLE: dict[str, Any] = {
    "x": np.arange(40.0) % 7,
    "day": [f"{1 + row % 28:02}.0{1 + row // 28}.2024" for row in range(40)],
    "patient": [f"p{row // 4}" for row in range(40)],
    "note": [f"free text {row}" for row in range(40)],
    "y": ["a", "b"] * 20,
}


def test_columns_of_a_table():
    table = read_table(TABLE, "y", date_format="%d.%m.%Y", kinds={"day": "drop"})
    train, valid, test = split_by_time(table, "day", SHARES)
    assert list(train.frame.index) == list(range(28))
    assert (len(valid), list(test.frame.index)) == (4, list(range(32, 40)))
    train, test = split_by_group(table, "patient", (0.8, 0.2), seed=1)
    assert "patient" not in train.kinds and "patient" in train.left_out
    assert not set(train.groups("patient")[1]) & set(test.groups("patient")[1])
    check_apart(train, test, "patient")
    with pytest.raises(InputError, match=r"table: patient: expected other groups .* p0, p1"):
        check_apart(table, table, "patient")
    numbered = read_table({**TABLE, "row": np.arange(40)}, "y", kinds={"day": "drop"})
    assert len(split_by_time(numbered, "row", (0.5, 0.5))[0]) == 20
    rows: Any = [(np.full(1, row, np.float32), row) for row in range(4)]
    newest = split_by_time(Records(rows), [3, 2, 1, 0], (0.5, 0.5))[1]
    assert load(newest).labels.tolist() == [0, 1]


def without(column: str, row: int) -> dict:
    return {**TABLE, column: [None if i == row else v for i, v in enumerate(TABLE[column])]}


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            lambda: split_by_time(read(without("x", 3)), "x"),
            "x: 1 of 40 rows have no .* row 3",
        ),
        (lambda: split_by_group(read(without("note", 5)), "note"), "note: 1 of 40 rows .* row 5"),
        (lambda: split_by_time(read(TABLE), "dax"), "unknown column of table 'dax'"),
        (lambda: split_by_time(read(TABLE), "patient"), "patient: expected dates such as .* 'p0'"),
        (lambda: split_by_time(arrays(3), [1, np.nan, 2]), "arrays: times: 1 values are missing"),
        (lambda: split_by_group(arrays(3), ["a", None, "b"]), "groups: 1 values .* in row 1"),
        (lambda: split_by_time(arrays(3), [1, 2]), r"times: expected shape \(3,\), got \(2,\)"),
        (lambda: split_by_time(arrays(3), ["a", "b", "c"]), "expected numbers or points in time"),
        (lambda: split_by_time(arrays(4), [1, 1, 2, 2]), "at least 3 different times .* got 2"),
        (lambda: split_by_group(arrays(4), [1, 1, 2, 2]), "at least 3 groups .* got 2"),
        (lambda: split_by_group(arrays(4), [1, 2, 3, 4], (0.5, 0.6)), "must sum to 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(cut, message):
    with pytest.raises((InputError, ValueError), match=message):
        cut()


def read(columns: dict):
    return read_table(columns, "y", kinds={"day": "drop"})


def test_test_data_from_another_file(tmp_path):
    table = read(TABLE)
    frame: Any = pandas.DataFrame(TABLE)[["y", "note", "x", "patient"]].iloc[1:9]
    frame.assign(extra=1).to_csv(tmp_path / "test.csv", index=False)
    test = read_table_like(tmp_path / "test.csv", table)
    assert test.name == "test.csv"
    assert test.class_names == ("a", "b")
    assert [test.class_names[label] for label in test.labels] == list(frame["y"])
    encoder = fit_table(table)
    np.testing.assert_array_equal(encoder.arrays(test).inputs, encoder(table.frame)[1:9])
    numbers = read_table({"x": [1.0, 2.0, 4.0], "y": [0.5, 1.5, 2.5]}, "y")
    assert read_table_like([{"x": 1, "y": 7}], numbers).labels.tolist() == [7.0]
    for wrong, message in (
        ({"x": frame["x"], "patient": "p1"}, "expected a column 'y' to predict"),
        (frame.drop(columns="x"), "expected the columns of table, x, patient, got .*: x isn't"),
        (frame.assign(y="c"), "the target 'y' has the class c, which table lacks: .* a, b"),
        (frame.assign(x="many"), "x: expected numbers, got 'many'"),
    ):
        with pytest.raises(InputError, match=message):
            read_table_like(wrong, table)
