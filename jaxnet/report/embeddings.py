"""Pictures of embeddings: the plane of their first two principal components."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.report.plots import save

if TYPE_CHECKING:
    pass


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
