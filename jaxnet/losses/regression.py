"""Losses of regression: outputs and labels of one shape."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.losses.shapes import paired, per_example


def squared_error(
    outputs: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """The square of the error, averaged over an example's outputs; its mean is the MSE.

    Args:
        outputs: (B, ...); a last axis of size 1 more than `labels` has is dropped.
        labels: (B, ...).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> print(squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])))
        [2.]
    """
    outputs, labels = paired(outputs, labels)
    return per_example(jnp.square(outputs - labels))


def absolute_error(
    outputs: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """The size of the error, averaged over an example's outputs; its mean is the MAE.

    Shapes and errors as in `squared_error`.

    Example:
        >>> print(absolute_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])))
        [1.]
    """
    outputs, labels = paired(outputs, labels)
    return per_example(jnp.abs(outputs - labels))


def huber(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    *,
    delta: float = 1.0,
) -> Float[Array, " batch"]:
    """Half the squared error up to `delta`, linear beyond: outliers pull with a bounded force.

    Huber (1964), equation 1: `e^2 / 2` where `|e| <= delta`, else `delta (|e| - delta / 2)`.
    Shapes and errors as in `squared_error`.

    Example:
        >>> print(huber(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.125 2.5  ]
    """
    outputs, labels = paired(outputs, labels)
    return per_example(optax.losses.huber_loss(outputs, labels, delta=delta))


def log_cosh(
    outputs: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """`log cosh e`: about `e^2 / 2` for a small error, `|e| - log 2` for a large one.

    Huber's loss without a joint. Shapes and errors as in `squared_error`.

    Example:
        >>> print(log_cosh(jnp.array([0.0, 10.0]), jnp.zeros(2)).round(4))
        [0.     9.3069]
    """
    outputs, labels = paired(outputs, labels)
    return per_example(optax.losses.log_cosh(outputs, labels))


def sum_of_squares(
    outputs: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """Half the sum of an example's squared errors: the SSE of classical back-propagation.

    Rumelhart, Hinton and Williams (1986), equation 3: `E = 1/2 sum_j (y_j - d_j)^2`. The half
    makes the gradient of an output its error. This is a SUM over an example's outputs, where the
    other losses take the mean. Shapes and errors as in `squared_error`.

    Example:
        >>> print(sum_of_squares(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])))
        [2.5]
    """
    outputs, labels = paired(outputs, labels)
    return 0.5 * jnp.sum(jnp.square(outputs - labels), axis=tuple(range(1, outputs.ndim)))
