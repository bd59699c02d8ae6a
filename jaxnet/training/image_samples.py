"""A callback that draws what a network makes of the same inputs, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.report.pictures import save_grid
from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.history import Row

# Pictures that a run leaves of its samples, about.
KEPT = 10


@dataclass
class ImageSamples(Callback):
    """Writes `epoch_N.png` into a folder as a run goes on: what the network makes of the same.

    Attributes:
        folder: where to.
        draw: from the state to images (rows, columns, H, W, C) from 0 to 1.
        kept: about how many pictures a run leaves; those of the first and the last epoch are among
            them.
        title: what run it is; it stands above each picture, behind the epoch.
    """

    folder: Path
    draw: Callable[[Any], np.ndarray]
    kept: int = KEPT
    title: str = ""
    _epochs: int = field(default=0, init=False)

    def on_start(self, plan: Plan) -> None:
        """Find out how many epochs there are going to be."""
        self._epochs = plan.epochs

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Write a picture, if it is the epoch's turn."""
        epoch = int(row["epoch"])
        every = max(1, round(self._epochs / self.kept))
        if epoch in (1, self._epochs) or epoch % every == 0:
            name = f"epoch_{epoch:0{len(str(self._epochs))}}.png"
            title = ": ".join(part for part in (f"epoch {epoch}", self.title) if part)
            save_grid(self.draw(trained.state), self.folder / name, title)
