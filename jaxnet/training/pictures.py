"""Pictures of what a network makes: grids of images, codes in the plane, curves in one panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.files import write_atomically
from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.history import History, Row
from jaxnet.training.plots import LABELLED_CLASSES, save

# Small images are enlarged to about so many pixels, so that a picture of them can be looked at.
TILE = 56
# Pictures that a run leaves of its samples, about.
KEPT = 10


def tiled(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Images beside and below one another, with a white gap of so many pixels between them.

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


def save_grid(images: np.ndarray, path: Path) -> None:
    """Write `tiled(images)`, (rows, columns, H, W, C) from 0 to 1, as a PNG file."""
    from PIL import Image

    with write_atomically(path, "wb") as file:
        Image.fromarray(tiled(images)).save(file, format="png")


@dataclass
class ImageSamples(Callback):
    """Writes `epoch_N.png` into a folder as a run goes on: what the network makes of the same.

    Attributes:
        folder: where to.
        draw: from the state to images (rows, columns, H, W, C) from 0 to 1.
        kept: about how many pictures a run leaves; those of the first and the last epoch are among
            them.
    """

    folder: Path
    draw: Callable[[Any], np.ndarray]
    kept: int = KEPT
    _epochs: int = field(default=0, init=False)

    def on_start(self, plan: Plan) -> None:
        """Find out how many epochs there are going to be."""
        self._epochs = plan.epochs

    def on_epoch(self, row: Row, state: Any) -> None:
        """Write a picture, if it is the epoch's turn."""
        epoch = int(row["epoch"])
        every = max(1, round(self._epochs / self.kept))
        if epoch in (1, self._epochs) or epoch % every == 0:
            name = f"epoch_{epoch:0{len(str(self._epochs))}}.png"
            save_grid(self.draw(state), self.folder / name)


def plot_together(history: History, columns: Sequence[str], path: Path) -> None:
    """Draw some of a run's measurements over the epochs in one panel.

    Args:
        history: the run.
        columns: those to draw, as the history calls them.
        path: the picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    for column in columns:
        axes.plot(history["epoch"], history[column], label=column.replace("_", " "))
    axes.set(xlabel="epoch")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_labelled_points(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw points of the plane, coloured by class.

    Args:
        points: (n, 2).
        labels: (n,) integer classes.
        names: what class 0, 1, ... is called.
        path: the picture to write.
        title: what the axes are.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.add_subplot(title=title)
    colours = colormaps["tab10" if len(names) <= 10 else "gist_ncar"].resampled(len(names))
    for number, name in enumerate(names):
        chosen = points[labels == number]
        axes.scatter(*chosen.T, s=6, alpha=0.6, color=colours(number), label=name)
    axes.grid(alpha=0.3)
    if len(names) <= LABELLED_CLASSES:
        axes.legend(markerscale=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
