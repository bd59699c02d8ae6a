"""Augmentations that move pixels: flips, crops, and one affine sampler for all the rest."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

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

Border = Literal["zero", "edge", "reflect"]


def flip_left_right(probability: float = 0.5) -> Augmentation:
    """Mirror left and right.

    Raises:
        UsageError: `probability` isn't in [0, 1].
    """
    return _flip("flip_left_right", probability, axis=2)


def flip_up_down(probability: float = 0.5) -> Augmentation:
    """Turn upside down, as a mirror does.

    Raises:
        UsageError: `probability` isn't in [0, 1].
    """
    return _flip("flip_up_down", probability, axis=1)


def _flip(name: str, probability: float, axis: int) -> Augmentation:
    require_probability(name, probability)

    def flip(key: jax.Array, images: jax.Array) -> jax.Array:
        flipped = jax.random.bernoulli(key, probability, (len(images),))
        return jnp.where(each(flipped), jnp.flip(images, axis), images)

    return on_images(flip)


def crop(padding: int, border: Literal["zero", "reflect"] = "zero") -> Augmentation:
    """Pad each side by `padding` pixels and cut the image's size out at a random place.

    He et al. (2016), "Deep residual learning", section 4.2, pad CIFAR's 32x32 images by 4.

    Args:
        padding: pixels on each side, at least 1.
        border: what the padding holds: zeros, or the image mirrored at its outermost pixel.

    Raises:
        UsageError: an impossible argument.
        InputError: mirroring needs more pixels than the image has.
    """
    require(padding >= 1, "crop", "a padding of at least 1 pixel", padding)
    require(border in ("zero", "reflect"), "crop", "a border 'zero' or 'reflect'", border)

    def cut(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        if border == "reflect" and padding >= min(height, width):
            raise InputError(
                f"crop: an image of {height}x{width} can't be mirrored for a padding of {padding}: "
                f"the most is {min(height, width) - 1}; use border='zero'"
            )
        mode = "constant" if border == "zero" else "reflect"
        margin = (padding, padding)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode=mode)
        corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
        return cut_out(padded, corners, (height, width))

    return on_images(cut)


def cut_out(images: jax.Array, corners: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A window of one size out of each image.

    Args:
        images: (B, H, W, C).
        corners: (B, 2) integers, the first row and the first column of each window.
        size: the windows' height and width.

    Returns:
        (B, *size, C).
    """
    at_once, in_turn = partial(_cut_at_once, size=size), partial(_cut_in_turn, size=size)
    return jax.lax.platform_dependent(images, corners, cpu=in_turn, default=at_once)


def _cut_at_once(images: jax.Array, corners: jax.Array, size: tuple[int, int]) -> jax.Array:
    def one(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (*size, image.shape[-1]))

    return jax.vmap(one)(images, corners)


def _cut_in_turn(images: jax.Array, corners: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Image by image: XLA:CPU computes a gather pixel by pixel, some 60 times slower than this."""
    batch, _, _, channels = images.shape

    def one(i: jax.Array, cut: jax.Array) -> jax.Array:
        start = (i, corners[i, 0], corners[i, 1], jnp.zeros_like(i))
        window = jax.lax.dynamic_slice(images, start, (1, *size, channels))
        return jax.lax.dynamic_update_slice_in_dim(cut, window, i, axis=0)

    empty = jnp.zeros((batch, *size, channels), images.dtype)
    return jax.lax.fori_loop(0, batch, one, empty)


def resized_crop(
    area: tuple[float, float] = (0.25, 1.0), aspect: tuple[float, float] = (3 / 4, 4 / 3)
) -> Augmentation:
    """Cut out a rectangle of random area and shape and stretch it to the image's size.

    Szegedy et al. (2015), "Going deeper with convolutions", section 6, with areas from 8 %. What is
    too high or too wide for the image is cut down to it, where they draw again.

    Args:
        area: the lowest and the highest share of the image's area.
        aspect: the narrowest and the widest ratio of width to height; drawn by its logarithm.

    Raises:
        UsageError: an impossible argument.
    """
    require(0 < area[0] <= area[1] <= 1, "resized_crop", "an area within (0, 1]", area)
    require(0 < aspect[0] <= aspect[1], "resized_crop", "an aspect above 0", aspect)

    def cut(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        shape_key, place_key = jax.random.split(key)
        shares = rectangles(shape_key, batch, area, aspect, width / height)
        places = jax.random.uniform(place_key, (2, batch))
        return sample(
            images,
            jnp.broadcast_to(
                _stretched(shares[0], places[0], height)[:, :, None], images.shape[:3]
            ),
            jnp.broadcast_to(_stretched(shares[1], places[1], width)[:, None, :], images.shape[:3]),
            "edge",
        )

    return on_images(cut)


def _stretched(share: jax.Array, place: jax.Array, size: int) -> jax.Array:
    """Where each of `size` pixels comes from, (B, size), along one axis of a stretched window."""
    start = place * (1 - share) * size
    centres = jnp.arange(size, dtype=jnp.float32) + 0.5
    return start[:, None] + share[:, None] * centres[None, :] - 0.5


def rectangles(
    key: jax.Array,
    batch: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    image_aspect: float,
) -> jax.Array:
    """Random rectangles: (2, batch), the shares of the image's height and width.

    `area` is uniform, `aspect` (width / height, in pixels) uniform by its logarithm.
    """
    areas, aspects = jax.random.split(key)
    shares = jax.random.uniform(areas, (batch,), minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.array(aspect, jnp.float32))
    ratios = jnp.exp(jax.random.uniform(aspects, (batch,), minval=low, maxval=high)) / image_aspect
    return jnp.minimum(jnp.sqrt(jnp.stack([shares / ratios, shares * ratios])), 1.0)


def rotate(degrees: float, border: Border = "zero") -> Augmentation:
    """Rotate about the centre by up to `degrees` either way; see `affine`."""
    return affine(rotation=degrees, border=border)


def translate(share: float, border: Border = "zero") -> Augmentation:
    """Move by up to `share` of the height and of the width, either way; see `affine`."""
    return affine(translation=share, border=border)


def affine(
    *,
    rotation: float = 0.0,
    translation: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
    border: Border = "zero",
) -> Augmentation:
    """Rotate, shear, zoom and move at once, with a single bilinear interpolation.

    Every amount is drawn uniformly between minus and plus its argument. About the image's centre a
    point `p` (to the right, downwards) goes to `zoom * rotation * shear * p + translation`.

    Args:
        rotation: degrees, clockwise as one looks at the image.
        translation: a share of the height and of the width.
        zoom: the factor lies in [1 - zoom, 1 + zoom].
        shear: degrees, of the vertical axis.
        border: what lies beyond the image: zeros, its edge, or its mirror image.

    Raises:
        UsageError: an impossible argument.
    """
    amounts = (rotation, translation, zoom, shear)
    require(min(amounts) >= 0 < max(amounts), "affine", "amounts from 0, one above", amounts)
    require(zoom < 1, "affine", "a zoom below 1", zoom)
    require(shear < 90, "affine", "a shear below 90 degrees", shear)
    require(border in get_args(Border), "affine", f"a border of {get_args(Border)}", border)

    def moved(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        angle, factor, slant, down, right = jax.random.uniform(key, (5, batch), minval=-1, maxval=1)
        matrices = linear_maps(
            jnp.deg2rad(rotation * angle), 1 + zoom * factor, jnp.deg2rad(shear * slant)
        )
        offsets = translation * jnp.stack([right * width, down * height], axis=-1)
        return warp(images, matrices, offsets, border)

    return on_images(moved)


def linear_maps(angle: jax.Array, zoom: jax.Array, shear: jax.Array) -> jax.Array:
    """`zoom * rotation * shear`, (B, 2, 2), on points (to the right, downwards); angles in radians.

    Example:
        >>> zero, one = jnp.zeros(1), jnp.ones(1)
        >>> print(linear_maps(zero + jnp.pi / 2, 2 * one, zero)[0].round(4) + 0.0)
        [[ 0. -2.]
         [ 2.  0.]]
    """
    cos, sin, slant = zoom * jnp.cos(angle), zoom * jnp.sin(angle), jnp.tan(shear)
    rows = [[cos, cos * slant - sin], [sin, sin * slant + cos]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def warp(
    images: jax.Array, matrices: jax.Array, offsets: jax.Array, border: Border = "zero"
) -> jax.Array:
    """Move every point `p` of an image, from its centre, to `matrix @ p + offset`.

    Args:
        images: (B, H, W, C).
        matrices: (B, 2, 2), invertible, on points (to the right, downwards) in pixels.
        offsets: (B, 2) pixels to the right and downwards.
        border: see `affine`.

    Returns:
        (B, H, W, C) floats.
    """
    _, height, width, _ = images.shape
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    # Each output pixel asks where it comes from, so that none is left empty.
    (a, b), (c, d) = jnp.moveaxis(matrices, 0, -1)[..., None, None]
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] - centre_x - offsets[:, :1, None]
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] - centre_y - offsets[:, 1:, None]
    determinant = a * d - b * c
    columns = (d * x - b * y) / determinant + centre_x
    rows = (a * y - c * x) / determinant + centre_y
    return sample(images, rows, columns, border)


def sample(
    images: jax.Array, rows: jax.Array, columns: jax.Array, border: Border = "zero"
) -> jax.Array:
    """The images' values between pixels, by bilinear interpolation.

    Args:
        images: (B, H, W, C).
        rows: (B, h, w), where to look, in pixels; 0 is the centre of the first.
        columns: (B, h, w), likewise.
        border: see `affine`.

    Returns:
        (B, h, w, C) floats.

    Example:
        >>> image = jnp.array([[0.0, 10.0]]).reshape(1, 1, 2, 1)
        >>> sample(image, jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), 0.25)).item()
        2.5
    """
    batch, height, width, channels = images.shape
    pixels = images.reshape(-1, channels)
    first = jnp.arange(batch)[:, None, None] * (height * width)
    total = jnp.zeros((*rows.shape, channels), in_float(images[:0]).dtype)
    for row, row_weight in _neighbours(rows, height, border):
        for column, column_weight in _neighbours(columns, width, border):
            index = first + row * width + column
            value = in_float(pixels.at[index].get(mode="promise_in_bounds"))
            total += value * (row_weight * column_weight)[..., None].astype(total.dtype)
    return total


def _neighbours(places: jax.Array, size: int, border: Border) -> list[tuple[jax.Array, jax.Array]]:
    """The pixels on both sides of each place along an axis, and their weights."""
    below = jnp.floor(places)
    share = places - below
    pairs = []
    for index, weight in ((below, 1 - share), (below + 1, share)):
        if border == "zero":
            weight = jnp.where((index >= 0) & (index < size), weight, 0.0)
        elif border == "reflect" and size > 1:
            period = 2.0 * (size - 1)
            index = jnp.mod(index, period)
            index = jnp.minimum(index, period - index)
        pairs.append((jnp.clip(index, 0, size - 1).astype(jnp.int32), weight))
    return pairs
