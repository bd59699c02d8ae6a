"""Augmentations that hide a part of each image."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxnet.data.augmentation.base import (
    Augmentation,
    as_type_of,
    each,
    in_float,
    on_images,
    require,
    require_probability,
)
from jaxnet.data.augmentation.geometry import rectangles

Fill = float | Literal["mean"]


def cutout(size: int, fill: Fill = "mean") -> Augmentation:
    """Hide a square of `size` pixels around a random pixel.

    DeVries and Taylor (2017), "Improved regularization of convolutional neural networks with
    cutout", section 3.2: the centre lies anywhere, so that a part of the square may lie outside.
    They fill with 0 after normalisation, which is the mean.

    Args:
        size: the square's side in pixels, at least 1.
        fill: the value to hide it by, or `"mean"`: the image's mean, by channel.

    Raises:
        UsageError: an impossible argument.
    """
    require(size >= 1, "cutout", "a size of at least 1 pixel", size)

    def hide(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        limits = jnp.array([[height], [width]])
        top, left = jax.random.randint(key, (2, batch), 0, limits) - size // 2
        hidden = box(top, left, top + size, left + size, (height, width))
        return _filled(images, hidden, fill)

    return on_images(hide)


def erase(
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    fill: Fill = "mean",
) -> Augmentation:
    """Hide a rectangle of random area and shape in some of the images.

    Zhong et al. (2020), "Random erasing data augmentation", algorithm 1. A rectangle that is too
    high or too wide is cut down to the image, where they draw again.

    Args:
        probability: of an image to be changed.
        area: the lowest and the highest share of the image's area.
        aspect: the narrowest and the widest ratio of width to height; drawn by its logarithm.
        fill: as in `cutout`.

    Raises:
        UsageError: an impossible argument.
    """
    require_probability("erase", probability)
    require(0 < area[0] <= area[1] <= 1, "erase", "an area within (0, 1]", area)
    require(0 < aspect[0] <= aspect[1], "erase", "an aspect above 0", aspect)

    def hide(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        size_key, place_key, which = jax.random.split(key, 3)
        shares = rectangles(size_key, batch, area, aspect, width / height)
        limits = jnp.array([[height], [width]])
        sizes = jnp.clip(jnp.round(shares * limits.astype(jnp.float32)).astype(jnp.int32), 1)
        top, left = jax.random.randint(place_key, (2, batch), 0, limits - sizes + 1)
        hidden = box(top, left, top + sizes[0], left + sizes[1], (height, width))
        hidden &= each(jax.random.bernoulli(which, probability, (batch,)))
        return _filled(images, hidden, fill)

    return on_images(hide)


def box(
    top: jax.Array, left: jax.Array, bottom: jax.Array, right: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """(B, height, width, 1): whether a pixel is in the rectangle; the ends (B,) are exclusive."""

    def inside(start: jax.Array, stop: jax.Array, length: int) -> jax.Array:
        places = jnp.arange(length)[None, :]
        return (places >= start[:, None]) & (places < stop[:, None])

    rows, columns = inside(top, bottom, size[0]), inside(left, right, size[1])
    return rows[:, :, None, None] & columns[:, None, :, None]


def _filled(images: jax.Array, hidden: jax.Array, fill: Fill) -> jax.Array:
    x = in_float(images)
    value = x.mean(axis=(1, 2), keepdims=True) if fill == "mean" else jnp.asarray(fill, x.dtype)
    return jnp.where(hidden, as_type_of(images, value), images)
