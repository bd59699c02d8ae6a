"""Pooling over the spatial axes of `(batch, *spatial, channels)` arrays, in any number of axes.

XLA's own max-pool (`lax.reduce_window`) has a slow gradient on CPU: a train step of a small CNN
takes half the time with the windows cut out by strided slices instead, which is possible whenever
they do not overlap. Both forms give the whole gradient of a window to its first maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Real

from jaxnet.layers.windows import Padding, conv_output_size, padding_pairs, per_axis

# One slice per element of the window: beyond this the program grows faster than the gain.
_MAX_SLICES = 16


def max_pool(
    x: Real[Array, "batch *_spatial channels"],
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Real[Array, "batch *_windows channels"]:
    """The maximum of every window; at a tie the first maximum takes all of the gradient.

    Args:
        x: `(batch, *spatial, channels)`.
        window: the window's size, one number for all spatial axes or one for each.
        strides: the step between windows; by default the window's size, so they do not overlap.
        padding: `"VALID"` drops what fills no window; `"SAME"`, `"FULL"`, a number or pairs as in
            `conv`. Padding never wins the maximum.

    Returns:
        `(batch, *windows, channels)`.

    Raises:
        InputError: the window does not fit the array.

    Example:
        >>> x = jnp.asarray([1.0, 3.0, 2.0, 5.0, 4.0]).reshape(1, 5, 1)
        >>> max_pool(x, 2).ravel().tolist()
        [3.0, 5.0]
    """
    windows = _checked(x, window, strides, padding)
    if windows.tile and math.prod(windows.sizes) <= _MAX_SLICES:
        return _tiled_max(x, windows.sizes)
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return nn.pool(x, np.array(lowest, x.dtype), lax.max, *windows)


def min_pool(
    x: Real[Array, "batch *_spatial channels"],
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Real[Array, "batch *_windows channels"]:
    """The minimum of every window: see `max_pool`.

    Example:
        >>> min_pool(jnp.asarray([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1), 2).ravel().tolist()
        [1.0, 2.0]
    """
    # The bits of an integer the other way round: -x has no room for the lowest, nor for unsigned.
    flip = jnp.negative if jnp.issubdtype(x.dtype, jnp.floating) else jnp.invert
    return flip(max_pool(flip(x), window, strides, padding))


def avg_pool(
    x: Float[Array, "batch *_spatial channels"],
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Float[Array, "batch *_windows channels"]:
    """The mean of every window: see `max_pool`.

    Args:
        x: `(batch, *spatial, channels)`.
        window: as in `max_pool`.
        strides: as in `max_pool`.
        padding: as in `max_pool`, with zeros.
        count_include_pad: whether padding counts in the mean (as PyTorch does by default).

    Example:
        >>> avg_pool(jnp.asarray([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1), 2).ravel().tolist()
        [2.0, 3.5]
    """
    windows = _checked(x, window, strides, padding)
    if windows.tile:
        return _split(x, windows.sizes).mean(axis=_window_axes(windows.sizes))
    total = nn.pool(x, 0.0, lax.add, *windows)
    if count_include_pad:
        return total / math.prod(windows.sizes)
    return total / nn.pool(jnp.ones_like(x), 0.0, lax.add, *windows)


def global_max_pool(
    x: Real[Array, "batch *_spatial channels"],
) -> Real[Array, "batch channels"]:
    """The maximum over all spatial axes: `(batch, *spatial, channels)` to `(batch, channels)`."""
    return x.max(axis=tuple(range(1, x.ndim - 1)))


def global_min_pool(
    x: Real[Array, "batch *_spatial channels"],
) -> Real[Array, "batch channels"]:
    """The minimum over all spatial axes: `(batch, *spatial, channels)` to `(batch, channels)`."""
    return x.min(axis=tuple(range(1, x.ndim - 1)))


def global_avg_pool(
    x: Float[Array, "batch *_spatial channels"],
) -> Float[Array, "batch channels"]:
    """The mean over all spatial axes: `(batch, *spatial, channels)` to `(batch, channels)`."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def adaptive_avg_pool(
    x: Float[Array, "batch *_spatial channels"], size: int | Sequence[int]
) -> Float[Array, "batch *_size channels"]:
    """The image averaged to a given size, whatever its own: PyTorch's `AdaptiveAvgPool2d`.

    Of n pixels along an axis, output i of m is the mean of those from `floor(i n / m)` up to, but
    without, `ceil((i + 1) n / m)`. Windows overlap where m doesn't divide n; where m is larger
    than n, pixels are repeated.

    Args:
        x: `(batch, *spatial, channels)`.
        size: the size to come to, one number for all spatial axes or one for each.

    Returns:
        `(batch, *size, channels)`.

    Example:
        >>> x = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 5, 1)
        >>> adaptive_avg_pool(x, 2).ravel().tolist()
        [2.0, 4.0]
    """
    sizes = per_axis(size, x.ndim - 2, "size")
    for axis, outputs in enumerate(sizes, start=1):
        pixels = x.shape[axis]
        if pixels == outputs:
            continue
        windows = [(i * pixels // outputs, -(-(i + 1) * pixels // outputs)) for i in range(outputs)]
        means = [lax.slice_in_dim(x, *ends, axis=axis).mean(axis) for ends in windows]
        x = jnp.stack(means, axis)
    return x


class MaxPool(nn.Module):
    """`max_pool` as a layer.

    Args:
        window: see `max_pool`.
        strides: see `max_pool`.
        padding: see `max_pool`.

    Example:
        >>> MaxPool(2).apply({}, jnp.asarray([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1)).ravel()
        Array([3., 5.], dtype=float32)
    """

    window: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "VALID"

    def __call__(
        self, inputs: Real[Array, "batch *_spatial channels"]
    ) -> Real[Array, "batch *_windows channels"]:
        """`(batch, *spatial, channels)` to `(batch, *windows, channels)`."""
        return max_pool(inputs, self.window, self.strides, self.padding)


class MinPool(MaxPool):
    """`min_pool` as a layer, with the arguments of `MaxPool`."""

    def __call__(
        self, inputs: Real[Array, "batch *_spatial channels"]
    ) -> Real[Array, "batch *_windows channels"]:
        """`(batch, *spatial, channels)` to `(batch, *windows, channels)`."""
        return min_pool(inputs, self.window, self.strides, self.padding)


class AvgPool(MaxPool):
    """`avg_pool` as a layer, with the arguments of `MaxPool` and one more.

    Args:
        count_include_pad: see `avg_pool`; Keras counts no padding, PyTorch does.
    """

    count_include_pad: bool = True

    def __call__(
        self, inputs: Float[Array, "batch *_spatial channels"]
    ) -> Float[Array, "batch *_windows channels"]:
        """`(batch, *spatial, channels)` to `(batch, *windows, channels)`."""
        return avg_pool(inputs, self.window, self.strides, self.padding, self.count_include_pad)


class GlobalMaxPool(nn.Module):
    """`global_max_pool` as a layer."""

    def __call__(
        self, inputs: Real[Array, "batch *_spatial channels"]
    ) -> Real[Array, "batch channels"]:
        """`(batch, *spatial, channels)` to `(batch, channels)`."""
        return global_max_pool(inputs)


class GlobalMinPool(nn.Module):
    """`global_min_pool` as a layer."""

    def __call__(
        self, inputs: Real[Array, "batch *_spatial channels"]
    ) -> Real[Array, "batch channels"]:
        """`(batch, *spatial, channels)` to `(batch, channels)`."""
        return global_min_pool(inputs)


class GlobalAvgPool(nn.Module):
    """`global_avg_pool` as a layer."""

    def __call__(
        self, inputs: Float[Array, "batch *_spatial channels"]
    ) -> Float[Array, "batch channels"]:
        """`(batch, *spatial, channels)` to `(batch, channels)`."""
        return global_avg_pool(inputs)


class _Windows(NamedTuple):
    """One number, or pair, for each spatial axis."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    pads: list[tuple[int, int]]

    @property
    def tile(self) -> bool:
        """Whether they cut the array into tiles, but for what is left over at its end."""
        return self.sizes == self.strides and not any(map(sum, self.pads))


def _checked(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
) -> _Windows:
    """The windows, known to fit the array."""
    window = per_axis(window, x.ndim - 2, "window")
    strides = per_axis(window if strides is None else strides, x.ndim - 2, "strides")
    spatial = x.shape[1:-1]
    pads = padding_pairs(padding, spatial, window, strides)
    for axis in zip(spatial, window, strides, pads, strict=True):
        conv_output_size(*axis)
    return _Windows(window, strides, pads)


def _window_axes(window: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(2, 2 + 2 * len(window), 2))


def _split(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`(batch, n1, k1, n2, k2, ..., channels)`: every spatial axis as windows times offsets."""
    counts = [n // k for n, k in zip(x.shape[1:-1], window, strict=True)]
    whole = x[:, *(slice(n * k) for n, k in zip(counts, window, strict=True))]
    shape = [size for pair in zip(counts, window, strict=True) for size in pair]
    return whole.reshape(x.shape[0], *shape, x.shape[-1])


def _offsets(x: jax.Array, window: tuple[int, ...]) -> list[jax.Array]:
    """For each place in the window, in row-major order, that element of all windows."""
    sizes = [n // k * k for n, k in zip(x.shape[1:-1], window, strict=True)]
    return [
        x[:, *(slice(o, n, k) for o, n, k in zip(offset, sizes, window, strict=True))]
        for offset in np.ndindex(*window)
    ]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tiled_max(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    return reduce(jnp.maximum, _offsets(x, window))


@_tiled_max.defjvp
def _tiled_max_jvp(
    window: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Without this rule a tie would split the gradient and its transpose would be four pads."""
    (x,), (dx,) = primals, tangents
    parts = _offsets(x, window)
    y = reduce(jnp.maximum, parts)
    first = jnp.full(y.shape, len(parts) - 1, jnp.uint8)
    for place in reversed(range(len(parts) - 1)):
        first = jnp.where(parts[place] == y, jnp.uint8(place), first)
    places = jnp.arange(len(parts), dtype=jnp.uint8)
    places = places.reshape(1, *(size for k in window for size in (1, k)), 1)
    axes = _window_axes(window)
    chosen = jnp.expand_dims(first, axes) == places
    return y, jnp.where(chosen, _split(dx, window), 0).sum(axis=axes)
