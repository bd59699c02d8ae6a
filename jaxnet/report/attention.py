"""Pictures of attention: which token attends to which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnet.report.plots import save

if TYPE_CHECKING:
    pass

# The size of the tokens' names beside their attention, in points, and a line of them in inches.
TOKEN_POINTS = 8
LINE = 0.15


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
