"""Augmentations of colour. All are linear in the brightness, so that they fit any range of values.

The amounts have the meaning that they have in torchvision's `ColorJitter`: a factor drawn uniformly
from `[max(0, 1 - amount), 1 + amount]`, or a share of the colour circle.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.data.augmentation.base import (
    Augmentation,
    each,
    in_float,
    on_images,
    require,
    require_probability,
)
from jaxnet.errors import InputError

# How bright red, green and blue are to the eye (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def brightness(amount: float) -> Augmentation:
    """Multiply each image by a factor near 1.

    Raises:
        UsageError: `amount` isn't positive.
    """
    return _blended("brightness", amount, jnp.zeros_like)


def contrast(amount: float) -> Augmentation:
    """Move every pixel away from the image's mean grey, or towards it.

    Raises:
        UsageError: `amount` isn't positive.
    """
    return _blended("contrast", amount, lambda x: luma(x).mean(axis=(1, 2), keepdims=True))


def saturation(amount: float) -> Augmentation:
    """Move every pixel away from its own grey, or towards it.

    Raises:
        UsageError: `amount` isn't positive.
        InputError: the images don't have three channels.
    """
    return _blended("saturation", amount, lambda x: luma(_coloured(x, "saturation")))


def _blended(name: str, amount: float, other: Callable[[jax.Array], jax.Array]) -> Augmentation:
    """`factor * image + (1 - factor) * other(image)`."""
    require(amount > 0, name, "an amount above 0", amount)

    def blend(key: jax.Array, images: jax.Array) -> jax.Array:
        x = in_float(images)
        low, high = max(0.0, 1 - amount), 1 + amount
        factor = jax.random.uniform(key, (len(x),), x.dtype, low, high)
        factor, base = each(factor), other(x)
        return factor * x + (1 - factor) * base

    return on_images(blend)


def hue(amount: float) -> Augmentation:
    """Turn the colours by up to `amount` of the colour circle, either way.

    Raises:
        UsageError: `amount` isn't in (0, 0.5].
        InputError: the images don't have three channels.
    """
    require(0 < amount <= 0.5, "hue", "an amount in (0, 0.5]", amount)

    def turn(key: jax.Array, images: jax.Array) -> jax.Array:
        x = in_float(_coloured(images, "hue"))
        turns = jax.random.uniform(key, (len(x),), x.dtype, -amount, amount)
        return turn_hue(x, turns)

    return on_images(turn)


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turn the hue of each image (B, H, W, 3) by `turns` (B,) of the colour circle.

    Smith (1978), "Color gamut transform pairs": hue turns, saturation and value stay.

    Example:
        >>> red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
        >>> turn_hue(red, jnp.array([1 / 3])).round(3).ravel().tolist()
        [0.0, 1.0, 0.0]
    """
    red, green, blue = jnp.moveaxis(images, -1, 0)
    value = images.max(axis=-1)
    chroma = value - images.min(axis=-1)
    safe = jnp.where(chroma == 0, jnp.ones_like(chroma), chroma)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns[:, None, None]
    # Each channel is full over a third of the circle, absent over another, a ramp between.
    channels = []
    for peak in (5, 3, 1):
        place = jnp.mod(peak + sixths, 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))
    return jnp.stack(channels, axis=-1)


def grayscale(probability: float = 0.1) -> Augmentation:
    """Take the colour away, and keep three equal channels.

    Raises:
        UsageError: `probability` isn't in [0, 1].
        InputError: the images don't have three channels.
    """
    require_probability("grayscale", probability)

    def fade(key: jax.Array, images: jax.Array) -> jax.Array:
        x = in_float(_coloured(images, "grayscale"))
        grey = jax.random.bernoulli(key, probability, (len(x),))
        return jnp.where(each(grey), luma(x), x)

    return on_images(fade)


def gaussian_noise(deviation: float) -> Augmentation:
    """Add independent normal noise to every value.

    Args:
        deviation: the standard deviation, in units of the inputs: 8 is gentle for uint8 images.

    Raises:
        UsageError: `deviation` isn't positive.
    """
    require(deviation > 0, "gaussian_noise", "a deviation above 0", deviation)

    def add(key: jax.Array, images: jax.Array) -> jax.Array:
        x = in_float(images)
        return x + deviation * jax.random.normal(key, x.shape, x.dtype)

    return on_images(add)


def luma(images: jax.Array) -> jax.Array:
    """How bright each pixel is, (B, H, W, 1): of three channels by `LUMA`, of others their mean."""
    if images.shape[-1] != 3:
        return images.mean(axis=-1, keepdims=True)
    return images @ jnp.array(LUMA, images.dtype)[:, None]


def _coloured(images: jax.Array, name: str) -> jax.Array:
    if images.shape[-1] != 3:
        raise InputError(
            f"{name}: expected images with 3 channels (red, green, blue), got {images.shape}"
        )
    return images
