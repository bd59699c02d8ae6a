"""Areas under curves: how well scores rank what is so above what is not.

The area needs all scores side by side, which no sum over batches has. What is summed here is a
histogram of the scores of positives and of negatives: 8,192 bins, whose edges are the float32 with
7 bits after the leading one. That is the precision of bfloat16, so for bfloat16 logits of sizes
from 2**-16 to 2**16 the areas are exact; for others, scores in one bin (within 1/128 of each other)
count as ties. `error_bound` says, from the histogram, how much that can matter at most: for
the ROC curve half the chance that a positive and a negative share a bin.
`jaxnet.metrics.curves` has the exact areas, for when all predictions are at hand.

Best used in evaluation (`eval_metrics`): the sums are 2 x K x 8,192 numbers, which a training loop
would have to keep for each step.

What is scored:

    one logit       (B,) or (B, 1); labels (B,) of 0 and 1.
    one of C        logits (B, ..., C), integer labels (B, ...): each class against the rest, scored
                    by the log-odds of its softmax probability, which rank as the probability
                    does. Rows whose label is outside `0 ... C-1` are left out.
    any of K        logits (B, ..., K) and labels of the same shape: each label by its logit.

`average` is as in `jaxnet.metrics.rates`; "micro" pools the classes' scores. A class with only
positives or only negatives (for average precision: without positives) has no area: its value is
NaN, and it stays out of means. A NaN among the scores makes the result NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from jaxnet import losses
from jaxnet.metrics.answers import class_labels, is_single, spread
from jaxnet.metrics.bins import Bins
from jaxnet.metrics.rates import Average, averaged, check_average
from jaxnet.metrics.sums import Score

BINS = Bins(bits=7, octaves=16)


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Histogram:
    """The weight of positives and negatives by score, for each of K classes."""

    positives: Float[Array | np.ndarray, "classes bins"]
    negatives: Float[Array | np.ndarray, "classes bins"]


def roc_auc(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
) -> Score:
    """The area under the ROC curve: the chance that a positive scores above a negative.

    Ties count half. See the module for arguments and precision.

    Raises:
        InputError: the shapes do not fit, or there is no such average.

    Example:
        >>> logits, labels = jnp.array([3.0, 1.0, 2.0, -1.0]), jnp.array([1, 1, 0, 0])
        >>> roc_auc(logits, labels, jnp.ones(4)).compute()
        0.75
    """
    return _area("roc_auc", _roc_areas, outputs, labels, weights, average)


def average_precision(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    average: Average = "macro",
) -> Score:
    """The area under the precision-recall curve (PR-AUC), as the mean precision over positives.

    As in scikit-learn, no trapezoids: between two points of the curve the precision is that of the
    higher recall. See the module for arguments and precision.

    Raises:
        InputError: the shapes do not fit, or there is no such average.

    Example:
        >>> logits, labels = jnp.array([3.0, 1.0, 2.0, -1.0]), jnp.array([1, 1, 0, 0])
        >>> round(average_precision(logits, labels, jnp.ones(4)).compute(), 4)
        0.8333
    """
    return _area("average_precision", _precision_areas, outputs, labels, weights, average)


def error_bound(score: Score) -> float | np.ndarray:
    """How far a `roc_auc` or an `average_precision` can be from the exact area, at most.

    Example:
        >>> logits, labels = jnp.array([1.001, 1.002, 3.0, -1.0]), jnp.array([1, 0, 1, 0])
        >>> area = roc_auc(logits, labels, jnp.ones(4))
        >>> area.compute(), error_bound(area)  # the exact area is 0.75
        (0.875, 0.125)
    """
    formula = score.formula
    bounds = {_roc_areas: _roc_bounds, _precision_areas: _precision_bounds}
    return Score(score.sums, _Area(bounds[formula.areas], formula.average)).compute()


def one_vs_rest(
    metric: str, outputs: ArrayLike, labels: ArrayLike
) -> tuple[Float[Array, "rows classes"], Bool[Array, "rows classes"], Bool[Array, " rows"]]:
    """The score and the truth of each class, a row for each answer, and which rows have a label.

    Raises:
        InputError: the shapes do not fit.
    """
    outputs = losses.widened(outputs)
    width = 1 if is_single(outputs) else outputs.shape[-1]
    if width == 1 or jnp.shape(labels) == outputs.shape:
        scores, labels = losses.paired(outputs, labels)
        truth = (labels > 0.5).reshape(-1, width)
        known = jnp.ones(len(truth), bool)
    else:
        outputs, labels = class_labels(metric, outputs, labels)
        scores, truth = log_odds(outputs), jax.nn.one_hot(labels.reshape(-1), width, dtype=bool)
        known = jnp.any(truth, axis=1)
    return scores.reshape(-1, width), truth, known


def log_odds(logits: Float[Array, "*dims classes"]) -> Float[Array, "*dims classes"]:
    """`log(p / (1 - p))` of each class's softmax probability, precise also next to 1."""
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    # 1 - p would be all rounding where p is near 1, as only the largest can be: there it is summed.
    rest = jax.nn.logsumexp(jnp.where(best, -jnp.inf, logits), axis=-1, keepdims=True)
    return jnp.where(best, logits - rest, log_p - jnp.log1p(-jnp.exp(jnp.where(best, -1.0, log_p))))


def _area(
    metric: str,
    areas: Callable[[Histogram], np.ndarray],
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    average: Average,
) -> Score:
    scores, truth, known = one_vs_rest(metric, outputs, labels)
    rows = jnp.reshape(known, (jnp.shape(outputs)[0], -1))
    weights = jnp.where(known, spread(metric, weights, rows).astype(scores.dtype), 0)[:, None]
    classes = scores.shape[1]
    check_average(average, classes)
    weights = jnp.where(jnp.isnan(scores) & (weights != 0), jnp.nan, weights)
    where = (jnp.where(truth, 0, 1), np.arange(classes)[None], BINS.of(scores))
    both = jnp.zeros((2, classes, BINS.count), scores.dtype).at[where].add(weights)
    return Score(Histogram(both[0], both[1]), _Area(areas, average), "max")


@dataclass(frozen=True)
class _Area:
    """The formula of an area, or of a bound of its error."""

    areas: Callable[[Histogram], np.ndarray]
    average: Average

    def __call__(self, histogram: Histogram) -> float | np.ndarray:
        if self.average == "micro":
            pooled = jax.tree.map(lambda counts: counts.sum(axis=0, keepdims=True), histogram)
            return float(self.areas(pooled)[0])
        areas = self.areas(histogram)
        support, others = (counts.sum(axis=1) for counts in jax.tree.leaves(histogram))
        if np.isnan(support + others).any() and self.average is not None:
            return np.nan
        return averaged(areas, support, ~np.isnan(areas), self.average)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Each bin's share of its class, the highest scores first; NaN where the class is empty."""
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total != 0)[:, ::-1]


def _roc_areas(histogram: Histogram) -> np.ndarray:
    positives, negatives = map(_shares, jax.tree.leaves(histogram))
    found = np.cumsum(positives, axis=1)
    return (negatives * (found - positives / 2)).sum(axis=1)


def _roc_bounds(histogram: Histogram) -> np.ndarray:
    positives, negatives = map(_shares, jax.tree.leaves(histogram))
    return (positives * negatives).sum(axis=1) / 2


def _precision_areas(histogram: Histogram) -> np.ndarray:
    positives, negatives = jax.tree.leaves(histogram)
    tp, fp = (np.cumsum(counts[:, ::-1], axis=1) for counts in (positives, negatives))
    return (_shares(positives) * _precision(tp, fp)).sum(axis=1)


def _precision_bounds(histogram: Histogram) -> np.ndarray:
    """Within a bin the precision moves between all negatives first and all positives first."""
    positives, negatives = (counts[:, ::-1] for counts in jax.tree.leaves(histogram))
    tp, fp = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    range_ = _precision(tp, fp - negatives) - _precision(tp - positives, fp)
    return (_shares(positives[:, ::-1]) * range_).sum(axis=1)


def _precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    return np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp != 0)
