"""Depthwise and separable convolutions: `Conv` with as many groups as there are channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Real

from jaxnet.layers.convolution import Conv
from jaxnet.layers.windows import Padding


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, with kernels of its own.

    Parameters: those of a `Conv`, with a kernel `(*kernel_size, 1, channels * multiplier)` whose
    features are ordered by channel, as in PyTorch.

    Args:
        kernel_size: one number for all spatial axes, or one for each.
        multiplier: the outputs of each channel.
        strides: see `conv`.
        padding: see `conv`.
        kernel_dilation: see `conv`.
        use_bias: whether a bias is added.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        kernel_init: the kernel's initializer.

    Example:
        >>> import jax
        >>> images = jnp.zeros((2, 8, 8, 3))
        >>> layer = DepthwiseConv(kernel_size=3, multiplier=2)
        >>> jax.eval_shape(layer.init_with_output, jax.random.key(0), images)[0].shape
        (2, 8, 8, 6)
    """

    kernel_size: int | Sequence[int]
    multiplier: int = 1
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, inputs: Real[Array | np.ndarray, "batch *_spatial channels"]
    ) -> Float[Array, "batch *_outputs features"]:
        """`(batch, *spatial, channels)` to `(batch, *outputs, channels * multiplier)`."""
        channels = inputs.shape[-1]
        return Conv(
            features=channels * self.multiplier,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=channels,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
        )(inputs)


class SeparableConv(nn.Module):
    """A depthwise convolution, and one of size 1 that mixes its channels (Chollet 2017, Xception).

    The two have one bias, at the end, as in Keras's `SeparableConv2D`. For `C` channels and a
    kernel of `K` elements it has `C (K + features)` weights where `Conv` has `C K features`.

    Parameters: those of a `DepthwiseConv` called `depthwise` and a `Conv` called `pointwise`.

    Args:
        features: the number of output channels.
        kernel_size: one number for all spatial axes, or one for each.
        multiplier: the depthwise outputs of each channel.
        strides: see `conv`.
        padding: see `conv`.
        kernel_dilation: see `conv`.
        use_bias: whether a bias is added.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        kernel_init: the kernels' initializer.

    Example:
        >>> import jax
        >>> layer = SeparableConv(features=64, kernel_size=3)
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 32)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))  # 32 (9 + 64) + 64 biases
        2400
    """

    features: int
    kernel_size: int | Sequence[int]
    multiplier: int = 1
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, inputs: Real[Array | np.ndarray, "batch *_spatial channels"]
    ) -> Float[Array, "batch *_outputs {self.features}"]:
        """`(batch, *spatial, channels)` to `(batch, *outputs, features)`."""
        shared = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "kernel_init": self.kernel_init,
        }
        x = DepthwiseConv(
            kernel_size=self.kernel_size,
            multiplier=self.multiplier,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            use_bias=False,
            name="depthwise",
            **shared,
        )(inputs)
        return Conv(self.features, 1, use_bias=self.use_bias, name="pointwise", **shared)(x)
