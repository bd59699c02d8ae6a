"""A callback that saves sample images during training, for the same inputs each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.report.pictures import save_grid
from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.history import Row

# The approximate number of sample images per run.
KEPT = 10


@dataclass
class ImageSamples(Callback):
    """Writes `epoch_N.png` with images sampled from the network during training.

    Attributes:
        folder: the folder to write to.
        draw: maps the state to images (rows, columns, H, W, C) in [0, 1].
        kept: the approximate number of images, including those of the first and last epoch.
        title: the name of the run, shown above each image after the epoch.
    """

    folder: Path
    draw: Callable[[Any], np.ndarray]
    kept: int = KEPT
    title: str = ""
    _epochs: int = field(default=0, init=False)

    def on_start(self, plan: Plan) -> None:
        """Record the number of epochs."""
        self._epochs = plan.epochs

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Write an image if this epoch is one of those to keep."""
        epoch = int(row["epoch"])
        every = max(1, round(self._epochs / self.kept))
        if epoch in (1, self._epochs) or epoch % every == 0:
            name = f"epoch_{epoch:0{len(str(self._epochs))}}.png"
            title = ": ".join(part for part in (f"epoch {epoch}", self.title) if part)
            save_grid(self.draw(trained.state), self.folder / name, title)
