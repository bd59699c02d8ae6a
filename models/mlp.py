"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn


class MLP(nn.Module):
    """A multilayer perceptron of any depth (Goodfellow et al. 2016, chapter 6).

    `(batch, ...)` floats, flattened to `(batch, features)`, to logits `(batch, num_classes)`.
    Weights start as He et al. 2015 proposed for ReLU. The default, 784-300-100-10 of LeCun et al.
    1998, section III.C, has 266,610 parameters.

    Args:
        hidden: the width of every hidden layer.
        num_classes: the number of outputs.
        activation: what follows every hidden layer.
        dropout: the rate at which hidden units are dropped in training (Srivastava et al. 2014).

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(MLP().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        266610
    """

    hidden: Sequence[int] = (300, 100)
    num_classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, ...)`."""
        x = inputs.reshape(inputs.shape[0], -1)
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=nn.initializers.he_normal())(x)
            x = self.activation(x)
            if self.dropout > 0:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(self.num_classes)(x)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the units of the first hidden layer.
SHARDING = (
    ("Dense_0/kernel", (None, "tensor")),
    ("Dense_0/bias", ("tensor",)),
    ("Dense_1/kernel", ("tensor",), "optional"),
)
