"""A multilayer perceptron for tables, with embeddings of categories."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from .mlp import MLP


class TabularMLP(nn.Module):
    """An MLP whose categorical columns are embedded first (Guo and Berkhahn 2016, section 3).

    `(batch, features)` floats to `(batch, num_classes)`. A category comes as a range of inputs, one
    for each of its values (one-hot), which a matrix without bias turns into its embedding. That is
    the same as looking it up, takes any number type exactly, and gives a value never seen the
    embedding 0. All other inputs go to the MLP as they are.

    Args:
        groups: the range [start, stop) of each category: `TableEncoder.groups`.
        embedding: the width of embeddings; a category with no more values stays as it is.
        hidden: as for `MLP`.
        num_classes: as for `MLP`.
        dropout: as for `MLP`.

    Example:
        >>> model = TabularMLP(groups=((1, 31),), embedding=4, hidden=(8,), num_classes=2)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 31)))
        >>> variables["params"]["embedding_0"]["kernel"].shape
        (30, 4)
    """

    groups: Sequence[Sequence[int]] = ()
    embedding: int = 8
    hidden: Sequence[int] = (64, 32)
    num_classes: int = 2
    dropout: float = 0.3

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, features)`."""
        parts, done = [], 0
        for index, (start, stop) in enumerate(self.groups):
            if stop - start > self.embedding:
                embed = nn.Dense(
                    self.embedding,
                    use_bias=False,
                    kernel_init=nn.initializers.normal(1.0),
                    name=f"embedding_{index}",
                )
                parts += [inputs[:, done:start], embed(inputs[:, start:stop])]
                done = stop
        x = jnp.concatenate([*parts, inputs[:, done:]], axis=1)
        return MLP(self.hidden, self.num_classes, dropout=self.dropout, name="mlp")(x, train)
