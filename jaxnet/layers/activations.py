"""Activations: pure functions of an array, and the same by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Activation = Callable[[jax.Array], jax.Array]


def linear(inputs: Float[ArrayLike, "*dims"]) -> Float[Array, "*dims"]:
    """The identity.

    Example:
        >>> print(linear(jnp.array([-1.0, 2.0])))
        [-1.  2.]
    """
    return jnp.asarray(inputs)


def step(inputs: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The Heaviside step: 1 from 0 upwards, else 0, in the type of the inputs.

    Its gradient is 0 everywhere, so gradient descent learns nothing through it; a single layer
    learns by `models.perceptron.perceptron_update`.

    Example:
        >>> print(step(jnp.array([-0.5, 0.0, 2.0])))
        [0. 1. 1.]
    """
    return (inputs >= 0).astype(inputs.dtype)


def leaky_relu(
    inputs: Float[Array, "*dims"], negative_slope: float = 0.01
) -> Float[Array, "*dims"]:
    """`inputs` where positive, else `negative_slope * inputs` (Maas et al. 2013, section 2).

    Example:
        >>> print(leaky_relu(jnp.array([-1.0, 2.0]), negative_slope=0.1))
        [-0.1  2. ]
    """
    return jax.nn.leaky_relu(inputs, negative_slope)


def gelu(inputs: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """`x Phi(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016).

    PyTorch's and Keras's default. The tanh approximation of GPT-2 is `"gelu_tanh"` by name.

    Example:
        >>> round(float(gelu(jnp.array(1.0))), 4)
        0.8413
    """
    return jax.nn.gelu(inputs, approximate=False)


ACTIVATIONS: Mapping[str, Activation] = {
    "linear": linear,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softmax": jax.nn.softmax,
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "leaky_relu_0.1": functools.partial(leaky_relu, negative_slope=0.1),
    "elu": jax.nn.elu,
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "step": step,
}
"""The activations by name, for `jaxnet.names.lookup`; `softmax` is over the last axis."""
