"""Pictures of what a network makes: grids of images, codes in the plane, curves in one panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnet.files import write_atomically
from jaxnet.report.plots import COLOURS, Columns, over_epochs, save
from jaxnet.report.predictions import LABELLED_CLASSES

# The size in pixels to which small images are enlarged.
TILE = 56
# The shapes of points, one for each round of colours.
MARKERS = ("o", "^", "s", "x")
# The height of the words around images, in pixels.
CAPTION = 16


def tiled(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Tile images, with a white gap between them.

    Args:
        images: (rows, columns, H, W, C) from 0 to 1; values beyond are cut off. One channel is
            grey; of more than three only the first is shown.
        gap: pixels between two images, after small ones have been enlarged.

    Returns:
        uint8 (height, width) or (height, width, 3).

    Example:
        >>> tiled(np.zeros((2, 3, 100, 100, 1)), gap=10).shape
        (210, 320)
    """
    rows, columns, height, width, channels = images.shape
    shown = images if channels == 3 else images[..., :1]
    # NaN has no colour: black.
    pixels = (np.nan_to_num(np.clip(shown, 0, 1)) * 255).round().astype(np.uint8)
    factor = max(1, TILE // max(height, width))
    pixels = pixels.repeat(factor, axis=2).repeat(factor, axis=3)
    pixels = np.pad(pixels, [(0, 0)] * 2 + [(0, gap)] * 2 + [(0, 0)], constant_values=255)
    whole = pixels.swapaxes(1, 2).reshape(rows * pixels.shape[2], columns * pixels.shape[3], -1)
    whole = whole[: len(whole) - gap, : whole.shape[1] - gap]
    return whole if whole.shape[-1] == 3 else whole[..., 0]


def save_grid(images: np.ndarray, path: Path, title: str = "", rows: Sequence[str] = ()) -> None:
    """Write `tiled(images)` as a PNG file, each of its pixels one of the picture's.

    Args:
        images: (rows, columns, H, W, C) from 0 to 1.
        path: the picture to write.
        title: what stands above; without it and `rows` the picture has the images alone.
        rows: what each row shows.
    """
    from PIL import Image

    pixels = tiled(images)
    if title or rows:
        pixels = _captioned(pixels, title, rows)
    with write_atomically(path, "wb") as file:
        Image.fromarray(pixels).save(file, format="png")


def _captioned(pixels: np.ndarray, title: str, rows: Sequence[str]) -> np.ndarray:
    """The picture with a title above and the names of its rows on the left."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(CAPTION)
    margin = CAPTION // 2
    left = max((round(font.getlength(row)) + 2 * margin for row in rows), default=0)
    above = CAPTION + 2 * margin if title else 0
    height, width = pixels.shape[:2]
    size = max(left + width, round(font.getlength(title)) + 2 * margin), above + height
    whole = Image.new("RGB", size, "white")
    whole.paste(Image.fromarray(pixels), (left, above))
    draw = ImageDraw.Draw(whole)
    draw.text((size[0] / 2, above / 2), title, "black", font, anchor="mm")
    for number, row in enumerate(rows):
        middle = above + (number + 0.5) * height / len(rows)
        draw.text((margin, middle), row, "black", font, anchor="lm")
    return np.asarray(whole)


def plot_together(
    history: Columns, columns: Sequence[str], path: Path, y: str = "", title: str = ""
) -> None:
    """Draw some of a run's measurements over the epochs in one panel.

    Args:
        history: the run.
        columns: those to draw, as the history calls them.
        path: the picture to write.
        y: what they measure.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    over_epochs(axes, history, {column.replace("_", " "): column for column in columns})
    axes.set_ylabel(y + axes.get_ylabel())
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def plot_labelled_points(
    points: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: Path,
    axis_names: tuple[str, str] = ("", ""),
    title: str = "",
) -> None:
    """Draw points of the plane; classes differ by colour and, beyond the first few, by shape.

    Args:
        points: (n, 2).
        labels: (n,) integer classes.
        names: what class 0, 1, ... is called.
        path: the picture to write.
        axis_names: what the axes are.
        title: what run it is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=axis_names[0], ylabel=axis_names[1])
    for number, name in enumerate(names):
        chosen = points[labels == number]
        turn, place = divmod(number, len(COLOURS))
        marker = MARKERS[turn % len(MARKERS)]
        axes.scatter(*chosen.T, s=10, alpha=0.6, color=COLOURS[place], marker=marker, label=name)
    axes.grid(alpha=0.3)
    if len(names) <= LABELLED_CLASSES:
        axes.legend(markerscale=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
