"""Random variables and calls of networks that cost as few compiles as can be."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import trees


def drawn(model: nn.Module, *inputs: Any, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Random variables, drawn by NumPy: compiling a network's initialisation takes long."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: Any) -> jax.Array:
        if path.endswith(("kernel", "embedding")):
            fan = np.prod(shape.shape[:-1])
            return jnp.asarray(rng.normal(size=shape.shape) * np.sqrt(2 / fan), shape.dtype)
        return jnp.full(shape.shape, path.endswith(("scale", "var")), shape.dtype)

    start = partial(model.init, **options)
    shapes = jax.eval_shape(start, jax.random.key(0), *inputs)
    return jax.tree.map(draw, trees.paths(shapes), shapes)


@partial(jax.jit, static_argnums=0, static_argnames=("train", "method", "mutable"))
def applied(model: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """What a network gives, as one program and not as one for each of its operations."""
    return model.apply(variables, *inputs, **options)
