"""Curves of all predictions at once, on the host: exact areas, points to draw, thresholds.

scikit-learn does the counting. Outputs, labels and weights are as in `jaxnet.metrics`, whole: what
`Trainer.predict` gives, with the labels of the same examples; without weights all count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from jaxnet.errors import InputError
from jaxnet.metrics.accuracy import is_single
from jaxnet.metrics.areas import one_vs_rest
from jaxnet.metrics.precision_recall import (
    NEGATIVE_PREDICTIVE_VALUE,
    PRECISION,
    RECALL,
    SPECIFICITY,
    Average,
    Counts,
    Ratio,
    averaged,
    check_average,
    f_ratio,
)
from jaxnet.metrics.reports import named
from jaxnet.names import lookup

Points = tuple[np.ndarray, np.ndarray]
# (truth, scores, weights), all (n,), to the area.
Area = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Curve:
    """A curve of one class against the rest.

    Attributes:
        name: the class.
        x: (points,) the false positive rate, or the recall.
        y: (points,) the true positive rate, or the precision.
        area: the area under it, exactly as `roc_auc_of` and `average_precision_of` have it; NaN
            where it is undefined, and then the curve has no points.
        share: the share of positives: the precision of guessing.
    """

    name: str
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    area: float
    share: float


def roc_auc_of(
    outputs: Shaped[ArrayLike, "*_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Shaped[ArrayLike, "*_batch"] | None = None,
    *,
    average: Average = "macro",
) -> float | np.ndarray:
    """The exact area under the ROC curve; `jaxnet.metrics.roc_auc` says what is scored.

    Raises:
        InputError: the shapes do not fit, or a score is NaN.

    Example:
        >>> roc_auc_of(np.array([3.0, 1.0, 2.0, -1.0]), np.array([1, 1, 0, 0]))
        0.75
    """
    return _area("roc_auc_of", _roc_area, outputs, labels, weights, average)


def average_precision_of(
    outputs: Shaped[ArrayLike, "*_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Shaped[ArrayLike, "*_batch"] | None = None,
    *,
    average: Average = "macro",
) -> float | np.ndarray:
    """The exact area under the precision-recall curve; see `jaxnet.metrics.average_precision`.

    Raises:
        InputError: the shapes do not fit, or a score is NaN.

    Example:
        >>> average_precision_of(np.array([3.0, 1.0, -1.0]), np.array([1, 1, 0]))
        1.0
    """
    return _area("average_precision_of", _precision_area, outputs, labels, weights, average)


def roc_curves(
    outputs: Shaped[ArrayLike, "*_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Shaped[ArrayLike, "*_batch"] | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> tuple[Curve, ...]:
    """The ROC curve of each class: the true positive rate over the false positive rate.

    Raises:
        InputError: the shapes do not fit, a score is NaN, or there are more or fewer names.

    Example:
        >>> (curve,) = roc_curves(np.array([3.0, 1.0, 2.0, -1.0]), np.array([1, 1, 0, 0]))
        >>> curve.name, curve.area, curve.x.tolist()
        ('yes', 0.75, [0.0, 0.0, 0.5, 0.5, 1.0])
    """
    from sklearn.metrics import roc_curve

    def points(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Points:
        return roc_curve(truth, scores, sample_weight=weights)[:2]

    return _curves("roc_curves", points, _roc_area, outputs, labels, weights, class_names)


def precision_recall_curves(
    outputs: Shaped[ArrayLike, "*_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Shaped[ArrayLike, "*_batch"] | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> tuple[Curve, ...]:
    """The precision of each class over its recall, from the lowest threshold to the highest.

    Raises:
        InputError: as `roc_curves`.

    Example:
        >>> (curve,) = precision_recall_curves(np.array([3.0, 1.0, 2.0]), np.array([1, 1, 0]))
        >>> curve.x.tolist(), round(curve.share, 4)
        ([1.0, 0.5, 0.5, 0.0], 0.6667)
    """
    from sklearn.metrics import precision_recall_curve

    def points(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Points:
        precisions, recalls, _ = precision_recall_curve(
            truth, scores, sample_weight=weights, drop_intermediate=True
        )
        return recalls, precisions

    metric = "precision_recall_curves"
    return _curves(metric, points, _precision_area, outputs, labels, weights, class_names)


def mean_area(curves: Sequence[Curve]) -> float:
    """The mean of the areas that are defined (the macro average); NaN if none is."""
    areas = [curve.area for curve in curves if not np.isnan(curve.area)]
    return float(np.mean(areas)) if areas else np.nan


def best_threshold(
    outputs: Shaped[ArrayLike, "*_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Shaped[ArrayLike, "*_batch"] | None = None,
    *,
    goal: str = "f1",
    min_precision: float = 0.0,
    min_recall: float = 0.0,
) -> float:
    """The probability above which "yes" should be the answer, for one logit an example.

    Of all thresholds that give different answers on these examples, one with the greatest `goal`
    under the conditions, half-way between two logits; of equal ones the highest. Choose it on
    validation data and report on test data, with `threshold=` of the metrics.

    Args:
        outputs: logits (n,) or (n, 1).
        labels: (n,) of 0 and 1.
        weights: (n,).
        goal: what to make as large as possible, a name of `GOALS`; "balanced_accuracy" is the
            same as Youden's J.
        min_precision: the precision that is needed at least.
        min_recall: the recall that is needed at least.

    Raises:
        InputError: no threshold fulfils the conditions, the labels are all of one class, the
            shapes do not fit, or a logit is NaN.

    Example:
        >>> logits, labels = np.array([-3.0, -2.0, -1.0, 2.0]), np.array([0, 0, 1, 1])
        >>> round(best_threshold(logits, labels), 4)  # the sigmoid of -1.5
        0.1824
    """
    from sklearn.metrics import roc_curve

    if not is_single(outputs):
        raise InputError(
            f"best_threshold expects one logit an example, (n,) or (n, 1); got "
            f"{list(np.shape(outputs))}"
        )
    scores, truth, weights = _columns("best_threshold", outputs, labels, weights)
    positives, total = weights @ truth[:, 0], weights.sum()
    if not 0 < positives < total:
        raise InputError("best_threshold needs labels of both classes; these are all of one")
    fpr, tpr, edges = roc_curve(
        truth[:, 0], scores[:, 0], sample_weight=weights, drop_intermediate=False
    )
    tp, fp = tpr * positives, fpr * (total - positives)
    counts = Counts(tp, fp, positives - tp, total - positives - fp)
    allowed = (PRECISION.of(counts) >= min_precision) & (RECALL.of(counts) >= min_recall)
    if not allowed.any():
        raise InputError(
            f"no threshold has a precision of {min_precision} and a recall of {min_recall} on "
            f"these {len(truth)} examples. Ask for less"
        )
    best = int(np.argmax(np.where(allowed, lookup(goal, GOALS, "goal")(counts), -np.inf)))
    # The answer is yes for the scores from edges[best] on: cut below that, above the next lower.
    upper, lower = np.append(edges, -np.inf)[best : best + 2]
    middle = upper - 1 if np.isinf(lower) else lower + 1 if np.isinf(upper) else (upper + lower) / 2
    least = np.finfo(np.float64).eps
    return float(np.clip(1 / (1 + np.exp(-np.clip(middle, -700, 700))), least, 1 - least))


def _youden(counts: Counts) -> np.ndarray:
    return (RECALL.of(counts) + SPECIFICITY.of(counts)) / 2


GOALS: Mapping[str, Callable[[Counts], np.ndarray]] = {
    "f1": f_ratio(1.0).of,
    "precision": PRECISION.of,
    "recall": RECALL.of,
    "specificity": SPECIFICITY.of,
    "negative_predictive_value": NEGATIVE_PREDICTIVE_VALUE.of,
    "accuracy": Ratio((1, 0, 0, 1), (1, 1, 1, 1)).of,
    "balanced_accuracy": _youden,
}
"""What `best_threshold` can aim at."""


def _roc_area(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if truth.all() or not truth.any():
        return np.nan
    return float(roc_auc_score(truth, scores, sample_weight=weights))


def _precision_area(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    if not truth.any():
        return np.nan
    return float(average_precision_score(truth, scores, sample_weight=weights))


def _area(
    metric: str,
    area: Area,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None,
    average: Average,
) -> float | np.ndarray:
    scores, truth, weights = _columns(metric, outputs, labels, weights)
    check_average(average, scores.shape[1])
    if average == "micro":
        return area(truth.ravel(), scores.ravel(), np.repeat(weights, scores.shape[1]))
    pairs = zip(truth.T, scores.T, strict=True)
    areas = np.array([area(yes, score, weights) for yes, score in pairs])
    return averaged(areas, weights @ truth, ~np.isnan(areas), average)


def _curves(
    metric: str,
    points: Callable[[np.ndarray, np.ndarray, np.ndarray], Points],
    area: Area,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None,
    class_names: Sequence[str] | None,
) -> tuple[Curve, ...]:
    scores, truth, weights = _columns(metric, outputs, labels, weights)
    curves = []
    for name, yes, score in zip(
        named(class_names, scores.shape[1]), truth.T, scores.T, strict=True
    ):
        under = area(yes, score, weights)
        x, y = (np.zeros(0),) * 2 if np.isnan(under) else points(yes, score, weights)
        share = float(weights @ yes / weights.sum()) if len(weights) else np.nan
        curves.append(Curve(name, x, y, under, share))
    return tuple(curves)


def _columns(
    metric: str, outputs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and truth (N, K) and weights (N,), float64, of the examples that count."""
    examples = np.shape(outputs)[0]
    weights = np.ones(examples) if weights is None else np.asarray(weights, np.float64)
    scores, truth, known, wrong = map(np.asarray, one_vs_rest(metric, outputs, labels))
    if weights.shape != (examples,):
        raise InputError(f"{metric} expects weights ({examples},); got {list(weights.shape)}")
    weights = np.repeat(weights, len(scores) // examples) if examples else weights
    counts = known & (weights != 0)
    if (wrong & counts).any():
        row = int((wrong & counts).argmax())
        raise InputError(
            f"{metric}: label {np.asarray(labels).reshape(len(scores), -1)[row]} of row {row} is "
            "none: expected 0 or 1, or the number of a class, below 0 for a gap"
        )
    scores, truth, weights = scores[counts].astype(np.float64), truth[counts], weights[counts]
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise InputError(f"{metric}: expected numbers as outputs; example {row} has a NaN")
    return scores, truth, weights
