"""Transposed convolution: the way back from a convolution's outputs to inputs of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Real

from jaxnet.errors import InputError
from jaxnet.layers.convolution import (
    add_bias,
    channels_last,
    conv,
    kernel_and_bias,
    with_gradient_on_cpu,
)
from jaxnet.layers.windows import Padding, conv_transpose_output_size, padding_pairs, per_axis


def conv_transpose(
    x: Float[Array, "batch *_spatial channels"],
    kernel: Float[Array, "*_kernel_size _group_channels features"],
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    *,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    output_padding: int | Sequence[int] = 0,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch *_outputs features"]:
    """Every input paints the kernel, `strides` apart: `y[s i + k] += x[i] kernel[k]`.

    The transpose (by inputs) of `conv` with the same settings and the kernel's last two axes
    exchanged, and so what PyTorch and Keras compute. Flax's `ConvTranspose` has the kernel's
    spatial axes the other way round.

    Args:
        x: `(batch, *spatial, channels)`.
        kernel: `(*kernel_size, channels / groups, features)`.
        strides: the step, one number for all spatial axes or one for each.
        padding: that of the convolution whose transpose this is. A number or pairs `(low, high)`
            cut so much off the full result, PyTorch's rule. `"SAME"` gives `size * stride` outputs
            and `"VALID"` `size * stride + max(reach - stride, 0)`, Keras's rule, where `reach` is
            `dilation * (kernel_size - 1) + 1`.
        dilation: the distance of neighbouring elements of the kernel.
        groups: the number of independent convolutions into which channels and features are split.
        output_padding: outputs more at the end, less than the stride or the dilation; only where
            `padding` is in numbers. `conv_transpose_output_size` says how many there are then.
        precision: see `jax.lax.Precision`.

    Returns:
        `(batch, *outputs, features)`.

    Raises:
        InputError: shapes do not fit, or nothing would be left.

    Example:
        >>> x = jnp.asarray([1.0, 10.0]).reshape(1, 2, 1)
        >>> conv_transpose(x, jnp.asarray([1.0, 2.0, 3.0]).reshape(3, 1, 1), 2).ravel().tolist()
        [1.0, 2.0, 13.0, 20.0, 30.0]
    """
    rank = kernel.ndim - 2
    if rank < 1 or x.ndim != kernel.ndim or x.shape[-1] != kernel.shape[-2] * groups:
        raise InputError(
            f"expected x (batch, *spatial, channels) and kernel (*kernel_size, channels / groups, "
            f"features), got x {x.shape}, kernel {kernel.shape}, groups {groups}"
        )
    strides, dilation = per_axis(strides, rank, "strides"), per_axis(dilation, rank, "dilation")
    size = kernel.shape[:-2]
    cuts, extra = _cuts(padding, output_padding, size, strides, dilation)
    outputs = tuple(
        map(conv_transpose_output_size, x.shape[1:-1], size, strides, cuts, dilation, extra)
    )

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
        pads = [(r - c[0], r - c[1] + e) for r, c, e in zip(reach, cuts, extra, strict=True)]
        return lax.conv_general_dilated(
            x,
            jnp.flip(kernel, range(rank)),
            (1,) * rank,
            pads,
            lhs_dilation=strides,
            rhs_dilation=dilation,
            dimension_numbers=channels_last(rank),
            feature_group_count=groups,
            precision=precision,
        )

    def by_derivative(x: jax.Array, kernel: jax.Array) -> jax.Array:
        exchanged = _exchanged(kernel, groups)
        options = {"dilation": dilation, "groups": groups, "precision": precision}
        # What is more than the kernel reaches is 0: no convolution would look at it.
        reached = [n - e for n, e in zip(outputs, extra, strict=True)]
        zeros = jnp.zeros((len(x), *reached, kernel.shape[-1]), x.dtype)
        y = jax.vjp(lambda y: conv(y, exchanged, strides, cuts, **options), zeros)[1](x)[0]
        return jnp.pad(y, [(0, 0), *((0, e) for e in extra), (0, 0)]) if any(extra) else y

    # As with `conv`, what XLA:CPU is slow at is the gradient: forward and backward pass took 218 ms
    # in its form and 60 ms in the other one (two busy cores, 4x4 kernel, stride 2, 32 images 7x7,
    # 64 -> 32 channels), the forward pass alone 2.4 and 7.8 ms.
    return with_gradient_on_cpu(by_xla, by_derivative)(x, kernel)


class ConvTranspose(nn.Module):
    """A transposed convolution layer: see `conv_transpose`.

    Parameters: `kernel` `(*kernel_size, channels / groups, features)`, `bias` `(features,)`.
    PyTorch's `weight` `(channels, features / groups, *kernel_size)` becomes the kernel, where
    groups is 1, by `weight.transpose(2, 3, 0, 1)`; Keras's `(*kernel_size, features, channels)` by
    exchanging the last two axes.

    Args:
        features: the number of output channels.
        kernel_size: one number for all spatial axes, or one for each.
        strides: see `conv_transpose`.
        padding: see `conv_transpose`.
        kernel_dilation: see `conv_transpose`.
        feature_group_count: see `conv_transpose`'s groups.
        output_padding: see `conv_transpose`.
        use_bias: whether a bias is added.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        precision: see `jax.lax.Precision`.
        kernel_init: the kernel's initializer.
        bias_init: the bias's initializer.

    Example:
        >>> layer = ConvTranspose(features=8, kernel_size=4, strides=2, padding=1)
        >>> images = jnp.zeros((2, 7, 7, 16))
        >>> outputs, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), images)
        >>> outputs.shape, variables["params"]["kernel"].shape
        ((2, 14, 14, 8), (4, 4, 16, 8))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    output_padding: int | Sequence[int] = 0
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
        outputs = conv_transpose(
            x,
            kernel,
            self.strides,
            self.padding,
            dilation=self.kernel_dilation,
            groups=self.feature_group_count,
            output_padding=self.output_padding,
            precision=self.precision,
        )
        return add_bias(outputs, bias)


def _exchanged(kernel: jax.Array, groups: int) -> jax.Array:
    """`(*size, channels / groups, features)` to `(*size, features / groups, channels)`."""
    *size, channels, features = kernel.shape
    split = kernel.reshape(*size, channels, groups, features // groups)
    return jnp.swapaxes(split, -1, -3).reshape(*size, features // groups, groups * channels)


def _cuts(
    padding: Padding,
    output_padding: int | Sequence[int],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """For each axis what is cut off at both ends, and what is then added at the end."""
    rank = len(size)
    extra = (output_padding,) * rank if isinstance(output_padding, int) else tuple(output_padding)
    most = tuple(max(s, d) for s, d in zip(strides, dilation, strict=True))
    if len(extra) != rank or not all(0 <= e < m for e, m in zip(extra, most, strict=True)):
        raise InputError(
            "output_padding takes a number from 0 to below the stride or the dilation for each of "
            f"{rank} spatial axes, got {output_padding} for strides {strides} and dilation "
            f"{dilation}"
        )
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    if padding in ("VALID", "SAME"):
        if any(extra):
            raise InputError(
                f"padding {padding!r} sets the output's size already: for output_padding give "
                "padding as a number or pairs (low, high)"
            )
        same = padding == "SAME"
        over = [same * max(r - s, 0) for r, s in zip(reach, strides, strict=True)]
        short = tuple(max(s - r, 0) for r, s in zip(reach, strides, strict=True))
        return [(o // 2, o - o // 2) for o in over], short
    cuts = padding_pairs(padding, (0,) * rank, reach, strides)
    if any(cut < 0 for pair in cuts for cut in pair):
        raise InputError(f"padding of a transposed convolution is at least 0, got {padding}")
    # What would be cut off and added again stays.
    kept = [min(cut[1], e) for cut, e in zip(cuts, extra, strict=True)]
    cuts = [(low, high - k) for (low, high), k in zip(cuts, kept, strict=True)]
    return cuts, tuple(e - k for e, k in zip(extra, kept, strict=True))
