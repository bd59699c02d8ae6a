"""Digests tell values apart, and nothing else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from jaxnet.digests import array_digest, digest, json_digest, texts_digest

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_they_are_the_same_for_ever():
    """A digest that is kept in a checkpoint has to be found again by the next version."""
    assert digest(b"a", b"bc") == "9a8acca1b6c6c0befd3fbc756aed625d"
    assert json_digest({"b": [1, 2.5, None], "a": "ä"}) == "f650cd51392f3796779c54b9cbd8c69c"
    assert array_digest(ROWS) == "a2a4039154d99731bb9f4a6d7f913f87"
    assert texts_digest(["to", "be"]) == "ffc99603e06b0aac6fd795dbe0eee098"


@pytest.mark.parametrize(
    "other",
    [
        ROWS.astype(np.float64),
        ROWS.reshape(3, 4),
        ROWS.T,
        ROWS[::-1],
        np.where(ROWS == 7, 7.5, ROWS).astype(np.float32),
    ],
)
def test_type_shape_and_values_count(other):
    assert array_digest(other) != array_digest(ROWS)


def test_how_an_array_lies_in_memory_does_not():
    assert array_digest(np.asfortranarray(ROWS)) == array_digest(ROWS)
    assert array_digest(np.repeat(ROWS, 2, axis=0)[::2]) == array_digest(ROWS)


def test_arrays_of_every_type_and_size():
    arrays = [np.float32(1), np.ones(0), np.ones((2, 0)), np.ones(2, bool), np.array(3)]
    arrays.append(np.ones(2, ml_dtypes.bfloat16))
    assert len({array_digest(np.asarray(array)) for array in arrays}) == len(arrays)


def test_many_rows_are_read_in_parts(monkeypatch):
    whole = array_digest(ROWS)
    monkeypatch.setattr("jaxnet.digests._AT_ONCE", 20)
    assert array_digest(ROWS) == whole


def test_of_a_large_array_some_rows_count():
    large = np.zeros((1000, 4), np.uint8)
    counted = {
        row
        for row in range(1000)
        if array_digest(_changed(large, row), 400) != array_digest(large, 400)
    }
    assert len(counted) == 100 and {0, 999} <= counted
    assert np.diff(sorted(counted)).max() <= 11


def _changed(array: np.ndarray, row: int) -> np.ndarray:
    changed = array.copy()
    changed[row, 2] = 1
    return changed


def test_where_a_part_ends_counts():
    assert texts_digest(["a", "bc"]) != texts_digest(["ab", "c"])
    assert texts_digest([]) != texts_digest([""])
