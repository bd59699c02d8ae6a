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
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxnet.errors import InputError


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


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x + bias`, where each element of the bias is added to many of `x`.

    The gradient by the bias is a sum over all of these, and is added up in float32 at least. JAX's
    own would be added up in the type of the bias: in bfloat16 a sum of a thousand numbers is off by
    some percent, and differs as much where devices share it out.

    Example:
        >>> count = jax.grad(lambda bias: add_bias(jnp.ones((1000, 1), jnp.bfloat16), bias).sum())
        >>> count(jnp.zeros((1, 1), jnp.bfloat16)).item()
        1000.0
    """
    return x + jnp.broadcast_to(widened(bias), x.shape).astype(x.dtype)


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 at least: what takes it up gives a gradient that is added up so."""
    return x.astype(np.promote_types(x.dtype, np.float32))


class Dense(nn.Dense):
    """Linen's `Dense` with the tokens of sequences as rows of one matrix.

    In half precision the gradient by the bias is added up in float32 (`add_bias`).

    Args:
        features: the width of the outputs; the other fields are Linen's too.

    Example:
        >>> layer, x = Dense(5), jax.numpy.ones((2, 3, 4))
        >>> y, variables = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape, variables["params"]["kernel"].shape
        ((2, 3, 5), (4, 5))
    """

    dot_general: Any = rows_dot_general

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The outputs `(..., features)` of `inputs (..., channels)`."""
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
        promoted: Any = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        inputs, kernel, bias = promoted
        dot_general = self.dot_general_cls() if self.dot_general_cls else self.dot_general
        dimensions = (((inputs.ndim - 1,), (0,)), ((), ()))
        y = dot_general(inputs, kernel, dimensions, precision=self.precision)
        return y if bias is None else add_bias(y, bias.reshape((1,) * (y.ndim - 1) + (-1,)))


class Embed(nn.Embed):
    """Linen's `Embed` whose `attend` takes the tokens of sequences as rows of one matrix.

    In half precision the gradient by a row is added up over its tokens in float32.

    Args:
        num_embeddings: the rows of the table.
        features: the width of a row; the other fields are Linen's too.

    Example:
        >>> layer = Embed(7, 4)
        >>> variables = layer.init(jax.random.key(0), jax.numpy.zeros((2, 3), int))
        >>> layer.apply(variables, jax.numpy.ones((2, 3, 4)), method="attend").shape
        (2, 3, 7)
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The rows `(..., features)` that integers `inputs (...)` stand for."""
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise InputError(f"{self.name or 'Embed'}: expected integers, got {inputs.dtype}")
        promoted: Any = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        (table,) = promoted
        return jnp.take(widened(table), inputs, axis=0).astype(table.dtype)

    def attend(self, query: jax.Array) -> jax.Array:
        """The products `(..., num_embeddings)` of `query (..., features)` with every row."""
        rows = super().attend(query.reshape(-1, query.shape[-1]))
        return rows.reshape(*query.shape[:-1], -1)
