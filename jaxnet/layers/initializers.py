"""Initialisers of parameters by name: functions `(key, shape, dtype) -> array`.

`fan_in` and `fan_out` are a unit's inputs and outputs: the last two axes of a kernel, times the
size of its window if it is a convolution's.

| name | distribution | source |
|---|---|---|
| `zeros`, `ones` | 0, 1 | |
| `normal` | normal, deviation 0.05, as Keras's `RandomNormal` | |
| `truncated_normal` | the same cut at two deviations, as Keras's `TruncatedNormal` | |
| `uniform` | uniform in [-0.5, 0.5) | |
| `glorot_uniform` | uniform, limit `sqrt(6 / (fan_in + fan_out))` | Glorot 2010, eq. 16 |
| `glorot_normal` | normal, variance `2 / (fan_in + fan_out)` | Glorot 2010, eq. 12 |
| `xavier_uniform`, `xavier_normal` | Glorot's by his first name | |
| `he_uniform` | uniform, limit `sqrt(6 / fan_in)` | He 2015, eq. 10 |
| `he_normal` | normal, variance `2 / fan_in` | He 2015, eq. 10 |
| `kaiming_uniform`, `kaiming_normal` | He's by his first name | |
| `lecun_uniform` | uniform, limit `sqrt(3 / fan_in)` | LeCun 1998, sect. 4.6 |
| `lecun_normal` | normal, variance `1 / fan_in` | LeCun 1998, sect. 4.6 |
| `orthogonal` | orthonormal rows or columns | Saxe 2014 |

The Glorot, He and LeCun normals are cut at two deviations and widened again to the variance above,
as Keras's are; PyTorch's are not cut. `truncated_normal` is cut and not widened: its deviation is
0.044.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer

from jaxnet.errors import InputError


def uniform(low: float = -0.5, high: float = 0.5) -> Initializer:
    """An initialiser that draws evenly from [low, high).

    Raises:
        InputError: `low` is not below `high`.

    Example:
        >>> weights = uniform(-0.1, 0.1)(jax.random.key(0), (100, 100))
        >>> bool((abs(weights) <= 0.1).all())
        True
    """
    if not low < high:
        raise InputError(f"uniform needs low < high; got low={low}, high={high}")

    def init(key, shape, dtype=None, out_sharding=None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, low, high, out_sharding=out_sharding)

    return init


def orthogonal(scale: float = 1.0) -> Initializer:
    """An initialiser of orthonormal rows or columns, whichever are fewer, times `scale`.

    The last axis is one side of the matrix and all others together are the other one.

    Example:
        >>> weights = orthogonal()(jax.random.key(0), (3, 2))
        >>> print((weights.T @ weights).round(3) + 0.0)
        [[1. 0.]
         [0. 1.]]
    """
    draw = initializers.orthogonal(scale)

    def init(key, shape, dtype=None, out_sharding=None) -> jax.Array:
        # Its QR decomposition does not exist in half precision.
        half = dtype is not None and jnp.finfo(dtype).bits < 32
        wide = jnp.float32 if half else dtype
        return draw(key, shape, wide, out_sharding=out_sharding).astype(dtype)

    return init


INITIALIZERS: Mapping[str, Initializer] = {
    "zeros": initializers.zeros,
    "ones": initializers.ones,
    "normal": initializers.normal(stddev=0.05),
    "truncated_normal": initializers.truncated_normal(stddev=0.05),
    "uniform": uniform(),
    "glorot_uniform": initializers.glorot_uniform(),
    "xavier_uniform": initializers.glorot_uniform(),
    "xavier_normal": initializers.glorot_normal(),
    "glorot_normal": initializers.glorot_normal(),
    "he_uniform": initializers.he_uniform(),
    "he_normal": initializers.he_normal(),
    "kaiming_uniform": initializers.he_uniform(),
    "kaiming_normal": initializers.he_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "orthogonal": orthogonal(),
}
"""The initialisers by name, for `jaxnet.names.lookup`."""
