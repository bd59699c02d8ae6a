"""Pictures of a run: learning curves, norms, what the network sees, and what a test showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.files import expanded, write_atomically

if TYPE_CHECKING:
    from jaxnet.metrics.curves import Curve
    from jaxnet.training.history import History

# Beyond this many classes the numbers in the cells can't be read.
LABELLED_CLASSES = 20
# Beyond this many curves neither colours nor a legend tell them apart.
NAMED_CURVES = 10
# Epochs that are drawn of a longer run.
NORM_LINES = 12
# The panels of the picture of norms, by what their columns begin with.
NORMS = {"grad_norm/": "norm of the gradient", "act_norm/": "root mean square of the outputs"}


def plot_curves(history: History, path: Path, best_step: int | None = None) -> None:
    """Draw each metric over the epochs, training beside validation.

    Args:
        history: the run.
        path: the picture to write; its ending chooses the format.
        best_step: where to draw a line for the restored step.
    """
    from matplotlib.figure import Figure

    # What is measured layer by layer, as `grad_norm/Dense_0`, has a picture of its own.
    names = [
        column
        for column in history.columns
        if column not in ("epoch", "step") and not column.startswith("val_") and "/" not in column
    ]
    figure = Figure(figsize=(5 * max(1, len(names)), 3.6), layout="constrained")
    epochs = history["epoch"] if len(history) else []
    best = next((row["epoch"] for row in history.rows if row["step"] == best_step), None)
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        marker = "." if len(epochs) < 30 else ""
        axes.plot(epochs, history[name], label="training", marker=marker)
        if f"val_{name}" in history.columns:
            axes.plot(epochs, history[f"val_{name}"], label="validation", marker=marker)
        if best is not None:
            axes.axvline(best, color="grey", linestyle=":", label=f"best (epoch {best:.0f})")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def plot_norms(history: History, path: Path, order: Sequence[str] = ()) -> None:
    """Draw what `log_norms` measured: layers along x, norms up in powers of ten, a line an epoch.

    A norm of 0 has no place on such an axis and leaves a gap.

    Args:
        history: the run.
        path: the picture to write; its ending chooses the format.
        order: the layers in the order in which they run (`layer_order`); those that it lacks
            follow in the order of the history.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    epochs = history["epoch"] if len(history) else [1.0]
    colours = ScalarMappable(Normalize(1, max(epochs[-1], 2)), colormaps["viridis"])
    shown = np.unique(np.linspace(0, len(epochs) - 1, NORM_LINES).round().astype(int))
    for index, (prefix, label) in enumerate(NORMS.items()):
        axes = figure.add_subplot(1, 2, index + 1)
        layers = _ordered(history.columns, prefix, order)
        norms = np.array([history[prefix + layer] for layer in layers])
        norms = np.where(norms > 0, norms, np.nan)
        for epoch in shown if layers else ():
            axes.plot(norms[:, epoch], color=colours.to_rgba(epochs[epoch]), marker=".")
        axes.set(yscale="log", ylabel=label)
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
        axes.grid(alpha=0.3)
        if not np.isfinite(norms).any():
            axes.set(yticks=[], title="nothing above 0 was measured")
    figure.colorbar(colours, ax=figure.axes, label="epoch")
    save(figure, path)


def _ordered(columns: Sequence[str], prefix: str, order: Sequence[str]) -> list[str]:
    """The layers with a column of this prefix."""
    layers = [column.removeprefix(prefix) for column in columns if column.startswith(prefix)]
    place = {layer: index for index, layer in enumerate(order)}
    return sorted(layers, key=lambda layer: place.get(layer, len(place)))


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix; the shade of a cell is its share of the row.

    Args:
        counts: (classes, classes), true classes as rows.
        class_names: the names, in order.
        path: the picture to write.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.42 * min(classes, LABELLED_CLASSES)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if classes <= LABELLED_CLASSES:
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right")
        axes.set_yticks(range(classes), class_names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    save(figure, path)


def plot_predicted(true: np.ndarray, predicted: np.ndarray, path: Path) -> None:
    """Draw predicted against true numbers; on the diagonal they are equal.

    Args:
        true: (n,) numbers.
        predicted: likewise.
        path: the picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linestyle=":")
    axes.scatter(true, predicted, s=12, alpha=0.5)
    axes.set(xlabel="true", ylabel="predicted", aspect="equal")
    axes.grid(alpha=0.3)
    save(figure, path)


def plot_roc(curves: Sequence[Curve], path: Path) -> None:
    """Draw the ROC curve of each class against the rest, with the area under it.

    Args:
        curves: from `jaxnet.metrics.roc_curves`.
        path: the picture to write.
    """
    axes, figure = _curve_axes("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    for curve, style in zip(curves, _styles(curves, "AUC"), strict=True):
        axes.plot(curve.x, curve.y, **style)
    axes.legend(loc="lower right", fontsize=8)
    save(figure, path)


def plot_precision_recall(curves: Sequence[Curve], path: Path) -> None:
    """Draw the precision of each class over its recall, with the average precision.

    Args:
        curves: from `jaxnet.metrics.precision_recall_curves`.
        path: the picture to write.
    """
    axes, figure = _curve_axes("recall", "precision")
    if len(curves) == 1:
        axes.axhline(curves[0].share, color="grey", linestyle=":", label="chance")
    for curve, style in zip(curves, _styles(curves, "AP"), strict=True):
        # The precision between two points is that of the higher recall, as the area has it.
        axes.plot(curve.x, curve.y, drawstyle="steps-post", **style)
    axes.legend(loc="lower left", fontsize=8)
    save(figure, path)


def _curve_axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    return axes, figure


def _styles(curves: Sequence[Curve], area: str) -> list[dict[str, Any]]:
    """How to draw each curve: named, or, where there are many, thin with one name for all."""
    if len(curves) <= NAMED_CURVES:
        return [{"label": f"{curve.name} ({area} {curve.area:.3f})"} for curve in curves]
    areas = [curve.area for curve in curves if np.isfinite(curve.area)] or [np.nan]
    thin = {"color": "tab:blue", "linewidth": 0.7, "alpha": 0.5}
    label = f"{len(curves)} classes (mean {area} {np.mean(areas):.3f})"
    return [{**thin, "label": None if index else label} for index in range(len(curves))]


def plot_images(images: np.ndarray, path: Path, columns: Sequence[str] = ()) -> None:
    """Draw a grid of images, such as the same ones augmented in several ways.

    Args:
        images: (rows, columns, H, W, C); integers stand for what their type holds, floats are
            stretched from the lowest value of all to the highest. One channel is grey; beyond
            three only the first is drawn.
        path: the picture to write.
        columns: a title for each column.
    """
    from matplotlib.figure import Figure

    rows, count = images.shape[:2]
    figure = Figure(figsize=(count, rows + 0.3), layout="constrained")
    shown = _displayable(images)
    for row, column in product(range(rows), range(count)):
        axes = figure.add_subplot(rows, count, row * count + column + 1)
        axes.imshow(shown[row, column], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        if row == 0 and columns:
            axes.set_title(columns[column], fontsize=7)
    save(figure, path)


def _displayable(images: np.ndarray) -> np.ndarray:
    """In [0, 1], with three channels, or with none where grey."""
    if images.dtype.kind in "ui":
        low, high = 0.0, float(np.iinfo(images.dtype).max)
    else:
        low, high = float(images.min()), float(images.max())
    scaled = np.clip((images.astype(np.float32) - low) / ((high - low) or 1.0), 0, 1)
    return scaled if images.shape[-1] == 3 else scaled[..., 0]


def plot_lines(
    lines: Mapping[str, Sequence[float]], at: Sequence[float], path: Path, x: str, y: str
) -> None:
    """Draw several lines over the same places, such as the recall of several methods over k.

    Args:
        lines: the values of each line, by its name.
        at: where they stand on the x axis.
        path: the picture to write.
        x: what the x axis is called.
        y: what the y axis is called.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, values in lines.items():
        axes.plot(at, values, marker=".", label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Where vectors lie in the plane in which they differ most (principal components).

    Args:
        vectors: (n, width), n of at least 2.

    Returns:
        Points (n, 2), and the share of the variance that the plane has.

    Example:
        >>> points, share = principal_plane(np.array([[0.0, 0.0, 3.0], [0.0, 0.0, 5.0]]))
        >>> np.abs(points).tolist(), share
        ([[1.0, 0.0], [1.0, 0.0]], 1.0)
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    share = (sizes**2)[:2].sum() / max((sizes**2).sum(), np.finfo(np.float32).tiny)
    points = centred @ axes[:2].T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), float(share)


def plot_plane(
    vectors: np.ndarray, path: Path, colours: np.ndarray, colour: str, labels: Mapping[int, str]
) -> None:
    """Draw vectors in the plane in which they differ most (principal components).

    Args:
        vectors: (n, width), n of at least 2.
        path: the picture to write.
        colours: (n,) numbers that colour the points.
        colour: what these are.
        labels: a name for some of the points, by their row.
    """
    from matplotlib.figure import Figure

    points, share = principal_plane(vectors)
    figure = Figure(figsize=(8, 6.6), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.scatter(points[:, 0], points[:, 1], c=colours, s=14, alpha=0.7, cmap="viridis")
    figure.colorbar(drawn, label=colour)
    for row, label in labels.items():
        axes.annotate(label, points[row], fontsize=7, xytext=(3, 2), textcoords="offset points")
    axes.set(title=f"two principal components: {share:.0%} of the variance", xticks=[], yticks=[])
    save(figure, path)


def plot_attention(
    weights: np.ndarray, tokens: Sequence[str], path: Path, sources: Sequence[str] | None = None
) -> None:
    """Draw who attends to whom: a row of pictures for each layer, one for each head.

    Args:
        weights: (layers, heads, n, m), a row of each picture for each token that attends.
        tokens: the tokens that attend, n of them.
        path: the picture to write.
        sources: the tokens that are attended to, m of them; by default the same.
    """
    from matplotlib.figure import Figure

    sources = tokens if sources is None else sources
    layers, heads, n, m = weights.shape
    size = (0.6 + 3.0 * heads, 0.6 + 3.0 * layers * max(1, n / m))
    figure = Figure(figsize=size, layout="constrained")
    for layer, head in product(range(layers), range(heads)):
        axes = figure.add_subplot(layers, heads, layer * heads + head + 1)
        axes.imshow(weights[layer, head], cmap="viridis", vmin=0, vmax=float(weights.max()))
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        axes.set_xticks(range(m), sources if layer == layers - 1 else [""] * m, rotation=90)
        axes.set_yticks(range(n), tokens if head == 0 else [""] * n)
        axes.tick_params(labelsize=5, length=0)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, atomically; the ending of `path` chooses the format."""
    path = expanded(path)
    with write_atomically(path, "wb") as file:
        figure.savefig(file, dpi=120, format=path.suffix.lstrip(".") or "png")
