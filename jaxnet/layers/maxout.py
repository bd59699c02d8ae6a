"""Maxout: a dense layer that learns its activation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxnet.layers.activations import maxout


class Maxout(nn.Module):
    """The largest of `pieces` affine maps for each feature (Goodfellow et al. 2013, section 3).

    Parameters: those of a `Dense` with `features * pieces` units; the pieces of a feature are
    neighbours.

    Args:
        features: the size of the last axis of the outputs.
        pieces: affine maps a feature, at least 2; enough of them follow any convex function.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        kernel_init: the kernel's initializer.

    Example:
        >>> import jax
        >>> layer = Maxout(features=3, pieces=2)
        >>> start = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((5, 4)))
        >>> outputs, variables = start
        >>> outputs.shape, variables["params"]["Dense_0"]["kernel"].shape
        ((5, 3), (4, 6))
    """

    features: int
    pieces: int = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "*dims _channels"]
    ) -> Float[Array, "*dims {self.features}"]:
        """`(..., channels)` to `(..., features)`."""
        dense = nn.Dense(
            self.features * self.pieces,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
        )
        return maxout(dense(inputs), self.pieces)
