"""Columns of a dataset by path: several inputs or labels as a flat dict of arrays, and nested.

Datasets and pipelines hold flat columns, `"inputs/image"`, so that whatever sorts, copies or shards
rows needs to know nothing of names. A task gets a nested batch, `batch["inputs"]["image"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnet.errors import InputError

SEPARATOR = "/"


def flat(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns with the names of what is nested in them joined to paths.

    Args:
        columns: name -> array, or a dict or tuple of arrays.

    Raises:
        InputError: a name isn't a text that can be a part of a path.

    Example:
        >>> flat({"inputs": {"age": 1, "image": 2}, "labels": 3})
        {'inputs/age': 1, 'inputs/image': 2, 'labels': 3}
        >>> flat({"inputs": (1, 2)})
        {'inputs/0': 1, 'inputs/1': 2}
    """
    found: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, tuple):
            column = {str(position): part for position, part in enumerate(column)}
        elif isinstance(column, Mapping):
            _check_names(name, column)
        else:
            found[name] = column
            continue
        found |= {f"{name}{SEPARATOR}{part}": values for part, values in column.items()}
    return found


def nested(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `flat`: a dict or tuple of arrays where there are several.

    Example:
        >>> nested({"inputs/age": 1, "inputs/image": 2, "mask": 3})
        {'inputs': {'age': 1, 'image': 2}, 'mask': 3}
        >>> nested({"inputs/0": 1, "inputs/1": 2})
        {'inputs': (1, 2)}
    """
    found: dict[str, Any] = {}
    for path, column in columns.items():
        name, separator, part = path.partition(SEPARATOR)
        if separator:
            found.setdefault(name, {})[part] = column
        else:
            found[name] = column
    return {
        name: tuple(column[str(position)] for position in range(len(column)))
        if isinstance(column, dict) and all(part.isdigit() for part in column)
        else column
        for name, column in found.items()
    }


def first_column(columns: Mapping[str, Any]) -> Any:
    """One of the columns of the inputs: all have the same number of rows."""
    return next(column for path, column in columns.items() if is_input(path))


def is_input(path: str) -> bool:
    """Whether a column is an input of the network."""
    return path.partition(SEPARATOR)[0] == "inputs"


def _check_names(name: str, columns: Mapping[str, Any]) -> None:
    if not columns:
        raise InputError(f"{name}: expected at least one named array, got an empty dict")
    for part in columns:
        if not isinstance(part, str) or not part or SEPARATOR in part or part.isdigit():
            raise InputError(
                f"{name}: expected names such as 'image', without '{SEPARATOR}' and not a number, "
                f"got {part!r}"
            )
