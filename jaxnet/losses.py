"""Losses: pure functions `loss(outputs, labels) -> (B,)`, one number an example, never reduced.

The mean over a batch belongs to the caller, who knows the weights and which rows are padding
(`jaxnet.metrics.weighted_mean`). Where an example has further axes (time, pixels, several
outputs), its loss is the mean over them. Everything is computed and returned in float32, or in
float64 where the outputs are; `bfloat16` and `float16` outputs are widened first.

In the signatures a leading underscore marks axes that vary or that the function checks itself, with
a message of its own. (A leading space says nothing: it keeps linters from reading names of axes as
names of variables.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.errors import InputError

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(
    logits: Float[ArrayLike, "batch *_dims classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Softmax cross-entropy against class numbers (sparse categorical cross-entropy), in nats.

    A label outside `0 ... C-1` makes the loss of its example NaN, so that a wrong label cannot
    pass for another class; its gradient is finite, so a padding row may carry one.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ...) integers.
        label_smoothing: the share of the probability that is spread evenly over all classes, in
            [0, 1) (Szegedy et al. 2016, section 7).

    Raises:
        InputError: the shapes do not fit, or the labels are not integers.

    Example:
        >>> print(cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7])).round(4))
        [2.3026 2.3026]
    """
    logits, labels = widened(logits), jnp.asarray(labels)
    _check_smoothing(label_smoothing)
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"cross_entropy expects logits (B, ..., C) and integer labels (B, ...); got logits "
            f"{_kind(logits)} and labels {_kind(labels)}. For one-hot labels or probabilities "
            f"use categorical_cross_entropy, for one logit an example binary_cross_entropy"
        )
    # Eight-bit labels, as image sets have them, cannot hold an index beyond 255.
    labels = labels.astype(jnp.int32)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * even
    known = (labels >= 0) & (labels < logits.shape[-1])
    return _per_example(jnp.where(known, losses, jnp.nan))


def categorical_cross_entropy(
    logits: Float[ArrayLike, "batch *_dims classes"],
    labels: Shaped[ArrayLike, "*_batch_dims_classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Softmax cross-entropy against one-hot labels or class probabilities, in nats.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ..., C) probabilities.
        label_smoothing: see `cross_entropy`.

    Raises:
        InputError: the shapes differ.

    Example:
        >>> labels = jnp.array([[0.0, 1.0], [0.5, 0.5]])
        >>> print(categorical_cross_entropy(jnp.zeros((2, 2)), labels).round(4))
        [0.6931 0.6931]
    """
    logits, labels = widened(logits), jnp.asarray(labels)
    _check_smoothing(label_smoothing)
    if labels.shape != logits.shape:
        raise InputError(
            f"categorical_cross_entropy expects logits and labels of one shape (B, ..., C); got "
            f"logits {_kind(logits)} and labels {_kind(labels)}. For class numbers use "
            f"cross_entropy"
        )
    labels = labels.astype(logits.dtype)
    if label_smoothing:
        labels = optax.losses.smooth_labels(labels, label_smoothing)
    return _per_example(optax.losses.safe_softmax_cross_entropy(logits, labels))


def binary_cross_entropy(
    logits: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """Sigmoid cross-entropy of yes-or-no labels, in nats; several labels an example are averaged.

    Args:
        logits: (B, ...) log-odds of "yes"; a last axis of size 1 more than `labels` has is dropped.
        labels: (B, ...) 0 or 1, or probabilities of "yes".

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> print(binary_cross_entropy(jnp.zeros((2, 1)), jnp.array([0, 1])).round(4))
        [0.6931 0.6931]
    """
    logits, labels = paired(logits, labels)
    return _per_example(optax.losses.sigmoid_binary_cross_entropy(logits, labels))


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
    return _per_example(jnp.square(outputs - labels))


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
    return _per_example(jnp.abs(outputs - labels))


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
    return _per_example(optax.losses.huber_loss(outputs, labels, delta=delta))


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


def paired(
    outputs: Shaped[ArrayLike, "*_batch_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> tuple[Float[Array, " batch *dims"], Float[Array, " batch *dims"]]:
    """Outputs and labels in one shape and one type, float32 at least.

    Outputs (B, 1) against labels (B,) are the same numbers, one an example: left to broadcasting
    they would be compared all with all.

    Raises:
        InputError: the shapes do not fit.
    """
    outputs, labels = widened(outputs), jnp.asarray(labels)
    if outputs.shape == (*labels.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != labels.shape or outputs.ndim == 0:
        raise InputError(
            f"outputs and labels must have one shape (B, ...); got outputs {_kind(outputs)} and "
            f"labels {_kind(labels)}"
        )
    return outputs, labels.astype(outputs.dtype)


def widened(values: Shaped[ArrayLike, "*dims"]) -> Float[Array, "*dims"]:
    """The values in float64 where they are, in float32 from any other type."""
    values = jnp.asarray(values)
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "categorical_cross_entropy": categorical_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "sum_of_squares": sum_of_squares,
}
"""The losses by name, for `jaxnet.names.lookup`."""


def _per_example(losses: jax.Array) -> jax.Array:
    return jnp.mean(losses, axis=tuple(range(1, losses.ndim)))


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"label_smoothing must be in [0, 1); got {label_smoothing}")


def _kind(array: jax.Array) -> str:
    return f"{array.dtype}{list(array.shape)}"
