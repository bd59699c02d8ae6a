"""Areas under curves: how well scores rank what is so above what is not.

The area needs all scores side by side, which no sum over batches has. What is summed here are two
histograms of the scores of positives and of negatives, with bins as fine as the leading bits of a
float32 (`jaxnet.metrics.bins`):

    cells       16,384 for each class, scores within 1/128 of each other, over all numbers.
    parts       each cell once more in up to 1,024 parts, within 2**-17 of each other. There is no
                room for the parts of all cells, so that 64 places are shared by cells far from each
                other. A cell that nobody else shares its place with is told apart by its parts: so
                those are fine to which many scores crowd, wherever that is.

Scores in one bin count as ties. `error_bound` says, from the histograms, by how much that can be
wrong at most: for the ROC curve by half the chance that a positive and a negative share a bin. From
`WARNED` on it is said in the log. bfloat16 logits of sizes from 2**-32 to 2**32 have exact areas.
`jaxnet.metrics.curves` has the exact areas of all, for when all predictions are at hand.

Best used in evaluation (`eval_metrics`): the sums are K x 32,768 numbers and 2**17 more, which a
training loop would have to keep for each step.

What is scored:

    one logit       (B,) or (B, 1); labels (B,) of 0 and 1.
    one of C        logits (B, ..., C), integer labels (B, ...): each class against the rest, scored
                    by the log-odds of its softmax probability, which rank as the probability
                    does.
    any of K        logits (B, ..., K) and labels of the same shape: each label by its logit.

`average` is as in `jaxnet.metrics.precision_recall`; "micro" pools the classes' scores. A class
with only positives or only negatives (for average precision: without positives) has no area: its
value is NaN, and it stays out of means.
"""

from __future__ import annotations

import logging
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
from jaxnet.metrics.accuracy import class_labels, is_single, is_yes_or_no, spread, unless
from jaxnet.metrics.bins import Bins
from jaxnet.metrics.precision_recall import Average, averaged, check_average
from jaxnet.metrics.sums import Score

Areas = Callable[[np.ndarray, np.ndarray], tuple[float, float]]
BINS = Bins(bits=7, octaves=32)
# How many places there are for the parts of cells, and how many parts a cell has, as a power of 2.
PLACES, PART_BITS = 64, 10
# Areas that may be off by more are told of; the bound of the average precision is far from what is
# usual, where there are few examples.
WARNED = {"roc_auc": 0.01, "average_precision": 0.05}

log = logging.getLogger("jaxnet")


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Histogram:
    """The weight of positives and negatives by score, for each of K classes; see the module."""

    positives: Float[Array | np.ndarray, "classes cells"]
    negatives: Float[Array | np.ndarray, "classes cells"]
    positive_parts: Float[Array | np.ndarray, "classes places parts"]
    negative_parts: Float[Array | np.ndarray, "classes places parts"]

    def ordered(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Positives and negatives of each class by bin, the lowest scores first, on the host."""
        return [
            _ordered(*each) for each in zip(*map(np.asarray, jax.tree.leaves(self)), strict=True)
        ]


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
        >>> jax.jit(roc_auc)(logits, labels, jnp.ones(4)).compute()
        0.75
    """
    return _area("roc_auc", _roc_area, outputs, labels, weights, average)


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
        >>> round(jax.jit(average_precision)(logits, labels, jnp.ones(4)).compute(), 4)
        0.8333
    """
    return _area("average_precision", _precision_area, outputs, labels, weights, average)


def error_bound(score: Score) -> float | np.ndarray:
    """How far a `roc_auc` or an `average_precision` can be from the exact area, at most.

    Example:
        >>> logits = jnp.array([1.000001, 1.000002, 3.0, -1.0])
        >>> area = jax.jit(roc_auc)(logits, jnp.array([1, 0, 1, 0]), jnp.ones(4))
        >>> area.compute(), error_bound(area)  # the exact area is 0.75
        (0.875, 0.125)
    """
    return Score(score.sums, score.formula.bound()).compute()


def one_vs_rest(
    metric: str, outputs: ArrayLike, labels: ArrayLike
) -> tuple[
    Float[Array, "rows classes"],
    Bool[Array, "rows classes"],
    Bool[Array, " rows"],
    Bool[Array, " rows"],
]:
    """The score and the truth of each class, a row for each answer.

    And which rows have a label, and which one that can't be.

    Raises:
        InputError: the shapes do not fit.
    """
    outputs = losses.widened(outputs)
    width = 1 if is_single(outputs) else outputs.shape[-1]
    if width == 1 or jnp.shape(labels) == outputs.shape:
        scores, labels = losses.paired(outputs, labels)
        truth = (labels > 0.5).reshape(-1, width)
        known = jnp.ones(len(truth), bool)
        wrong = ~is_yes_or_no(labels).reshape(-1, width).all(axis=1)
    else:
        outputs, labels = class_labels(metric, outputs, labels)
        labels = labels.reshape(-1)
        scores, truth = log_odds(outputs), jax.nn.one_hot(labels, width, dtype=bool)
        known, wrong = labels >= 0, labels >= width
    return scores.reshape(-1, width), truth, known, wrong


def log_odds(logits: Float[Array, "*dims classes"]) -> Float[Array, "*dims classes"]:
    """`log(p / (1 - p))` of each class's softmax probability, precise also next to 1."""
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    # 1 - p would be all rounding where p is near 1, as only the largest can be: there it is summed.
    rest = jax.nn.logsumexp(jnp.where(best, -jnp.inf, logits), axis=-1, keepdims=True)
    return jnp.where(best, logits - rest, log_p - jnp.log1p(-jnp.exp(jnp.where(best, -1.0, log_p))))


def _area(
    metric: str,
    areas: Areas,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    average: Average,
) -> Score:
    scores, truth, known, wrong = one_vs_rest(metric, outputs, labels)
    rows = jnp.reshape(known, (jnp.shape(outputs)[0], -1))
    weights = jnp.where(known, spread(metric, weights, rows).astype(scores.dtype), 0)
    classes = scores.shape[1]
    check_average(average, classes)
    weights = unless(wrong[:, None] | jnp.isnan(scores), weights[:, None])
    # All classes together have as many parts as one may have, so that sums stay small.
    parts = 1 << max(0, PART_BITS - (classes - 1).bit_length())
    fine = Bins(BINS.bits + parts.bit_length() - 1, BINS.octaves).of(scores)
    cells, kind, number = fine // parts, jnp.where(truth, 0, 1), np.arange(classes)[None]

    def counted(*shape: int, at: tuple[jax.Array, ...]) -> jax.Array:
        zeros = jnp.zeros((2, classes, *shape), scores.dtype)
        return zeros.at[(kind, number, *at)].add(weights)

    whole = counted(BINS.count, at=(cells,))
    split = counted(PLACES, parts, at=(cells % PLACES, fine % parts))
    return Score(Histogram(*whole, *split), _Area(metric, areas, average), "max")


def _ordered(
    positives: np.ndarray, negatives: np.ndarray, yes: np.ndarray, no: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One class's bins in order: the parts of a cell that has its place to itself, else the cell.

    Args:
        positives: (cells,).
        negatives: (cells,).
        yes: (places, parts) of the positives.
        no: (places, parts) of the negatives.
    """
    cells = np.arange(len(positives))
    occupied = np.nonzero(positives + negatives)[0]
    tenants = np.bincount(occupied % len(yes), minlength=len(yes))
    split = occupied[tenants[occupied % len(yes)] == 1]
    wide = np.ones(len(cells), np.int64)
    wide[split] = yes.shape[1]
    starts = np.cumsum(wide) - wide
    places = starts[split][:, None] + np.arange(yes.shape[1])
    ordered = []
    for whole, parts in ((positives, yes), (negatives, no)):
        bins = np.zeros(wide.sum())
        bins[starts] = whole
        bins[places] = parts[split % len(yes)]
        ordered.append(bins)
    return ordered[0], ordered[1]


@dataclass(frozen=True)
class _Area:
    """The formula of an area, which tells where it may be far off, or of that bound.

    Attributes:
        metric: what it is called.
        areas: of a class's positives and negatives by bin, and a bound of its error.
        average: as in `jaxnet.metrics.precision_recall`.
        part: 0 for the area, 1 for the bound.
    """

    metric: str
    areas: Areas
    average: Average
    part: int = 0

    def bound(self) -> _Area:
        """The formula of how far the area can be from the exact one."""
        return _Area(self.metric, self.areas, self.average, 1)

    def __call__(self, histogram: Histogram) -> float | np.ndarray:
        if self.average == "micro":
            histogram = jax.tree.map(lambda sums: sums.sum(axis=0, keepdims=True), histogram)
        support = np.asarray(histogram.positives).sum(axis=1)
        others = np.asarray(histogram.negatives).sum(axis=1)
        if np.isnan(support + others).any() and self.average is not None:
            return np.nan
        both = np.array([self.areas(*bins) for bins in histogram.ordered()])
        average = 0 if self.average == "micro" else self.average
        area, bound = (averaged(column, support, ~np.isnan(column), average) for column in both.T)
        if not self.part and np.any(np.asarray(bound) > WARNED[self.metric]):
            log.warning(
                "%s may be off by %.2g: scores are so close to each other that they count as "
                "ties. It is right where they are equal; jaxnet.metrics.%s_of tells all apart.",
                self.metric,
                np.nanmax(bound),
                self.metric,
            )
        return bound if self.part else area


def _roc_area(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve, and by how much it may be off."""
    yes, no = _shares(positives), _shares(negatives)
    return float(no @ (np.cumsum(yes) - yes / 2)), float(yes @ no / 2)


def _precision_area(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """The average precision, and by how much it may be off.

    Within a bin the precision moves between all negatives first and all positives first.
    """
    yes, no = positives[::-1], negatives[::-1]
    tp, fp = np.cumsum(yes), np.cumsum(no)
    range_ = _precision(tp, fp - no) - _precision(tp - yes, fp)
    shares = _shares(positives)
    return float(shares @ _precision(tp, fp)), float(shares @ range_)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Each bin's share of its class, the highest scores first; NaN where the class is empty."""
    total = counts.sum()
    return counts[::-1] / total if total else np.full_like(counts, np.nan)


def _precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    return np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp != 0)
