"""What a loss takes for labels, as a check of NumPy arrays before training.

A loss of yes or no computes a number for any label, a wrong one for all but 0 and 1. Within a
compiled program nothing can be refused: there a label that a loss doesn't take makes the loss of
its example NaN, so that it can't pass for another. What is in memory is refused here, by the name
of the loss, the value and its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxnet.errors import InputError
from jaxnet.losses.classification import (
    SLACK,
    binary_cross_entropy,
    binary_focal,
    categorical_cross_entropy,
    categorical_hinge,
    cross_entropy,
    focal,
    hinge,
    kl_divergence,
    multiclass_hinge,
    squared_hinge,
)
from jaxnet.losses.density import bernoulli
from jaxnet.losses.regression import (
    absolute_error,
    huber,
    log_cosh,
    squared_error,
    sum_of_squares,
)


class Wrong(NamedTuple):
    """Labels that a loss doesn't take.

    Attributes:
        where: bool, one for each label, or for each row of class probabilities.
        expected: what it takes, and why; the first half of a sentence.
        advice: what to do, a sentence.
    """

    where: np.ndarray
    expected: str
    advice: str


@runtime_checkable
class ChecksLabels(Protocol):
    """A loss that is made out of another one."""

    def wrong_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
        """As the function `wrong_labels`, of this loss."""
        ...


def check_labels(
    loss: Callable[..., Any],
    labels: np.ndarray,
    outputs: tuple[int, ...],
    name: str,
    first_row: int = 0,
) -> None:
    """Raise `InputError` where `loss` doesn't take a label.

    Args:
        loss: one of this library, `functools.partial` of it, or made out of it; of others nothing
            is known but that class numbers are below the number of outputs.
        labels: (n, ...).
        outputs: the shape of the network's outputs, (B, ...).
        name: the data's name, for the message.
        first_row: the number of the first row, where these are a part of the data.

    Example:
        >>> check_labels(binary_cross_entropy, np.array([0, 1, 2]), (3, 1), "train")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: train: binary_cross_entropy expects labels from 0 (no) to 1 \
(yes); got 2 in row 2. Turn them into 0 and 1, (labels == YES).astype(np.int32)
    """
    wrong = wrong_labels(loss, labels, outputs)
    if wrong is None:
        return
    row, *rest = np.unravel_index(int(wrong.where.argmax()), wrong.where.shape)
    place = f"row {first_row + row}" + (f", position {', '.join(map(str, rest))}" if rest else "")
    got = np.asarray(labels[(row, *rest)])
    shown = got if got.ndim == 0 else f"{np.array2string(got, threshold=8)}, sum {got.sum():.6g},"
    raise InputError(f"{name}: {wrong.expected}; got {shown} in {place}. {wrong.advice}")


def wrong_labels(
    loss: Callable[..., Any], labels: np.ndarray, outputs: tuple[int, ...]
) -> Wrong | None:
    """The labels that `loss` doesn't take, if there are any; arguments as in `check_labels`."""
    loss = _plain(loss)
    if isinstance(loss, ChecksLabels):
        return loss.wrong_labels(labels, outputs)
    return _TAKES.get(loss, _class_numbers)(getattr(loss, "__name__", ""), labels, outputs)


def checks_labels(loss: Callable[..., Any]) -> bool:
    """Whether it is known what labels `loss` takes."""
    loss = _plain(loss)
    return isinstance(loss, ChecksLabels) or loss in _TAKES


def learnt_by(loss: Callable[..., Any]) -> Literal["classes", "numbers"] | None:
    """What a network learns under `loss`, as far as that is known.

    Example:
        >>> from jaxnet.losses import huber, masked
        >>> learnt_by(masked(cross_entropy)), learnt_by(huber), learnt_by(lambda outputs, labels: 0)
        ('classes', 'numbers', None)
    """
    loss = _plain(loss)
    while hasattr(loss, "loss"):  # made out of another one
        loss = _plain(loss.loss)
    if loss in (squared_error, absolute_error, huber, log_cosh, sum_of_squares):
        return "numbers"
    return "classes" if loss in _TAKES else None


def _plain(loss: Any) -> Any:
    """The loss without options that were given to it."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def outside(labels: np.ndarray, least: int | float, most: int | float) -> np.ndarray | None:
    """Which labels are outside, if any are; in the usual case without an array of their size."""
    if labels.min() >= least and labels.max() <= most:
        return None
    return ~((labels >= least) & (labels <= most))


def _class_numbers(name: str, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
    classes = outputs[-1] if len(outputs) == labels.ndim + 1 else 1
    if labels.dtype.kind not in "ui" or classes == 1:  # which the loss refuses, or doesn't mean
        return None
    where = outside(labels, 0, classes - 1)
    if where is None:
        return None
    return Wrong(
        where,
        f"expected labels from 0 to {classes - 1}, because the model has {classes} outputs",
        "Give the model as many outputs as there are classes, or repair the labels. A label that "
        "marks a gap is left out by losses.masked(loss, ignored=LABEL)",
    )


def _chances(name: str, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
    where = outside(labels, -SLACK, 1 + SLACK)
    if where is None:
        return None
    advice = "Turn them into 0 and 1, (labels == YES).astype(np.int32)"
    if labels.ndim > 1 and labels.max() > 2:
        advice = "Bring the values into [0, 1]: divide by the largest, or jaxnet.data.fit_range"
    return Wrong(where, f"{name} expects labels from 0 (no) to 1 (yes)", advice)


def _sides(name: str, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
    where = ~np.isin(labels, (-1, 0, 1))
    if not where.any() and (labels == -1).any():
        where = labels == 0
    if not where.any():
        return None
    return Wrong(
        where,
        f"{name} expects the labels 0 (no) and 1 (yes), or -1 (no) and 1 (yes)",
        "Turn them into 0 and 1, (labels == YES).astype(np.int32)",
    )


def _shares(name: str, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
    if labels.ndim < 2:  # which the loss refuses
        return None
    sums = labels.sum(axis=-1, dtype=np.float64)
    where = (labels.min(axis=-1) < -SLACK) | (np.abs(sums - 1) > SLACK)
    if not where.any():
        return None
    return Wrong(
        where,
        f"{name} expects in each row the probabilities of the classes, at least 0 and with sum 1",
        "Divide each row by its sum; where an example may be of several classes at once take "
        "binary_cross_entropy",
    )


_TAKES: Mapping[Any, Callable[[str, np.ndarray, tuple[int, ...]], Wrong | None]] = {
    cross_entropy: _class_numbers,
    focal: _class_numbers,
    multiclass_hinge: _class_numbers,
    binary_cross_entropy: _chances,
    binary_focal: _chances,
    bernoulli: _chances,
    hinge: _sides,
    squared_hinge: _sides,
    categorical_cross_entropy: _shares,
    kl_divergence: _shares,
    categorical_hinge: _shares,
}
