"""Rates of right and wrong answers: precision, recall and their kin, averaged over classes.

All are ratios of the four counts of each class against the rest: true positives (TP), false
positives (FP), false negatives (FN) and true negatives (TN).

What they have in common:

    average         how the classes' rates become one: "macro" is their plain mean, "weighted" the
                    mean by the number of examples of each class, "micro" the rate of the summed
                    counts; a class number gives that class's rate, and None an array of all.
                    Classes that occur neither among the labels nor among the answers don't enter
                    a mean, as in scikit-learn.
    threshold       with one logit an example, (B,) or (B, 1), the probability above which the
                    answer is "yes" (None: 0.5); the rate is that of "yes" alone. With logits
                    (B, ..., K) it makes each of them a yes or no of its own, with labels of the
                    same shape. None takes the largest of (B, ..., C) for the answer, with integer
                    labels (B, ...).
    zero_division   the rate of a class for which the ratio is 0 / 0; NaN keeps it out of means.

The shapes are otherwise as in `jaxnet.metrics.accuracy`, and what does not fit raises `InputError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet import losses
from jaxnet.errors import InputError
from jaxnet.metrics.accuracy import (
    Answers,
    answered,
    cut,
    is_single,
    is_yes_or_no,
    spread,
    unless,
)
from jaxnet.metrics.sums import Score

Average = Literal["macro", "micro", "weighted"] | int | None
Factors = tuple[int | float, int | float, int | float, int | float]


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Counts:
    """The weight of the right and wrong answers on each of K classes, against the rest."""

    true_positives: Float[Array | np.ndarray, " classes"]
    false_positives: Float[Array | np.ndarray, " classes"]
    false_negatives: Float[Array | np.ndarray, " classes"]
    true_negatives: Float[Array | np.ndarray, " classes"]


@dataclass(frozen=True)
class Ratio:
    """What is divided by what.

    Attributes:
        numerator: the factors of TP, FP, FN and TN above the line.
        denominator: those below it.
    """

    numerator: Factors
    denominator: Factors

    def of(self, counts: Counts, zero_division: float = 0.0) -> np.ndarray:
        """The ratio for each class; `zero_division` where it is 0 / 0."""
        four = [
            counts.true_positives,
            counts.false_positives,
            counts.false_negatives,
            counts.true_negatives,
        ]
        table = np.asarray(four, np.float64)
        above, below = np.tensordot([self.numerator, self.denominator], table, axes=1)
        empty = np.where(np.isnan(below), np.nan, zero_division)
        return np.divide(above, below, out=empty, where=below > 0)


PRECISION = Ratio((1, 0, 0, 0), (1, 1, 0, 0))
RECALL = Ratio((1, 0, 0, 0), (1, 0, 1, 0))
SPECIFICITY = Ratio((0, 0, 0, 1), (0, 1, 0, 1))
NEGATIVE_PREDICTIVE_VALUE = Ratio((0, 0, 0, 1), (0, 0, 1, 1))


def f_ratio(beta: float) -> Ratio:
    """F-beta as a ratio: `(1 + b^2) TP / ((1 + b^2) TP + FP + b^2 FN)`.

    Raises:
        InputError: `beta` is not above 0.
    """
    if not beta > 0:
        raise InputError(f"f_beta needs a beta above 0; got {beta}")
    square = float(beta) ** 2
    return Ratio((1 + square, 0, 0, 0), (1 + square, 1, square, 0))


def precision(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The share of the answers "this class" that are right: TP / (TP + FP).

    Arguments and errors as the module says.

    Example:
        >>> logits, labels = jnp.array([2.0, 1.0, -1.0, -3.0]), jnp.array([1, 0, 1, 0])
        >>> precision(logits, labels, jnp.ones(4)).compute()
        0.5
        >>> precision(logits, labels, jnp.ones(4), threshold=0.8).compute()
        1.0
    """
    counts = counted("precision", outputs, labels, weights, threshold)
    return _rate(PRECISION, counts, average, zero_division)


def recall(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The share of a class's examples that are found (the sensitivity): TP / (TP + FN).

    Arguments and errors as the module says.

    Example:
        >>> logits = jnp.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> round(recall(logits, jnp.array([0, 0, 0]), jnp.ones(3), average=0).compute(), 4)
        0.6667
    """
    counts = counted("recall", outputs, labels, weights, threshold)
    return _rate(RECALL, counts, average, zero_division)


def specificity(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The share of the examples of other classes that are kept apart: TN / (TN + FP).

    Arguments and errors as the module says.

    Example:
        >>> specificity(jnp.array([2.0, 1.0, -1.0]), jnp.array([1, 0, 0]), jnp.ones(3)).compute()
        0.5
    """
    counts = counted("specificity", outputs, labels, weights, threshold)
    return _rate(SPECIFICITY, counts, average, zero_division)


def negative_predictive_value(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The share of the answers "not this class" that are right: TN / (TN + FN).

    Arguments and errors as the module says.

    Example:
        >>> logits, labels = jnp.array([2.0, -1.0, -1.0]), jnp.array([1, 1, 0])
        >>> negative_predictive_value(logits, labels, jnp.ones(3)).compute()
        0.5
    """
    counts = counted("negative_predictive_value", outputs, labels, weights, threshold)
    return _rate(NEGATIVE_PREDICTIVE_VALUE, counts, average, zero_division)


def f_beta(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    beta: float,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The harmonic mean of precision and recall, in which recall counts `beta` times as much.

    van Rijsbergen (1979), chapter 7: `(1 + b^2) P R / (b^2 P + R)`. Further arguments and errors
    as the module says.

    Example:
        >>> logits, labels = jnp.array([2.0, 1.0, 1.0]), jnp.array([1, 0, 1])
        >>> round(f_beta(logits, labels, jnp.ones(3), beta=2.0).compute(), 4)
        0.9091
    """
    counts = counted("f_beta", outputs, labels, weights, threshold)
    return _rate(f_ratio(beta), counts, average, zero_division)


def f1(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
    threshold: float | None = None,
    zero_division: float = 0.0,
) -> Score:
    """The harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).

    Arguments and errors as the module says.

    Example:
        >>> f1(jnp.array([2.0, 1.0, 1.0]), jnp.array([1, 0, 1]), jnp.ones(3)).compute()
        0.8
    """
    counts = counted("f1", outputs, labels, weights, threshold)
    return _rate(f_ratio(1.0), counts, average, zero_division)


def counted(
    metric: str,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    threshold: float | None = None,
) -> Counts:
    """The counts of right and wrong answers: of "yes", of each class, or of each label.

    Args:
        metric: the name to use in messages.
        outputs: logits; see the module for the forms.
        labels: (B, ...).
        weights: (B,).
        threshold: as the module says.
    """
    outputs = losses.widened(outputs)
    if threshold is None or is_single(outputs):
        got = answered(metric, outputs, labels, weights, threshold)
        counts = against_rest(got)
        return jax.tree.map(lambda both: both[1:], counts) if got.single else counts
    outputs, labels = losses.paired(outputs, labels)
    weights = spread(metric, weights, outputs[..., 0]).astype(outputs.dtype)
    rows = (-1, outputs.shape[-1])
    answers, truth = (outputs > cut(threshold)).reshape(rows), (labels > 0.5).reshape(rows)
    wrong = (~is_yes_or_no(labels) | jnp.isnan(outputs)).reshape(rows).any(axis=1)
    return _counts(truth, answers, unless(wrong, weights))


def against_rest(got: Answers) -> Counts:
    """The counts of each class, with one logit an example those of no and of yes."""
    truth, answers = (
        jax.nn.one_hot(numbers, got.classes, dtype=bool) for numbers in (got.truth, got.answers)
    )
    return _counts(truth, answers, got.weights)


def _counts(truth: jax.Array, answers: jax.Array, weights: jax.Array) -> Counts:
    """The counts of truth and answers (N, K), bools, under weights (N,)."""

    def weight_of(which: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(which, weights[:, None], 0), axis=0)

    return Counts(
        true_positives=weight_of(truth & answers),
        false_positives=weight_of(~truth & answers),
        false_negatives=weight_of(truth & ~answers),
        true_negatives=weight_of(~truth & ~answers),
    )


def averaged(
    values: np.ndarray, support: np.ndarray, present: np.ndarray, average: Average
) -> float | np.ndarray:
    """One number from the values of the classes; NaN among them stays out of means.

    Args:
        values: (K,).
        support: (K,) what each counts in a weighted mean.
        present: (K,) bool; others stay out of means, unless there are no others.
        average: all but "micro", which has no values of classes to start from.
    """
    if average is None:
        return values
    if isinstance(average, int):
        return float(values[average])
    weights = support if average == "weighted" else np.ones_like(support)
    counts = (present if present.any() else ~present) & ~np.isnan(values)
    if not weights[counts].any():
        weights = np.ones_like(weights)
    return float(np.average(values[counts], weights=weights[counts])) if counts.any() else np.nan


def check_average(average: Average, classes: int) -> None:
    """Raise `InputError` where there is no such average, or no such class."""
    known = average is None or average in ("macro", "micro", "weighted")
    if not known and not (isinstance(average, int) and 0 <= average < classes):
        raise InputError(
            f"expected as average 'macro', 'micro', 'weighted', None, or the number of one of the "
            f"{classes} classes; got {average!r}"
        )


@dataclass(frozen=True)
class _Rate:
    """The formula of a rate."""

    ratio: Ratio
    average: Average
    zero_division: float | None  # None stands for NaN, which is unequal to itself

    def __call__(self, counts: Counts) -> float | np.ndarray:
        tp, fp, fn, tn = jax.tree.leaves(counts)
        support, present = tp + fn, tp + fp + fn > 0
        empty = np.nan if self.zero_division is None else self.zero_division
        total = tp + fp + fn + tn
        # Each of the four is NaN for some class, where an output was: no class has a rate.
        if np.isnan(total).any() or not total.any():
            values = np.full_like(tp, np.nan)
        elif self.average == "micro":
            return float(self.ratio.of(jax.tree.map(np.sum, counts), empty))
        else:
            values = self.ratio.of(counts, empty)
        return averaged(values, support, present, self.average)


def _rate(ratio: Ratio, counts: Counts, average: Average, zero_division: float) -> Score:
    check_average(average, len(counts.true_positives))
    # The formulas of sums that are merged have to be equal.
    empty = None if np.isnan(zero_division) else float(zero_division)
    return Score(counts, _Rate(ratio, average, empty), "max")
