"""A dataset in memory with several inputs or several labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnet.data.arrays import (
    check_lengths,
    checked_class_names,
    checked_inputs,
    checked_labels,
    checked_weights,
)
from jaxnet.data.columns import flat, nested
from jaxnet.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class NamedArrays:
    """Arrays with several inputs, or several labels, of each example.

    `Trainer.fit` and the other functions make it of a pair in which one is a dict or a tuple of
    arrays. Types become JAX's own as in `Arrays`.

    Attributes:
        inputs: an array (n, ...), a dict of them by name, or a tuple of them by position.
        labels: likewise; a dict has a label for each of the outputs that the model gives by name.
        weights: (n,) float32 importance of each example, not negative; None means all equal.
        class_names: the names of class 0, 1, ...; where there are several labels, a dict of them
            for those that are classes.
        name: the name of the dataset in messages.

    Raises:
        InputError: lengths differ, or what `Arrays` raises of any of the arrays.

    Example:
        >>> data = NamedArrays({"age": [[30.0], [41.0]], "image": np.zeros((2, 8, 8))}, [0, 1])
        >>> len(data), list(data.columns())
        (2, ['inputs/age', 'inputs/image', 'labels'])
    """

    inputs: Any
    labels: Any
    weights: np.ndarray | None = None
    class_names: Any = None
    name: str = "arrays"

    def __post_init__(self) -> None:
        columns = {
            **_checked({"inputs": self.inputs}, checked_inputs, self.name),
            **_checked({"labels": self.labels}, checked_labels, self.name),
        }
        if self.weights is not None:
            columns["weights"] = checked_weights(self.weights, self.name)
        (first, rows), *others = columns.items()
        for column, values in others:
            check_lengths(rows, values, column, self.name, first)
        for part, values in nested(columns).items():
            object.__setattr__(self, part, values)
        object.__setattr__(self, "class_names", self._checked_names())

    def __len__(self) -> int:
        """The number of examples."""
        return len(next(iter(self.columns().values())))

    def take(self, indices: np.ndarray) -> NamedArrays:
        """The examples at `indices`, integers (m,) in [0, n), in that order.

        Example:
            >>> data = NamedArrays({"a": [1.0, 2.0, 3.0]}, {"double": [2.0, 4.0, 6.0]})
            >>> data.take(np.array([2, 0])).labels["double"].tolist()
            [6.0, 2.0]
        """
        taken = {path: np.take(column, indices, axis=0) for path, column in self.columns().items()}
        return dataclasses.replace(self, **nested(taken))

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by path: `inputs/NAME` for several inputs, `inputs` for one, ..."""
        columns = {"inputs": self.inputs, "labels": self.labels}
        if self.weights is not None:
            columns["weights"] = self.weights
        return flat(columns)

    def _checked_names(self) -> Any:
        """The class names, checked against the labels that they are for."""
        names = self.class_names
        if names is None or isinstance(self.labels, np.ndarray):
            return names and checked_class_names(names, self.labels, self.name)
        if not isinstance(names, Mapping) or not isinstance(self.labels, Mapping):
            raise InputError(
                f"{self.name}: there are several labels: expected class_names to be a dict by the "
                f"names of the labels, got {names!r}"
            )
        if unknown := names.keys() - self.labels.keys():
            raise InputError(
                f"{self.name}: class_names of {', '.join(sorted(unknown))}, and the labels are "
                f"{', '.join(self.labels)}"
            )
        return {
            label: checked_class_names(given, self.labels[label], f"{self.name}: {label}")
            for label, given in names.items()
        }


def is_named(part: Any) -> bool:
    """Whether inputs or labels are several: a dict of arrays, or a tuple of them.

    Example:
        >>> is_named({"a": [1.0]}), is_named((np.ones(2), np.ones(2))), is_named(((1, 2), (3, 4)))
        (True, True, False)
    """
    if isinstance(part, tuple):
        return len(part) > 0 and all(hasattr(one, "shape") and one.shape for one in part)
    return isinstance(part, Mapping)


def _checked(
    part: Mapping[str, Any], check: Callable[[Any, str], np.ndarray], name: str
) -> dict[str, np.ndarray]:
    return {path: check(values, f"{name}: {path}") for path, values in flat(part).items()}
