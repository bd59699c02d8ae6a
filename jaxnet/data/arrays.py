"""A supervised dataset in memory, checked once so that nothing after it has to check."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnet.data.numeric import as_array, check_distinct, first, narrowed, place, to_dtype
from jaxnet.errors import InputError

# What to do with values that float32 can't tell apart.
_SCALE_INPUTS = (
    "scale in float64 first, scale = fit_standard(inputs, per_feature=True), and pass scale(inputs)"
)
_SCALE_LABELS = (
    "scale in float64 first, scale = fit_target(labels), pass scale(labels), and bring predictions "
    "back with scale.undo(outputs); or predict the difference from a fixed number"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Inputs and labels of a supervised dataset, one row an example.

    Types become JAX's own here, once, so that no step converts anything: float64 turns into float32
    and 64-bit integers into int32. Class labels of shape (n,) are always int32. Whatever has the
    right type already is kept without a copy.

    Attributes:
        inputs: (n, ...) numbers: table rows, images (n, height, width, channels), tokens.
        labels: (n,) integer classes or numbers, or (n, ...) for several targets.
        weights: (n,) float32 importance of every example, not negative; None means all equal.
        class_names: what class 0, 1, ... is called.
        name: what messages call this dataset.

    Raises:
        InputError: lengths differ, nothing is there, a type is not numeric, a value is missing
            (masked, or a gap of pandas), NaN or infinite, float32 can't tell most values of a
            feature apart, or a label is not one of the classes. The message names the place.

    Example:
        >>> data = Arrays(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 0]))
        >>> len(data), data.num_classes, data.inputs.dtype.name
        (2, 2, 'float32')
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "arrays"

    def __post_init__(self) -> None:
        inputs = checked_inputs(self.inputs, f"{self.name}: inputs")
        labels = checked_labels(self.labels, f"{self.name}: labels")
        check_lengths(inputs, labels, "labels", self.name)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "labels", labels)
        if self.weights is not None:
            weights = checked_weights(self.weights, self.name)
            check_lengths(inputs, weights, "weights", self.name)
            object.__setattr__(self, "weights", weights)
        if self.class_names is not None:
            names = checked_class_names(self.class_names, labels, self.name)
            object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.inputs)

    @property
    def num_classes(self) -> int:
        """The number of classes: of `class_names`, or the largest integer label plus one."""
        if self.class_names is not None:
            return len(self.class_names)
        if self.labels.dtype.kind not in "ui":
            raise InputError(
                f"{self.name}: labels are {self.labels.dtype}, which has no classes; "
                "expected integer labels or class_names"
            )
        return int(self.labels.max()) + 1

    def take(self, indices: np.ndarray) -> Arrays:
        """The examples at `indices`, an integer array (m,) with values in [0, n), in that order.

        Raises:
            InputError: an index is not an integer in range, or there is none.

        Example:
            >>> data = Arrays(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 1]))
            >>> data.take(np.array([2, 0])).inputs.tolist()
            [[3.0], [1.0]]
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "ui":
            raise InputError(
                f"{self.name}: expected a non-empty integer array of indices (m,), got "
                f"{indices.dtype} {indices.shape}"
            )
        if indices.min() < 0 or indices.max() >= len(self):
            raise InputError(
                f"{self.name}: expected indices in [0, {len(self)}), got values from "
                f"{indices.min()} to {indices.max()}"
            )
        taken = {key: np.take(column, indices, axis=0) for key, column in self.columns().items()}
        return dataclasses.replace(self, **taken)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name, as a batch calls them: inputs, labels and, where given, weights."""
        columns = {"inputs": self.inputs, "labels": self.labels}
        if self.weights is not None:
            columns["weights"] = self.weights
        return columns


def check_classes(labels: np.ndarray, num_classes: int, name: str = "arrays") -> None:
    """Check that `labels` can train a classifier of `num_classes` classes.

    Args:
        labels: integer classes, of any shape.
        num_classes: how many classes the network tells apart.
        name: what the message calls the dataset.

    Raises:
        InputError: labels are not integers, lie outside [0, num_classes), or all belong to one
            class, from which nothing can be learnt.

    Example:
        >>> check_classes(np.array([0, 2, 1]), num_classes=3)
    """
    if labels.dtype.kind not in "ui":
        raise InputError(
            f"{name}: class labels must be integers, got {labels.dtype}; "
            "convert with labels.astype(np.int32)"
        )
    if num_classes < 2:
        raise InputError(f"{name}: a classifier needs at least two classes, got {num_classes}")
    _check_range(labels, num_classes, name)
    if labels.min() == labels.max():
        raise InputError(
            f"{name}: every label is {labels.flat[0]}, only one class of {num_classes}; "
            "a classifier needs examples of at least two"
        )


def checked_inputs(values: Any, where: str) -> np.ndarray:
    """Inputs as a finite numeric array of a type that JAX keeps as it is.

    Args:
        values: (n, ...).
        where: the place, for the message.

    Raises:
        InputError: see `Arrays`.
    """
    return _numbers(values, where, _SCALE_INPUTS)


def checked_labels(values: Any, where: str) -> np.ndarray:
    """As `checked_inputs`, for labels: classes (n,) become int32."""
    labels = _numbers(values, where, _SCALE_LABELS)
    if labels.ndim == 1 and labels.dtype.kind in "bui":
        return to_dtype(labels, np.dtype(np.int32), where)
    return labels


def _numbers(values: Any, where: str, advice: str) -> np.ndarray:
    """`values` as a finite numeric array of a type that JAX keeps as it is."""
    array = as_array(values, where)
    if array.ndim == 0:
        raise InputError(f"{where}: expected an array with one row an example, got {array}")
    if len(array) == 0:
        raise InputError(f"{where}: an empty split: expected at least one example, got 0")
    if array.size == 0:
        raise InputError(f"{where}: shape {array.shape} holds no value; expected no axis of size 0")
    cast = narrowed(array, where)
    if cast.dtype.kind == "f":
        check_distinct(array, where, advice)
    return cast


def check_lengths(
    inputs: np.ndarray, other: np.ndarray, what: str, name: str, first: str = "inputs"
) -> None:
    """Raise `InputError` where a column has other numbers of rows than the first one.

    Args:
        inputs: the first column.
        other: another one.
        what: the name of that column.
        name: the name of the dataset.
        first: the name of the first column.
    """
    if len(inputs) != len(other):
        raise InputError(
            f"{name}: {first} has {len(inputs)} examples but {what} has {len(other)}; "
            "expected one row an example in both"
        )


def checked_weights(values: Any, name: str) -> np.ndarray:
    """The importance of each example, (n,) float32; errors as in `Arrays`."""
    where = f"{name}: weights"
    weights = narrowed(as_array(values, where), where).astype(np.float32, copy=False)
    if weights.ndim != 1:
        raise InputError(f"{where}: expected shape (n,), got {weights.shape}")
    if weights.min() < 0:
        index = first(weights < 0)
        raise InputError(f"{where}: {weights[index]} in {place(index)} is negative")
    if not weights.any():
        raise InputError(f"{where}: all are zero, so that no example counts")
    return weights


def checked_class_names(given: Any, labels: np.ndarray, name: str) -> tuple[str, ...]:
    """The names of class 0, 1, ... as texts, all different; errors as in `Arrays`."""
    if isinstance(given, str) or not len(given):
        raise InputError(f"{name}: expected class_names such as ('cat', 'dog'), got {given!r}")
    names = tuple(str(one) for one in given)
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise InputError(f"{name}: class_names must differ, got {twice!r} more than once")
    if labels.dtype.kind in "ui":
        _check_range(labels, len(names), name)
    elif labels.ndim < 2 or labels.shape[-1] != len(names):
        raise InputError(
            f"{name}: with {len(names)} class_names expected integer labels or {len(names)} "
            f"columns, one a class; got {labels.dtype} {labels.shape}"
        )
    return names


def _check_range(labels: np.ndarray, num_classes: int, name: str) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        index = first((labels < 0) | (labels >= num_classes))
        raise InputError(
            f"{name}: label {labels[index]} in {place(index)} is outside "
            f"[0, {num_classes}), the {num_classes} classes"
        )
