"""Pictures of a run: learning curves, norms, what the network sees, and what a test showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxnet.files import expanded, write_atomically

if TYPE_CHECKING:
    pass


class Columns(Protocol):
    """The history of a run, as `jaxnet.training.History` holds it: a row of numbers an epoch."""

    @property
    def rows(self) -> Sequence[Mapping[str, float]]:
        """A mapping from column to number for each epoch."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        ...

    def __getitem__(self, column: str, /) -> Sequence[float]:
        """A column."""
        ...

    def __len__(self) -> int: ...


# Colours that colour-blind readers tell apart (Okabe, Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Line styles, one for each round of the colours.
STYLES = ("-", "--", ":")
# Panels beside each other.
PANELS = 3
# Beyond this multiple of the median a value hides all others: the axis goes up in
# powers of ten.
OUTLYING = 20.0
# Epochs that are drawn of a longer run.
NORM_LINES = 12
# The panels of the picture of norms, by what their columns begin with.
NORMS = {"grad_norm/": "norm of the gradient", "act_norm/": "root mean square of the outputs"}


def plot_curves(
    history: Columns, path: Path, best_step: int | None = None, title: str = ""
) -> None:
    """Draw each metric over the epochs, training beside validation.

    Where a few values are far above the rest, as the loss of an epoch that went wrong, the axis is
    logarithmic, or, where some aren't above 0, cut off with a note.

    Args:
        history: the run.
        path: the picture to write; its ending chooses the format.
        best_step: where to draw a line for the restored step.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    # What is measured layer by layer, as `grad_norm/Dense_0`, has a picture of its own.
    columns = (name for name in history.columns if name not in ("epoch", "step"))
    names = list(dict.fromkeys(n.removeprefix("val_") for n in columns if "/" not in n))
    across = min(PANELS, max(1, len(names)))
    down = max(1, -(-len(names) // across))
    figure = Figure(figsize=(4.6 * across, 3.6 * down), layout="constrained")
    figure.suptitle(title)
    best = next((row["epoch"] for row in history.rows if row["step"] == best_step), None)
    for index, name in enumerate(names):
        axes = figure.add_subplot(down, across, index + 1)
        if best is not None:
            axes.axvline(best, color="grey", linestyle=":", label=f"best (epoch {best:.0f})")
        over_epochs(axes, history, {"training": name, "validation": f"val_{name}"})
        axes.set_ylabel(name.replace("_", " ") + axes.get_ylabel())
    save(figure, path)


def over_epochs(axes: Any, history: Columns, columns: Mapping[str, str]) -> None:
    """Draw columns of a history over the epochs.

    A few values far away don't flatten the others: the axis is then logarithmic, which its label
    says, or cut off, which its title says.

    Args:
        axes: where to.
        history: the run.
        columns: what to draw, by what the legend calls it; each has its colour, also where the
            history lacks another.
    """
    marker = "." if len(history) < 30 else ""
    lines = []
    for (label, column), colour in zip(columns.items(), COLOURS, strict=False):
        if column in history.columns:
            lines.append(np.asarray(history[column], float))
            axes.plot(history["epoch"], lines[-1], label=label, marker=marker, color=colour)
    whole_numbers(axes.xaxis)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    _show_outliers(axes, np.concatenate([*lines, np.zeros(0)]))
    # One curve needs its name where it is that of validation alone.
    if len(axes.lines) > 1 or next(iter(columns.values())) not in history.columns:
        axes.legend(fontsize=8)


def _show_outliers(axes: Any, values: np.ndarray) -> None:
    """Choose the axis so that a few values far away don't flatten the others."""
    values = values[np.isfinite(values)]
    if not len(values) or np.abs(values).max() <= OUTLYING * np.median(np.abs(values)):
        return
    if values.min() > 0:
        axes.set(yscale="log", ylabel=" (logarithmic)")
        return
    low, high = np.quantile(values, [0.25, 0.75])
    reach = OUTLYING * (high - low) or 1.0
    seen = values[(values >= low - reach) & (values <= high + reach)]
    if len(seen) < len(values):
        margin = 0.05 * (seen.max() - seen.min()) or 0.5
        axes.set_ylim(seen.min() - margin, seen.max() + margin)
        axes.set_title(f"{len(values) - len(seen)} of {len(values)} values lie beyond", fontsize=8)


def whole_numbers(axis: Any) -> None:
    """Ticks of an axis at whole numbers only: there is no epoch 2.5."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plot_norms(history: Columns, path: Path, order: Sequence[str] = (), title: str = "") -> None:
    """Draw what `log_norms` measured: layers along x, norms up in powers of ten, a line an epoch.

    A norm of 0 has no place on such an axis and leaves a gap.

    Args:
        history: the run.
        path: the picture to write; its ending chooses the format.
        order: the layers in the order in which they run (`layer_order`); those that it lacks
            follow in the order of the history.
        title: what run it is.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    figure.suptitle(title)
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
        axes.set(yscale="log", ylabel=label, xlabel="layer, from the input to the output")
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
        axes.grid(alpha=0.3)
        if not np.isfinite(norms).any():
            axes.set(yticks=[], title="nothing above 0 was measured")
    whole_numbers(figure.colorbar(colours, ax=figure.axes, label="epoch").ax.yaxis)
    save(figure, path)


def _ordered(columns: Sequence[str], prefix: str, order: Sequence[str]) -> list[str]:
    """The layers with a column of this prefix."""
    layers = [column.removeprefix(prefix) for column in columns if column.startswith(prefix)]
    place = {layer: index for index, layer in enumerate(order)}
    return sorted(layers, key=lambda layer: place.get(layer, len(place)))


def plot_images(
    images: np.ndarray, path: Path, columns: Sequence[str] = (), title: str = ""
) -> None:
    """Draw a grid of images, such as the same ones augmented in several ways.

    Args:
        images: (rows, columns, H, W, C); integers stand for what their type holds, floats are
            stretched from the lowest value of all to the highest. One channel is grey; beyond
            three only the first is drawn.
        path: the picture to write.
        columns: a title for each column.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    rows, count = images.shape[:2]
    figure = Figure(figsize=(count, rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    shown = _displayable(images)
    for row, column in product(range(rows), range(count)):
        axes = figure.add_subplot(rows, count, row * count + column + 1)
        axes.imshow(shown[row, column], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        if row == 0 and columns:
            axes.set_title(columns[column], fontsize=9)
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
    lines: Mapping[str, Sequence[float]],
    at: Sequence[float],
    path: Path,
    x: str,
    y: str,
    title: str = "",
) -> None:
    """Draw several lines over the same places, such as the recall of several methods over k.

    Args:
        lines: the values of each line, by its name.
        at: where they stand on the x axis.
        path: the picture to write.
        x: what the x axis is called.
        y: what the y axis is called.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(lines.items()):
        axes.plot(at, values, marker=".", label=name, **line_style(number))
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10)
    if all(float(place).is_integer() for place in at):
        whole_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)


def line_style(number: int) -> dict[str, Any]:
    """The colour and the dashes of one of several lines."""
    round_, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": STYLES[round_ % len(STYLES)]}


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, atomically; the ending of `path` chooses the format."""
    path = expanded(path)
    with write_atomically(path, "wb") as file:
        figure.savefig(file, dpi=120, format=path.suffix.lstrip(".") or "png")
