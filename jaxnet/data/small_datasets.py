"""Small real datasets, most of which come with a dependency: for tests and first steps."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.tables.column_kinds import Kind
from jaxnet.data.tables.read import read_table
from jaxnet.data.tables.table import Table
from jaxnet.files import expanded


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


def load_diabetes() -> Arrays:
    """Ten measurements of 442 patients, and how far their diabetes went on in a year.

    Efron et al. 2004, "Least angle regression"; scikit-learn carries it.

    Returns:
        inputs (442, 10) float32, unscaled, labels (442,) float32 from 25 to 346.

    Example:
        >>> diabetes = load_diabetes()
        >>> diabetes.inputs.shape, round(float(diabetes.labels.mean()), 1)
        ((442, 10), 152.1)
    """
    from sklearn.datasets import load_diabetes as sklearn_diabetes

    inputs, labels = sklearn_diabetes(return_X_y=True, scaled=False)
    return Arrays(np.asarray(inputs), np.asarray(labels), name="diabetes")


def load_titanic(path: Path | str) -> Table:
    """The 891 passengers of Kaggle's training table, and who of them survived.

    The class of the cabin is taken for a category, and of the cabin's number only whether it is
    known. Name, ticket and the number of the row are left out.

    Args:
        path: the CSV file, or the folder with `titanic.csv` or `train.csv`.

    Raises:
        InputError: there is no such file, or it is another table.
    """
    path = expanded(path)
    if path.is_dir():
        known = [path / name for name in ("titanic.csv", "train.csv")]
        path = next((file for file in known if file.is_file()), known[0])
    kinds: dict[str, Kind] = {
        **dict.fromkeys(("PassengerId", "Name", "Ticket"), "drop"),
        **dict.fromkeys(("Pclass", "Sex", "Embarked"), "category"),
        **dict.fromkeys(("Age", "SibSp", "Parch", "Fare"), "number"),
        "Cabin": "presence",
    }
    table = read_table(path, "Survived", kinds=kinds, target_kind="class")
    return dataclasses.replace(table, class_names=("died", "survived"), name="titanic")


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
