"""Pictures of what a generator makes of noise, beside real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnet.report.pictures import save_grid

# Rows and columns of the pictures.
SIDE = 8


def symmetric_grid(images: np.ndarray) -> np.ndarray:
    """Images (n, H, W, C) from -1 to 1 as (rows, 8, H, W, C) from 0 to 1; 8 divides n.

    Example:
        >>> symmetric_grid(np.full((16, 4, 4, 1), -1.0)).shape
        (2, 8, 4, 4, 1)
    """
    return (images.reshape(-1, SIDE, *images.shape[1:]) + 1) / 2


def draw_generated(
    folder: Path,
    generate: Callable[[np.ndarray], np.ndarray],
    noise: np.ndarray,
    real: np.ndarray,
    title: str = "",
) -> None:
    """Draw `generated.png`, `interpolation.png` from noise to noise, and `real.png`.

    Args:
        folder: where to.
        generate: from noise (n, latent) to images (n, H, W, C) from -1 to 1.
        noise: (64, latent), of which the images are made.
        real: images (64, H, W, C) of the data, from -1 to 1.
        title: what run it is.
    """
    grid = symmetric_grid(generate(noise))
    save_grid(grid, folder / "generated.png", f"generated: {title}")
    between = interpolated(noise[:SIDE], noise[SIDE : 2 * SIDE], SIDE)
    path = folder / "interpolation.png"
    save_grid(symmetric_grid(generate(between)), path, f"from noise to noise: {title}")
    save_grid(symmetric_grid(real), folder / "real.png", f"real: {title}")


def interpolated(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Points from `start` to `end` along the great circle, where noise keeps its usual length.

    Args:
        start: (n, latent).
        end: (n, latent).
        steps: the number of points, both ends among them.

    Returns:
        (n * steps, latent), the way of each pair in a row.

    Example:
        >>> way = interpolated(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 3)
        >>> np.linalg.norm(way, axis=1).round(6).tolist()
        [1.0, 1.0, 1.0]
    """
    turns = np.linspace(0, np.pi / 2, steps, dtype=np.float32)
    way = [np.cos(t) * start + np.sin(t) * end for t in turns]
    return np.stack(way, axis=1).reshape(-1, start.shape[1])
