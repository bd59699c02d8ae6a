"""Networks whose start and whose calls are quick to compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import trees


def hashed(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
    """Uniform weights of variance 1 / fan-in from a hash of the key and each weight's index.

    Compiling JAX's random numbers takes longer than all else that a small network has.
    """
    bits = jnp.arange(np.prod(shape), dtype=jnp.uint32)
    for word in jax.random.key_data(key):
        bits = (bits ^ word) * np.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
        bits = bits ^ (bits >> 16)
    shares = (bits >> 8).astype(jnp.float32) / 2**24
    limit = np.sqrt(3 / np.prod(shape[:-1]))
    return ((2 * shares - 1) * limit).reshape(shape).astype(dtype)


Dense = partial(nn.Dense, kernel_init=hashed)
Conv = partial(nn.Conv, kernel_init=hashed)


_INIT = nn.Module.init


def drawn(model: nn.Module, *inputs: Any, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Random variables, drawn by NumPy: compiling a network's initialisation takes long."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: Any) -> jax.Array:
        if path.endswith(("kernel", "embedding")):
            fan = np.prod(shape.shape[:-1])
            values = rng.normal(size=shape.shape) * np.sqrt(2 / fan)
        else:
            values = np.full(shape.shape, path.endswith(("scale", "var")))
        # In NumPy, for JAX compiles a conversion for each shape.
        return jnp.asarray(values.astype(shape.dtype))

    start = partial(_INIT, model, **options)
    shapes = jax.eval_shape(start, jax.random.key(0), *inputs)
    return jax.tree.map(draw, trees.paths(shapes), shapes)


@contextmanager
def quick_starts(scale: float = 1.0) -> Iterator[None]:
    """Networks that are initialised within start with what `drawn` gives, whatever the key.

    For tests of what comes after: nothing random is compiled, on one device or on many.

    Args:
        scale: how large kernels and embeddings are beside those of `drawn`.
    """

    def init(model: nn.Module, rngs: Any, *inputs: Any, **options: Any) -> dict[str, Any]:
        variables = drawn(model, *inputs, **options)

        def scaled(path: str, leaf: jax.Array) -> Any:
            return leaf * scale if path.endswith(("kernel", "embedding")) else leaf

        return jax.tree.map(scaled, trees.paths(variables), variables)

    with patch.object(nn.Module, "init", init):
        yield


@partial(jax.jit, static_argnums=0, static_argnames=("train", "method", "mutable"))
def applied(model: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """What a network gives, as one program and not as one for each of its operations."""
    return model.apply(variables, *inputs, **options)
