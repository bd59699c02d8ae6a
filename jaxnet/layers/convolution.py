"""Convolution in any number of spatial axes, in the form that each platform runs fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Real

from jaxnet.errors import InputError
from jaxnet.layers.windows import Padding, conv_output_size, padding_pairs, per_axis
from jaxnet.names import lookup

_Form = Callable[[jax.Array, jax.Array], jax.Array]

# XLA:CPU is slow at the gradients of a convolution, and very slow inside a device loop. One
# forward and backward pass in ms on two cores (outside a loop, inside one), float32, 3x3 kernel:
#
#     channels, image, batch     XLA's convolution    patches times matrix
#     32 -> 64,   11x11, 64          9.8, 111              4.3,  3.3
#     16 -> 16,   32x32, 128          68, 365               61,   35
#     64 -> 64,   32x32, 32          164,   -               77,   44
#     256 -> 256,   8x8, 32           39,   -               32,   21
#     (-: not waited for)
#
# Without gradients XLA's form is the faster one, up to four times on large images. The patches
# hold every pixel once per element of the kernel, which this bounds.
_MAX_PATCH_BYTES = 128 * 2**20

# Patches that don't fit into the cache cost the more the larger they are. Along the first spatial
# axis they can be left out: each row of pixels is multiplied by all rows of the kernel, and the
# products of neighbouring rows are added. A training step of the CIFAR ResNet-20 at batch 128 takes
# 1.4 seconds of processor time so, 1.9 with whole patches and 2.0 with XLA's convolution; it needs
# half the memory of the patches and compiles in half their time.
_MIN_BYTES_FOR_ROWS = 16 * 2**20

_BORDERS = {"zero": "constant", "reflect": "reflect", "edge": "edge", "circular": "wrap"}


def conv(
    x: Float[Array, "batch *_spatial channels"],
    kernel: Float[Array, "*_kernel_size _group_channels features"],
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    *,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    border: str = "zero",
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch *_outputs features"]:
    """The cross-correlation of `x` with `kernel`, as every deep learning library defines it.

    Args:
        x: `(batch, *spatial, channels)`.
        kernel: `(*kernel_size, channels / groups, features)`.
        strides: the step, one number for all spatial axes or one for each.
        padding: `"VALID"` none, `"SAME"` to `ceil(size / stride)` outputs, `"FULL"` every overlap,
            a number for both sides of all axes, or a pair `(low, high)` for each axis.
        dilation: the distance of neighbouring elements of the kernel.
        groups: the number of independent convolutions into which channels and features are split.
        border: what padding holds: `"zero"`, `"reflect"`, `"edge"` or `"circular"`.
        precision: see `jax.lax.Precision`.

    Returns:
        `(batch, *outputs, features)`; `conv_output_size` says how many.

    Raises:
        InputError: shapes do not fit, or the kernel is larger than the padded image.

    Example:
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> conv(x, jnp.asarray([1.0, 0.0, -1.0]).reshape(3, 1, 1)).ravel().tolist()
        [-2.0, -2.0, -2.0]
    """
    rank = kernel.ndim - 2
    if rank < 1 or x.ndim != kernel.ndim or x.shape[-1] != kernel.shape[-2] * groups:
        raise InputError(
            f"expected x (batch, *spatial, channels) and kernel (*kernel_size, channels / groups, "
            f"features), got x {x.shape}, kernel {kernel.shape}, groups {groups}"
        )
    strides, dilation = per_axis(strides, rank, "strides"), per_axis(dilation, rank, "dilation")
    size, spatial = kernel.shape[:-2], x.shape[1:-1]
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    pads = padding_pairs(padding, spatial, reach, strides)
    outputs = tuple(map(conv_output_size, spatial, size, strides, pads, dilation))
    mode = lookup(border, _BORDERS, "border")
    if border != "zero":
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=mode)
        pads = [(0, 0)] * rank

    by_xla = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(rank),
        feature_group_count=groups,
        precision=precision,
    )
    patch_bytes = x.shape[0] * math.prod(outputs) * math.prod(kernel.shape[:-1]) * x.dtype.itemsize
    if groups > 1 or patch_bytes > _MAX_PATCH_BYTES:
        return by_xla(x, kernel)
    rows_pay = patch_bytes > _MIN_BYTES_FOR_ROWS and _rows_are_smaller(kernel, outputs, strides)
    by_matmul = partial(
        _conv_by_rows if rows_pay else _conv_by_patches,
        outputs=outputs,
        strides=strides,
        pads=pads,
        dilation=dilation,
        precision=precision,
    )
    return with_gradient_on_cpu(by_xla, by_matmul)(x, kernel)


class Conv(nn.Module):
    """A convolution layer: `flax.linen.Conv`'s parameters and results, faster on CPU.

    Parameters: `kernel` `(*kernel_size, channels / groups, features)`, `bias` `(features,)`.

    Args:
        features: the number of output channels.
        kernel_size: one number for all spatial axes, or one for each.
        strides: see `conv`.
        padding: see `conv`.
        kernel_dilation: see `conv`.
        feature_group_count: see `conv`'s groups.
        border: see `conv`.
        use_bias: whether a bias is added.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        precision: see `jax.lax.Precision`.
        kernel_init: the kernel's initializer.
        bias_init: the bias's initializer.

    Example:
        >>> layer = Conv(features=8, kernel_size=3)
        >>> images = jnp.zeros((2, 28, 28, 1))
        >>> outputs, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), images)
        >>> outputs.shape, variables["params"]["kernel"].shape
        ((2, 28, 28, 8), (3, 3, 1, 8))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    border: str = "zero"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, inputs: Real[Array | np.ndarray, "batch *_spatial channels"]
    ) -> Float[Array, "batch *_outputs {self.features}"]:
        """`(batch, *spatial, channels)` to `(batch, *outputs, features)`."""
        x, kernel, bias = kernel_and_bias(self, inputs)
        outputs = conv(
            x,
            kernel,
            self.strides,
            self.padding,
            dilation=self.kernel_dilation,
            groups=self.feature_group_count,
            border=self.border,
            precision=self.precision,
        )
        return add_bias(outputs, bias)


def kernel_and_bias(layer: Any, inputs: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The inputs of a convolution layer, its kernel and its bias, in the type to compute in.

    To be called in the layer's own `@nn.compact` method.

    Raises:
        InputError: channels or features do not divide into the groups.
    """
    channels, groups = inputs.shape[-1], layer.feature_group_count
    if channels % groups or layer.features % groups:
        raise InputError(
            f"{'/'.join(layer.path)}: {channels} channels and {layer.features} features do not "
            f"divide into {groups} groups"
        )
    size = per_axis(layer.kernel_size, inputs.ndim - 2, "kernel_size")
    shape = (*size, channels // groups, layer.features)
    kernel = layer.param("kernel", layer.kernel_init, shape, layer.param_dtype)
    bias = None
    if layer.use_bias:
        bias = layer.param("bias", layer.bias_init, (layer.features,), layer.param_dtype)
    x, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=layer.dtype)
    return x, kernel, bias


def add_bias(outputs: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The bias `(features,)`, if there is one, on outputs `(..., features)`."""
    return outputs if bias is None else outputs + bias.reshape((1,) * (outputs.ndim - 1) + (-1,))


def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Channels last, for inputs, kernel and outputs."""
    last, first = (0, rank + 1, *range(1, rank + 1)), (rank + 1, rank, *range(rank))
    return lax.ConvDimensionNumbers(last, first, last)


def with_gradient_on_cpu(by_xla: _Form, by_matmul: _Form) -> _Form:
    """`by_xla`, but `by_matmul` where it is differentiated and the platform turns out a CPU."""
    form = jax.custom_jvp(by_xla)

    def derivative(primals, tangents):
        # A first layer's images have no tangent: a zero in its place would cost a convolution.
        moving = [not isinstance(tangent, SymbolicZero) for tangent in tangents]

        def moved(*values):
            rest = iter(values)
            x, kernel = (next(rest) if m else p for m, p in zip(moving, primals, strict=True))
            return lax.platform_dependent(x, kernel, cpu=by_matmul, default=by_xla)

        return jax.jvp(moved, tuple(compress(primals, moving)), tuple(compress(tangents, moving)))

    form.defjvp(derivative, symbolic_zeros=True)
    return form


def _conv_by_patches(
    x: jax.Array,
    kernel: jax.Array,
    *,
    outputs: tuple[int, ...],
    strides: tuple[int, ...],
    pads: list[tuple[int, int]],
    dilation: tuple[int, ...],
    precision: lax.PrecisionLike,
) -> jax.Array:
    """im2col (Chellapilla et al. 2006): the patch under each output, times the kernel."""
    size, features = kernel.shape[:-2], kernel.shape[-1]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    patches = _patches(x, size, outputs, strides, dilation)
    y = jnp.dot(patches, kernel.reshape(-1, features), precision=precision)
    return y.reshape(x.shape[0], *outputs, features)


def _conv_by_rows(
    x: jax.Array,
    kernel: jax.Array,
    *,
    outputs: tuple[int, ...],
    strides: tuple[int, ...],
    pads: list[tuple[int, int]],
    dilation: tuple[int, ...],
    precision: lax.PrecisionLike,
) -> jax.Array:
    """im2col but along the first spatial axis, of stride 1: there products are added instead."""
    (rows, *size), features = kernel.shape[:-2], kernel.shape[-1]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    each = (x.shape[1], *outputs[1:])
    patches = _patches(x, (1, *size), each, strides, dilation)
    matrix = jnp.moveaxis(kernel, 0, -2).reshape(-1, rows * features)
    y = jnp.dot(patches, matrix, precision=precision).reshape(x.shape[0], *each, rows * features)
    starts = [i * dilation[0] for i in range(rows)]
    return reduce(
        jnp.add,
        (
            y[:, start : start + outputs[0], ..., i * features : (i + 1) * features]
            for i, start in enumerate(starts)
        ),
    )


def _rows_are_smaller(
    kernel: jax.Array, outputs: tuple[int, ...], strides: tuple[int, ...]
) -> bool:
    """Whether `_conv_by_rows` has fewer numbers to write than `_conv_by_patches`."""
    rows, *size, channels, features = kernel.shape
    if strides[0] > 1 or rows == 1:
        return False
    part = math.prod(size) * channels
    with_overlap = (outputs[0] + rows - 1) / outputs[0]
    return (part + rows * features) * with_overlap < rows * part + features


def _patches(
    x: jax.Array,
    size: Sequence[int],
    outputs: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> jax.Array:
    """The patch of `size` under each output as a row: `(batch * outputs, size * channels)`."""
    channels = x.shape[-1]
    slices = []
    for offset in np.ndindex(*size):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [b + (c - 1) * s + 1 for b, c, s in zip(start, outputs, strides, strict=True)]
        slices.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, channels), (1, *strides, 1)))
    return jnp.concatenate(slices, axis=-1).reshape(-1, math.prod(size) * channels)
