"""Pictures of a run: learning curves and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.files import write_atomically

if TYPE_CHECKING:
    from jaxnet.training.history import History

# Beyond this many classes the numbers in the cells can't be read.
LABELLED_CLASSES = 20


def plot_curves(history: History, path: Path, best_step: int | None = None) -> None:
    """Draw each metric over the epochs, training beside validation.

    Args:
        history: the run.
        path: the picture to write; its ending chooses the format.
        best_step: where to draw a line for the restored step.
    """
    from matplotlib.figure import Figure

    names = [c for c in history.columns if c not in ("epoch", "step") and not c.startswith("val_")]
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
    _save(figure, path)


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
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path = Path(path)
    with write_atomically(path, "wb") as file:
        figure.savefig(file, dpi=120, format=path.suffix.lstrip(".") or "png")
