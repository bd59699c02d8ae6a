"""Pictures of predictions: confusion matrix, ROC and precision-recall curves, predicted values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.report.plots import COLOURS, line_style, save

if TYPE_CHECKING:
    from jaxnet.metrics.curves import Curve

# Beyond this many classes the numbers in the cells can't be read.
LABELLED_CLASSES = 20
# Beyond this many curves neither colours nor a legend tell them apart.
NAMED_CURVES = 10


def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw a confusion matrix; the shade of a cell is its share of the row.

    Args:
        counts: (classes, classes), true classes as rows.
        class_names: the names, in order.
        path: the picture to write.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.42 * min(classes, LABELLED_CLASSES)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class", fraction=0.046)
    right, examples = np.trace(counts), counts.sum()
    said = f"accuracy {right / max(examples, 1):.3f} of {examples:,.0f} examples"
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("\n".join(filter(None, [title, said])), fontsize=10)
    if classes <= LABELLED_CLASSES:
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right")
        axes.set_yticks(range(classes), class_names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    save(figure, path)


def plot_predicted(
    true: np.ndarray, predicted: np.ndarray, path: Path, target: str = "", title: str = ""
) -> None:
    """Draw predicted against true numbers; on the diagonal they are equal.

    Args:
        true: (n,) numbers.
        predicted: likewise.
        path: the picture to write.
        target: what was predicted, and in which unit.
        title: what run it is.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import r2_score, root_mean_squared_error

    figure = Figure(figsize=(5.0, 4.9), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linestyle=":", label="predicted = true")
    axes.scatter(true, predicted, s=12, alpha=0.5, color=COLOURS[0])
    of = f" {target}" if target else ""
    axes.set(xlabel=f"true{of}", ylabel=f"predicted{of}", aspect="equal")
    measures = [f"RMSE {root_mean_squared_error(true, predicted):.3g}", f"{len(true):,} examples"]
    if len(true) > 1:
        measures.insert(0, f"$R^2$ {r2_score(true, predicted):.3f}")
    axes.set_title("\n".join(filter(None, [title, ", ".join(measures)])), fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save(figure, path)


def plot_roc(curves: Sequence[Curve], path: Path, title: str = "") -> None:
    """Draw the ROC curve of each class against the rest, with the area under it.

    Args:
        curves: from `jaxnet.metrics.roc_curves`.
        path: the picture to write.
        title: what run it is.
    """
    axes, figure = _curve_axes("false positive rate", "true positive rate", title)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    for curve, style in zip(curves, _styles(curves, "AUC"), strict=True):
        axes.plot(curve.x, curve.y, **style)
    _legend(axes, "lower right")
    save(figure, path)


def plot_precision_recall(curves: Sequence[Curve], path: Path, title: str = "") -> None:
    """Draw the precision of each class over its recall, with the average precision.

    Args:
        curves: from `jaxnet.metrics.precision_recall_curves`.
        path: the picture to write.
        title: what run it is.
    """
    axes, figure = _curve_axes("recall", "precision", title)
    if len(curves) == 1:
        axes.axhline(curves[0].share, color="grey", linestyle=":", label="chance")
    for curve, style in zip(curves, _styles(curves, "AP"), strict=True):
        # The precision between two points is that of the higher recall, as the area has it.
        axes.plot(curve.x, curve.y, drawstyle="steps-post", **style)
    _legend(axes, "lower left")
    save(figure, path)


def _curve_axes(x: str, y: str, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return axes, figure


def _legend(axes: Any, inside: str) -> None:
    """A legend in a corner where no curve is, or, with more lines than fit there, outside."""
    if len(axes.lines) <= 3:
        axes.legend(loc=inside, fontsize=8)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)


def _styles(curves: Sequence[Curve], area: str) -> list[dict[str, Any]]:
    """How to draw each curve: named, or, where there are many, thin with one name for all."""
    if len(curves) <= NAMED_CURVES:
        return [
            {**line_style(number), "label": f"{curve.name} ({area} {curve.area:.3f})"}
            for number, curve in enumerate(curves)
        ]
    areas = [curve.area for curve in curves if np.isfinite(curve.area)] or [np.nan]
    thin = {"color": COLOURS[0], "linewidth": 0.7, "alpha": 0.5}
    label = f"{len(curves)} classes (mean {area} {np.mean(areas):.3f})"
    return [{**thin, "label": None if index else label} for index in range(len(curves))]
