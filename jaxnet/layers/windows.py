"""How a window slides over the spatial axes: shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax

from jaxnet.errors import InputError

Padding = str | int | Sequence[tuple[int, int]]


def conv_output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
) -> int:
    """How many outputs a convolution or a pooling has along one axis: `(I - K + 2P) / S + 1`.

    Args:
        size: the input's length I.
        kernel: the kernel's or the window's length K.
        stride: the step S.
        padding: what is added on both sides, or a pair `(low, high)`.
        dilation: the distance of the kernel's elements; K counts as `dilation * (K - 1) + 1`.

    Raises:
        InputError: the kernel is longer than the padded input.

    Example:
        >>> conv_output_size(32, 5), conv_output_size(224, 7, stride=2, padding=3)
        (28, 112)
    """
    low, high = (padding, padding) if isinstance(padding, int) else padding
    room = size + low + high - (dilation * (kernel - 1) + 1)
    if room < 0:
        raise InputError(
            f"a window of {kernel} (dilation {dilation}) is longer than the input of {size} with "
            f"padding ({low}, {high}): pad more, use a smaller window or a larger image"
        )
    return room // stride + 1


def conv_transpose_output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """How many outputs a transposed convolution has along one axis, as PyTorch counts them.

    `(I - 1) S - 2 P + dilation (K - 1) + output_padding + 1`: the size that `conv_output_size`
    brings back to I. For S > 1 there are S such sizes, and `output_padding` chooses.

    Args:
        size: the input's length I.
        kernel: the kernel's length K.
        stride: the step S.
        padding: what the convolution added on both sides and is cut off here, or a pair.
        dilation: the distance of the kernel's elements.
        output_padding: what is added at the end.

    Raises:
        InputError: nothing would be left.

    Example:
        >>> conv_transpose_output_size(7, 4, stride=2, padding=1)
        14
    """
    low, high = (padding, padding) if isinstance(padding, int) else padding
    outputs = (size - 1) * stride + dilation * (kernel - 1) + 1 - low - high + output_padding
    if outputs < 1:
        raise InputError(
            f"padding ({low}, {high}) cuts off all of a transposed convolution of {size} by a "
            f"kernel of {kernel} (stride {stride}, dilation {dilation}): pad less"
        )
    return outputs


def per_axis(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """One positive number for each of `rank` axes, from one number for all or a sequence.

    Raises:
        InputError: there are not `rank` positive numbers.

    Example:
        >>> per_axis(3, 2, "window")
        (3, 3)
    """
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or min(values, default=0) < 1:
        raise InputError(
            f"{name} takes a positive number for each of the {rank} spatial axes of an input "
            f"(batch, *spatial, channels), got {value}"
        )
    return values


def padding_pairs(
    padding: Padding,
    spatial: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    """What `padding` adds below and above each spatial axis.

    Args:
        padding: `"VALID"` nothing, `"SAME"` for `ceil(size / stride)` outputs, `"FULL"` for every
            overlap, a number for both sides of all axes, or a pair `(low, high)` for each axis.
        spatial: the input's spatial sizes.
        window: the window's sizes.
        strides: its steps.

    Raises:
        InputError: `padding` is none of these.

    Example:
        >>> padding_pairs("SAME", (28, 28), (3, 3), (1, 1))
        [(1, 1), (1, 1)]
    """
    if isinstance(padding, int):
        return [(padding, padding)] * len(window)
    if padding == "FULL":
        return [(n - 1, n - 1) for n in window]
    if isinstance(padding, str):
        if padding not in ("VALID", "SAME"):
            raise InputError(
                f"padding is 'VALID', 'SAME', 'FULL', a number or pairs (low, high), got "
                f"{padding!r}; reflect, edge and circular are values of a convolution's `border`"
            )
        return list(lax.padtype_to_pads(spatial, window, strides, padding))
    pairs = [(int(low), int(high)) for low, high in padding]
    if len(pairs) != len(window):
        raise InputError(f"padding takes {len(window)} pairs (low, high), got {padding}")
    return pairs


def check_images(model: str, images: jax.Array, smallest: int = 1) -> None:
    """Refuse what a convolutional network can't read.

    Args:
        model: its name, for the message.
        images: `(batch, height, width, channels)`.
        smallest: the height and width from which on no layer of the network runs out of pixels.

    Raises:
        InputError: the array has another number of axes, or the images are too small.

    Example:
        >>> import jax.numpy as jnp
        >>> check_images("VGG", jnp.zeros((1, 28, 28, 1)), smallest=32)
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: VGG: images of 28x28 are too small for its strides; the smallest \
that fit are 32x32: scale them up, or take another network
    """
    if images.ndim != 4:
        raise InputError(f"{model} takes (batch, height, width, channels), got {images.shape}")
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise InputError(
            f"{model}: images of {height}x{width} are too small for its strides; the smallest that "
            f"fit are {smallest}x{smallest}: scale them up, or take another network"
        )
