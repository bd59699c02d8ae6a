"""Small real datasets that come with a dependency: for tests, examples and first steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays


def load_digits() -> Arrays:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries.

    Returns:
        inputs (1797, 8, 8, 1) uint8 from 0 to 16, labels (1797,) int32 from 0 to 9.

    Example:
        >>> digits = load_digits()
        >>> digits.inputs.shape, digits.num_classes
        ((1797, 8, 8, 1), 10)
    """
    table = _digits_table()
    return Arrays(
        inputs=table[:, :-1].reshape(-1, 8, 8, 1),
        labels=table[:, -1],
        class_names=tuple("0123456789"),
        name="digits",
    )


def _digits_table() -> np.ndarray:
    """(1797, 65) uint8: 64 pixels and the digit."""
    # scikit-learn's file is found without importing it: 10 ms instead of a second.
    spec = importlib.util.find_spec("sklearn")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits as sklearn_digits

    pixels, labels = sklearn_digits(return_X_y=True)
    return np.column_stack([pixels, labels]).astype(np.uint8)
