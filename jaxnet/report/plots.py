"""Pictures of a run: learning curves, norms, what the network sees, and what a test showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxnet.files import expanded, write_atomically

if TYPE_CHECKING:
    from jaxnet.metrics.curves import Curve


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


# Beyond this many classes the numbers in the cells can't be read.
LABELLED_CLASSES = 20
# Beyond this many curves neither colours nor a legend tell them apart.
NAMED_CURVES = 10
# Colours that colour-blind readers tell apart (Okabe, Ito 2008), and a style for each round.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
# Panels beside each other.
PANELS = 3
# From so many times its median on, a value leaves nothing to see of the others: the axis goes up in
# powers of ten.
OUTLYING = 20.0
# The size of the tokens' names beside their attention, in points, and a line of them in inches.
TOKEN_POINTS = 8
LINE = 0.15
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
            {**_style(number), "label": f"{curve.name} ({area} {curve.area:.3f})"}
            for number, curve in enumerate(curves)
        ]
    areas = [curve.area for curve in curves if np.isfinite(curve.area)] or [np.nan]
    thin = {"color": COLOURS[0], "linewidth": 0.7, "alpha": 0.5}
    label = f"{len(curves)} classes (mean {area} {np.mean(areas):.3f})"
    return [{**thin, "label": None if index else label} for index in range(len(curves))]


def _style(number: int) -> dict[str, Any]:
    """The colour and the dashes of one of several lines."""
    round_, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": STYLES[round_ % len(STYLES)]}


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
        axes.plot(at, values, marker=".", label=name, **_style(number))
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10)
    if all(float(place).is_integer() for place in at):
        whole_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where vectors lie in the plane in which they differ most (principal components).

    Args:
        vectors: (n, width), n of at least 2.

    Returns:
        Points (n, 2), and the shares of the variance (2,) that lie along the two axes.

    Example:
        >>> points, shares = principal_plane(np.array([[0.0, 0.0, 3.0], [0.0, 0.0, 5.0]]))
        >>> np.abs(points).tolist(), shares.tolist()
        ([[1.0, 0.0], [1.0, 0.0]], [1.0, 0.0])
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    shares = (sizes**2)[:2] / max((sizes**2).sum(), np.finfo(np.float32).tiny)
    points = centred @ axes[:2].T
    missing = 2 - points.shape[1]
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def plot_plane(
    vectors: np.ndarray,
    path: Path,
    colours: np.ndarray,
    colour: str,
    labels: Mapping[int, str],
    title: str = "",
) -> None:
    """Draw vectors in the plane in which they differ most (principal components).

    Args:
        vectors: (n, width), n of at least 2.
        path: the picture to write.
        colours: (n,) numbers that colour the points.
        colour: what these are.
        labels: a name for some of the points, by their row.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    points, shares = principal_plane(vectors)
    figure = Figure(figsize=(8, 6.8), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.scatter(points[:, 0], points[:, 1], c=colours, s=14, alpha=0.7, cmap="viridis")
    figure.colorbar(drawn, label=colour)
    _name_points(axes, points, labels)
    axes.set(
        xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
        ylabel=f"second principal component ({shares[1]:.0%})",
        title=title,
    )
    axes.grid(alpha=0.3)
    save(figure, path)


def _name_points(axes: Any, points: np.ndarray, labels: Mapping[int, str]) -> None:
    """Write names beside points, but for those that would lie over a name before them."""
    axes.figure.draw_without_rendering()
    taken: list[Any] = []
    for row, label in labels.items():
        name = axes.annotate(
            label, points[row], fontsize=8, xytext=(3, 2), textcoords="offset points"
        )
        box = name.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            name.remove()
        else:
            taken.append(box)


def plot_attention(
    weights: np.ndarray,
    tokens: Sequence[str],
    path: Path,
    sources: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draw the attention weights: a row of pictures for each layer, one for each head.

    Colours go by the square root of a weight: heads that attend a little to many tokens are seen
    beside one that attends to a single token.

    Args:
        weights: (layers, heads, n, m), a row of each picture for each token that attends.
        tokens: the tokens that attend, n of them.
        path: the picture to write.
        sources: the tokens that are attended to, m of them; by default the same.
        title: what run it is.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    sources = tokens if sources is None else sources
    layers, heads, n, m = weights.shape
    # A line of text for each token, and room for the tokens' own length beside the pictures.
    width, height = max(2.0, LINE * m), max(2.0, LINE * n)
    beside, below = (0.075 * max(map(len, texts), default=1) + 0.5 for texts in (tokens, sources))
    size = (beside + heads * (width + 0.3) + 1.0, below + layers * (height + 0.4) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(layers, heads, squeeze=False)
    image, scale = None, PowerNorm(0.5, 0, float(weights.max()))
    for layer, head in product(range(layers), range(heads)):
        axes = grid[layer][head]
        image = axes.imshow(weights[layer, head], cmap="viridis", norm=scale, aspect="auto")
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        axes.set_xticks(range(m), sources if layer == layers - 1 else [""] * m, rotation=90)
        axes.set_yticks(range(n), tokens if head == 0 else [""] * n)
        axes.tick_params(labelsize=TOKEN_POINTS, length=0)
    figure.supxlabel("token that is attended to", fontsize=10)
    figure.supylabel("token that attends", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=grid, label="attention weight", fraction=0.03)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, atomically; the ending of `path` chooses the format."""
    path = expanded(path)
    with write_atomically(path, "wb") as file:
        figure.savefig(file, dpi=120, format=path.suffix.lstrip(".") or "png")
