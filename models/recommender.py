"""Recommendation in two stages: towers that find candidates, and a network that ranks them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.errors import InputError

from .mlp import MLP


class Embeddings(nn.Module):
    """Id columns `(batch, columns)` to their embeddings side by side, `(batch, columns * width)`.

    Covington et al. 2016, section 4.1, with one width for all. It has `sum(sizes) * width`
    parameters.

    Args:
        sizes: how many ids each column has.
        width: the width of an embedding.

    Example:
        >>> inputs = jnp.zeros((1, 2), jnp.int32)
        >>> variables = jax.eval_shape(Embeddings((1000, 500), 32).init, jax.random.key(0), inputs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        48000
    """

    sizes: Sequence[int]
    width: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Float `(batch, columns * width)` of integers `(batch, columns)`."""
        start = nn.initializers.normal(0.1)
        tables = [
            nn.Embed(size, self.width, embedding_init=start, name=f"column_{column}")
            for column, size in enumerate(self.sizes)
        ]
        return jnp.concatenate([table(ids[:, i]) for i, table in enumerate(tables)], axis=1)


class Tower(nn.Module):
    """Embeddings of ids, hidden layers, and a vector: `(batch, columns)` to `(batch, width)`.

    One half of `TwoTower` (Yi et al. 2019, section 3). Of 1,000 ids, with the sizes that are usual
    there, it has 36,192 parameters.

    Args:
        sizes: how many ids each column has.
        embedding: the width of an embedding.
        hidden: the width of each hidden layer.
        width: the width of the vector.
        dropout: the share of hidden units left out in training.

    Example:
        >>> tower, ids = Tower((1000,), 32, (64,), 32), jnp.zeros((1, 1), jnp.int32)
        >>> variables = jax.eval_shape(tower.init, jax.random.key(0), ids)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        36192
    """

    sizes: Sequence[int]
    embedding: int
    hidden: Sequence[int]
    width: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
        """Vectors `(batch, width)` of integers `(batch, columns)`."""
        x = Embeddings(self.sizes, self.embedding, name="embeddings")(ids)
        return MLP(self.hidden, self.width, dropout=self.dropout, name="mlp")(x, train)


class TwoTower(nn.Module):
    """Vectors of users and of items whose dot product says how well they fit.

    The candidate generation of Covington et al. 2016, section 3, with a tower for items too, as in
    Yi et al. 2019, section 3: a user and an item never meet before the dot product, so that the
    vectors of all items can be computed beforehand and searched (`jaxnet.layers.nearest`).

    Inputs are integers `(batch, user columns + item columns)`: the ids of users and of all that is
    known of them (age group, country), then those of items. The outputs are two arrays
    `(batch, width)`. With 1,000 users and 500 items known by their ids alone, the defaults have
    56,384 parameters.

    Args:
        user_sizes: how many ids each column of the users has.
        item_sizes: how many ids each column of the items has.
        embedding: the width of an embedding.
        hidden: the width of each hidden layer of either tower.
        width: the width of the vectors.
        dropout: the share of hidden units left out in training.
        temperature: what dot products are divided by; small where vectors are `normalized`.
        normalized: whether vectors have length 1 (Yi et al. 2019, section 3).

    Example:
        >>> model = TwoTower(user_sizes=(1000,), item_sizes=(500,))
        >>> pairs = jnp.zeros((1, 2), jnp.int32)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), pairs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        56384
    """

    user_sizes: Sequence[int]
    item_sizes: Sequence[int]
    embedding: int = 32
    hidden: Sequence[int] = (64,)
    width: int = 32
    dropout: float = 0.0
    temperature: float = 1.0
    normalized: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Vectors of users and of items, `(batch, width)` each; the users' with the temperature."""
        shape = (self.embedding, self.hidden, self.width, self.dropout)
        columns = len(self.user_sizes)
        users = Tower(self.user_sizes, *shape, name="users")(inputs[:, :columns], train)
        items = Tower(self.item_sizes, *shape, name="items")(inputs[:, columns:], train)
        if self.normalized:
            users, items = map(_normalized, (users, items))
        return users / self.temperature, items

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where an id is outside its table."""
        check_ids(inputs, (*self.user_sizes, *self.item_sizes))


class Ranker(nn.Module):
    """What a user thinks of an item: a multilayer perceptron on all that is known of both.

    The ranking of Covington et al. 2016, section 4. It sees user and item together, which makes it
    sharper than two towers and too dear for all items: it ranks candidates. Integers
    `(batch, columns)` to one number, `(batch, 1)`: a rating, or the logit of a click. With 1,000
    users and 500 items known by their ids alone, the defaults have 54,273 parameters.

    Args:
        sizes: how many ids each column has.
        embedding: the width of an embedding.
        hidden: the width of each hidden layer.
        dropout: the share of hidden units left out in training.

    Example:
        >>> model = Ranker(sizes=(1000, 500))
        >>> pairs = jnp.zeros((1, 2), jnp.int32)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), pairs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        54273
    """

    sizes: Sequence[int]
    embedding: int = 32
    hidden: Sequence[int] = (64, 32)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """A number for each pair, `(batch, 1)`."""
        x = Embeddings(self.sizes, self.embedding, name="embeddings")(inputs)
        return MLP(self.hidden, 1, dropout=self.dropout, name="mlp")(x, train)

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where an id is outside its table."""
        check_ids(inputs, self.sizes)


def check_ids(inputs: np.ndarray, sizes: Sequence[int]) -> None:
    """Check id columns `(batch, columns)` against the sizes of their tables.

    Raises:
        InputError: there are more or fewer columns, or an id is outside its table; the message
            names row and column.
    """
    if inputs.ndim != 2 or inputs.shape[1] != len(sizes) or inputs.dtype.kind not in "iu":
        raise InputError(
            f"expected integers (batch, {len(sizes)}), a column for each table; got "
            f"{inputs.dtype} {inputs.shape}"
        )
    wrong = (inputs < 0) | (inputs >= np.asarray(sizes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"row {row}, column {column}: expected an id from 0 to {sizes[column] - 1}, got "
            f"{inputs[row, column]}. What was not there in training has no embedding: leave it "
            "out, or make the table larger and train again."
        )


def _normalized(vectors: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / jnp.maximum(length, 1e-6)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the width of all tables, which have any
# number of ids.
SHARDING = (("**/embeddings/*/embedding", (None, "tensor")),)
