"""Who is taken for whom, and one number for the agreement of answers and truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.errors import InputError
from jaxnet.metrics.accuracy import answered
from jaxnet.metrics.precision_recall import RECALL, Counts, against_rest
from jaxnet.metrics.sums import Metric, Score

Weighting = Literal["linear", "quadratic"] | None


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Confusion:
    """A confusion matrix: `counts[t, p]` is the weight of the examples of class t taken for p."""

    counts: Float[Array | np.ndarray, "classes classes"]

    def compute(self) -> Float[np.ndarray, "classes classes"]:
        """The counts (C, C) in float64: a row for each true class, a column for each answer."""
        return np.asarray(self.counts, np.float64)


def confusion_matrix(num_classes: int, *, threshold: float | None = None) -> Metric:
    """A metric: who is taken for whom, a row for each true class and a column for each answer.

    It takes logits (B, ..., num_classes), integer labels (B, ...) and weights (B,), and raises
    `InputError` where the shapes do not fit. For two classes it takes one logit an example too,
    (B,) or (B, 1), with labels 0 and 1, where the answer is 1 above `threshold` (None: 0.5).

    Example:
        >>> logits = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(confusion_matrix(2)(logits, jnp.array([0, 1, 1]), jnp.ones(3)).compute())
        [[1. 0.]
         [1. 1.]]
    """

    def metric(
        outputs: Float[ArrayLike, " batch *_dims"],
        labels: Shaped[ArrayLike, "*_batch_dims"],
        weights: Float[ArrayLike, "*_batch"],
    ) -> Confusion:
        confusion = _confusion("confusion_matrix", outputs, labels, weights, threshold)
        if len(confusion.counts) != num_classes:
            raise InputError(
                f"confusion_matrix({num_classes}) expects logits (B, {num_classes}); got "
                f"{list(jnp.shape(outputs))}"
            )
        return confusion

    return metric


def balanced_accuracy(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    threshold: float | None = None,
) -> Score:
    """The mean of the recalls of all classes that have examples; chance gives 1 / C.

    Args:
        outputs: logits (B, ..., C), or one logit an example, (B,) or (B, 1).
        labels: (B, ...) class numbers; with one logit 0 and 1.
        weights: (B,).
        threshold: with one logit, the probability above which the answer is "yes" (None: 0.5).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> logits, labels = jnp.array([2.0, 1.0, 1.0, -1.0]), jnp.array([1, 1, 0, 0])
        >>> balanced_accuracy(logits, labels, jnp.ones(4)).compute()
        0.75
    """
    got = answered("balanced_accuracy", outputs, labels, weights, threshold)
    return Score(against_rest(got), _mean_recall, "max")


def matthews_correlation(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    threshold: float | None = None,
) -> Score:
    """The correlation of answers and truth: 1 is perfect, 0 is chance.

    Matthews (1975); for more than two classes R_K of Gorodkin (2004). It is 0 where all answers,
    or all labels, are of one class, as in scikit-learn. Arguments and errors as in
    `balanced_accuracy`.

    Example:
        >>> logits, labels = jnp.array([2.0, 1.0, 1.0, -1.0]), jnp.array([1, 1, 0, 0])
        >>> round(matthews_correlation(logits, labels, jnp.ones(4)).compute(), 4)
        0.5774
    """
    got = answered("matthews_correlation", outputs, labels, weights, threshold)
    return Score(against_rest(got), _matthews, "max")


def cohen_kappa(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    weighting: Weighting = None,
    threshold: float | None = None,
) -> Score:
    """How far answers and truth agree beyond chance: 1 is perfect, 0 is chance.

    Cohen (1960, 1968): 1 less the disagreement over what it would be if answers and truth were
    independent. It is NaN where that is 0, with one and the same class everywhere. The sums are a
    confusion matrix (C, C).

    Args:
        outputs: as in `balanced_accuracy`.
        labels: as in `balanced_accuracy`.
        weights: (B,).
        weighting: how bad it is to take class i for j: None counts all mistakes alike, "linear" by
            `|i - j|`, "quadratic" by its square, which suits grades.
        threshold: as in `balanced_accuracy`.

    Raises:
        InputError: the shapes do not fit, or there is no such weighting.

    Example:
        >>> logits, labels = jnp.array([2.0, 1.0, 1.0, -1.0]), jnp.array([1, 1, 0, 0])
        >>> cohen_kappa(logits, labels, jnp.ones(4)).compute()
        0.5
    """
    if weighting not in (None, "linear", "quadratic"):
        raise InputError(
            f"cohen_kappa expects as weighting None, 'linear' or 'quadratic'; got {weighting!r}"
        )
    confusion = _confusion("cohen_kappa", outputs, labels, weights, threshold)
    return Score(confusion, _Kappa(weighting), "max")


def _confusion(
    metric: str,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    threshold: float | None,
) -> Confusion:
    got = answered(metric, outputs, labels, weights, threshold)
    # A negative index would count from the end; the weight of an unknown label is 0.
    rows = jnp.clip(got.truth, 0, got.classes - 1)
    counts = jnp.zeros((got.classes, got.classes), got.weights.dtype)
    return Confusion(counts.at[rows, got.answers].add(got.weights))


def _mean_recall(counts: Counts) -> float:
    if np.isnan(np.sum(jax.tree.leaves(counts))):
        return np.nan
    recalls = RECALL.of(counts, zero_division=np.nan)
    return float(np.nanmean(recalls)) if np.isfinite(recalls).any() else np.nan


def _matthews(counts: Counts) -> float:
    tp, fp, fn, _ = jax.tree.leaves(counts)
    true, answered = tp + fn, tp + fp
    total = true.sum()
    if not total or np.isnan(total):
        return np.nan
    # Asked of the counts, which are exactly 0 then, and not of variances, which are rounded.
    if min(np.count_nonzero(true), np.count_nonzero(answered)) < 2:
        return 0.0
    covariance = tp.sum() * total - true @ answered
    variances = (total**2 - true @ true) * (total**2 - answered @ answered)
    return float(covariance / np.sqrt(variances))


@dataclass(frozen=True)
class _Kappa:
    """The formula of Cohen's kappa."""

    weighting: Weighting

    def __call__(self, confusion: Confusion) -> float:
        counts = np.asarray(confusion.counts)
        apart = np.abs(np.subtract.outer(*2 * [np.arange(len(counts), dtype=np.float64)]))
        badness = {None: apart > 0, "linear": apart, "quadratic": apart**2}[self.weighting]
        total = counts.sum()
        independent = np.outer(counts.sum(axis=1), counts.sum(axis=0))
        worst = (badness * independent).sum()
        return float(1 - total * (badness * counts).sum() / worst) if worst else np.nan
