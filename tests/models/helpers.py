"""What tests of models share."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import trees


def drawn(model: nn.Module, inputs: Any, seed: int = 0) -> dict[str, Any]:
    """Random variables, drawn by NumPy: compiling a deep network's initialisation takes long."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: Any) -> jax.Array:
        if path.endswith("kernel"):
            fan = np.prod(shape.shape[:-1])
            return jnp.asarray(rng.normal(size=shape.shape) * np.sqrt(2 / fan), shape.dtype)
        return jnp.full(shape.shape, path.endswith(("scale", "var")), shape.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return jax.tree.map(draw, trees.paths(shapes), shapes)
