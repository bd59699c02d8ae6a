from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from sklearn import datasets

from jaxnet.data import Arrays, load_digits


def check_against_sklearn(digits: Arrays) -> None:
    reference = datasets.load_digits()
    assert digits.inputs.dtype == np.uint8
    np.testing.assert_array_equal(digits.inputs[..., 0], reference.images)
    assert digits.labels.dtype == np.int32
    np.testing.assert_array_equal(digits.labels, reference.target)
    assert digits.class_names == tuple(str(name) for name in reference.target_names)


def test_digits_are_those_of_sklearn():
    check_against_sklearn(load_digits())


def test_digits_are_read_without_sklearn(monkeypatch):
    # None in sys.modules makes the import fail.
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert len(load_digits()) == 1797


@pytest.mark.parametrize("places", [None, ["nowhere"]])
def test_sklearn_helps_out_where_its_file_is_not_found(monkeypatch, places):
    spec = None
    if places:
        spec = importlib.util.find_spec("sklearn")
        assert spec is not None
        monkeypatch.setattr(spec, "submodule_search_locations", places)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    check_against_sklearn(load_digits())
