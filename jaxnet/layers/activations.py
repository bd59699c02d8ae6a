"""Activations: pure functions of an array, and the same by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxnet.errors import InputError

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
    learns by `jaxnet.models.perceptron.perceptron_update`.

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
    return inputs * _normal_cdf(inputs)


@jax.custom_jvp
def _normal_cdf(x: jax.Array) -> jax.Array:
    """The standard normal distribution function, with the density as its derivative.

    By itself JAX 0.12 can't differentiate `erfc` within `shard_map`.
    """
    return 0.5 * jax.lax.erfc(-x * np.sqrt(0.5).astype(x.dtype))


@_normal_cdf.defjvp
def _normal_density(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    (x,), (change,) = primals, tangents
    density = jnp.exp(-0.5 * x * x) * np.sqrt(0.5 / np.pi).astype(x.dtype)
    return _normal_cdf(x), change * density


def maxout(inputs: Float[Array, "*dims units"], pieces: int) -> Float[Array, "*dims features"]:
    """The largest of every `pieces` neighbours along the last axis.

    Goodfellow et al. (2013), "Maxout networks", section 3. The layer that learns what goes in is
    `jaxnet.layers.Maxout`.

    Args:
        inputs: (..., features * pieces).
        pieces: how many linear pieces make up a feature.

    Returns:
        (..., features).

    Raises:
        InputError: the last axis does not divide into `pieces`.

    Example:
        >>> print(maxout(jnp.array([1.0, 3.0, -2.0, -1.0]), pieces=2))
        [ 3. -1.]
    """
    if pieces < 1 or inputs.shape[-1] % pieces:
        raise InputError(
            f"maxout: expected a last axis that divides into pieces={pieces}, got {inputs.shape}"
        )
    return inputs.reshape(*inputs.shape[:-1], -1, pieces).max(axis=-1)


ACTIVATIONS: Mapping[str, Activation] = {
    "linear": linear,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "leaky_relu_0.1": functools.partial(leaky_relu, negative_slope=0.1),
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "log_sigmoid": jax.nn.log_sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "hard_tanh": jax.nn.hard_tanh,
    "step": step,
}
"""The activations by name, for `jaxnet.names.lookup`; `softmax` is over the last axis.

Two more have parameters or another size and so are layers: `jaxnet.layers.Maxout` and `PReLU`.
"""
