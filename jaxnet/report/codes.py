"""Pictures of the codes of an autoencoder, and of what is made of them."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from jaxnet.report.embeddings import principal_plane


def code_plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Codes in a plane, and what its axes are.

    Args:
        codes: (n, latent); two dimensions are drawn as they are, of more the plane in which codes
            differ most (principal components).

    Returns:
        Points (n, 2), and the names of the axes.

    Example:
        >>> code_plane(np.ones((3, 1)))[1]
        ('the code', '')
    """
    if codes.shape[1] == 1:
        return np.concatenate([codes, np.zeros_like(codes)], axis=1), ("the code", "")
    if codes.shape[1] == 2:
        return codes, ("first dimension of the code", "second dimension of the code")
    points, shares = principal_plane(codes)
    first, second = (f"{share:.0%} of the variance" for share in shares)
    return points, (f"first principal component ({first})", f"second ({second})")


def even_codes(side: int) -> np.ndarray:
    """(side^2, 2) float32: a grid whose lines have equal shares of the normal distribution between.

    The first axis goes to the right and the second one up, as in the picture of the codes.

    Example:
        >>> print(even_codes(2).round(2))
        [[-0.67  0.67]
         [ 0.67  0.67]
         [-0.67 -0.67]
         [ 0.67 -0.67]]
    """
    places = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    return np.array([(x, y) for y in reversed(places) for x in places], np.float32)


def square(images: np.ndarray) -> np.ndarray:
    """Images (side^2, H, W, C) as the rows and columns (side, side, H, W, C) of a picture."""
    side = round(len(images) ** 0.5)
    return images.reshape(side, side, *images.shape[1:])
