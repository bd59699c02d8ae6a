"""Dense layers over sequences, as products of two matrices.

JAX writes the gradient of a kernel behind `(batch, time, channels)` as a product that sums over two
axes at once. XLA's CPU compiler makes that a product of matrices by copying what comes down from
the loss, transposed: for logits `(64, 50, 10000)` this took longer than all else (a step of a
language model 886 ms, and without it 498). With the tokens as rows of a matrix there is nothing to
transpose, on any device.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from jax import lax


def rows_dot_general(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """`lax.dot_general` for `lhs (..., channels)` and a kernel `rhs (channels, features)`.

    What a Dense layer asks of it: the last axis of `lhs` goes with the first of `rhs`. All other
    axes of `lhs` become one.

    Args:
        lhs: the tokens.
        rhs: the kernel.
        dimension_numbers: as a Dense layer gives them.
        options: those of `lax.dot_general`.

    Example:
        >>> x, kernel = jax.numpy.ones((2, 3, 4)), jax.numpy.ones((4, 5))
        >>> rows_dot_general(x, kernel, (((2,), (0,)), ((), ()))).shape
        (2, 3, 5)
    """
    ((last,), (first,)), batch = dimension_numbers
    if lhs.ndim <= 2 or (last, first, rhs.ndim) != (lhs.ndim - 1, 0, 2) or any(batch):
        return lax.dot_general(lhs, rhs, dimension_numbers, **options)
    rows = lhs.reshape(-1, lhs.shape[-1])
    product = lax.dot_general(rows, rhs, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*lhs.shape[:-1], rhs.shape[-1])


class Dense(nn.Dense):
    """Linen's `Dense` with the tokens of sequences as rows of one matrix.

    Args:
        features: the width of the outputs; the other fields are Linen's too.

    Example:
        >>> layer, x = Dense(5), jax.numpy.ones((2, 3, 4))
        >>> y, variables = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape, variables["params"]["kernel"].shape
        ((2, 3, 5), (4, 5))
    """

    dot_general: Any = rows_dot_general


class Embed(nn.Embed):
    """Linen's `Embed` whose `attend` takes the tokens of sequences as rows of one matrix.

    Args:
        num_embeddings: the rows of the table.
        features: the width of a row; the other fields are Linen's too.

    Example:
        >>> layer = Embed(7, 4)
        >>> variables = layer.init(jax.random.key(0), jax.numpy.zeros((2, 3), int))
        >>> layer.apply(variables, jax.numpy.ones((2, 3, 4)), method="attend").shape
        (2, 3, 7)
    """

    def attend(self, query: jax.Array) -> jax.Array:
        """The products `(..., num_embeddings)` of `query (..., features)` with every row."""
        rows = super().attend(query.reshape(-1, query.shape[-1]))
        return rows.reshape(*query.shape[:-1], -1)
