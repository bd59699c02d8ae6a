"""Metrics: pure functions `metric(outputs, labels, weights) -> Sums`.

`weights` (B,) says how much each example counts; 0 leaves it out, whatever it holds. What comes
back is a small pytree of SUMS over the batch: two of them merge by adding leaf by leaf
(`merge`), on the device, between devices (`psum`) or on the host, and `.compute()` turns the
total into the number. So the value over an epoch is exact, however it was cut into batches.

On the device the sums are float32, which counts examples exactly up to 2**24 (16.7 million) in one
dispatch; the trainer adds the dispatches on the host in float64.

The signatures name axes as those of `jaxnet.losses` do.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet import losses
from jaxnet.errors import InputError


class Sums(Protocol):
    """A pytree whose leaves are sums over examples."""

    def compute(self) -> float | np.ndarray:
        """The metric's value, on the host."""
        ...


Metric = Callable[[jax.Array, jax.Array, jax.Array], Sums]
S = TypeVar("S")


# Unchecked in tests, as JAX builds pytrees with shapes, shardings or None in the place of arrays.
@no_type_check
@flax.struct.dataclass
class Mean:
    """A weighted mean, as its numerator and denominator."""

    total: jax.Array | np.floating | float
    count: jax.Array | np.floating | float

    @classmethod
    def of(cls, values: Shaped[ArrayLike, "*_batch"], weights: Float[ArrayLike, "*_batch"]) -> Mean:
        """The mean of `values` (B,) under `weights` (B,).

        A value of weight 0 is left out even if it is NaN or infinite.

        Raises:
            InputError: the shapes differ.

        Example:
            >>> mean = Mean.of(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0]))
            >>> mean.compute()
            2.0
        """
        values, weights = _weighted(values, weights)
        return cls(total=jnp.sum(values * weights), count=jnp.sum(weights))

    def compute(self) -> float:
        """`total / count` as a Python float; NaN where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Confusion:
    """A confusion matrix: `counts[t, p]` is the weight of the examples of class t taken for p."""

    counts: Float[Array | np.ndarray, "classes classes"]

    def compute(self) -> Float[np.ndarray, "classes classes"]:
        """The counts (C, C) in float64: a row for each true class, a column for each answer."""
        return np.asarray(self.counts, np.float64)


def merge(a: S, b: S) -> S:
    """The sums of both: adds leaf by leaf. Also for dicts of sums.

    Example:
        >>> merge(Mean(total=3.0, count=1.0), Mean(total=5.0, count=3.0)).compute()
        2.0
    """
    return jax.tree.map(operator.add, a, b)


def weighted_mean(
    values: Shaped[ArrayLike, "*_batch"], weights: Float[ArrayLike, "*_batch"]
) -> Float[Array, ""]:
    """The mean of `values` (B,) under `weights` (B,), for use as the objective of training.

    A value of weight 0 is left out even if it is NaN or infinite, and its gradient is exactly 0.
    (What lies upstream must still be finite: 0 times an infinite derivative is NaN, so pad with
    ordinary rows.) Where all weights are 0 the mean is 0, with gradient 0: a shard that holds only
    padding teaches nothing, and must not poison the parameters.

    Raises:
        InputError: the shapes differ.

    Example:
        >>> print(weighted_mean(jnp.array([1.0, jnp.inf]), jnp.array([1.0, 0.0])))
        1.0
    """
    values, weights = _weighted(values, weights)
    count = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(count == 0, jnp.ones_like(count), count)


def accuracy(
    outputs: Float[ArrayLike, " batch *_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Mean:
    """The share of examples whose most likely class is the right one.

    Args:
        outputs: logits (B, ..., C): the answer is the class of the largest, the first of equals.
            With one logit an example, (B,) or (B, 1), the answer is "yes" above 0.
        labels: (B, ...) class numbers; with one logit an example 0 and 1.
        weights: (B,).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2]])
        >>> accuracy(logits, jnp.array([1, 1]), jnp.ones(2)).compute()
        0.5
    """
    if jnp.ndim(outputs) == 1 or jnp.shape(outputs)[-1:] == (1,):
        outputs, labels = losses.paired(outputs, labels)
        correct = (outputs > 0) == (labels > 0.5)
    else:
        outputs, labels = _classes("accuracy", outputs, labels)
        correct = jnp.argmax(outputs, axis=-1) == labels
    return Mean.of(_share(correct), weights)


def top_k_accuracy(k: int) -> Metric:
    """A metric: the share of examples whose label is among the `k` largest logits.

    It takes logits (B, ..., C), integer labels (B, ...) and weights (B,), and raises `InputError`
    where the shapes do not fit or there are fewer than `k` classes.

    Example:
        >>> logits = jnp.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
        >>> top_k_accuracy(2)(logits, jnp.array([1, 0]), jnp.ones(2)).compute()
        0.5
    """
    if k < 1:
        raise InputError(f"top_k_accuracy needs k >= 1; got {k}")

    def metric(
        outputs: Float[ArrayLike, "*_batch_dims_classes"],
        labels: Shaped[ArrayLike, "*_batch_dims"],
        weights: Float[ArrayLike, "*_batch"],
    ) -> Mean:
        outputs, labels = _classes("top_k_accuracy", outputs, labels)
        if outputs.shape[-1] < k:
            raise InputError(f"top_k_accuracy({k}) needs {k} classes; got {outputs.shape[-1]}")
        _, best = jax.lax.top_k(outputs, k)
        hits = jnp.any(best == labels[..., None], axis=-1)
        return Mean.of(_share(hits), weights)

    return metric


def confusion_matrix(num_classes: int) -> Metric:
    """A metric: who is taken for whom, a row for each true class and a column for each answer.

    It takes logits (B, num_classes), integer labels (B,) and weights (B,), and raises
    `InputError` where the shapes do not fit. An example whose label is outside
    `0 ... num_classes-1` is left out.

    Example:
        >>> logits = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(confusion_matrix(2)(logits, jnp.array([0, 1, 1]), jnp.ones(3)).compute())
        [[1. 0.]
         [1. 1.]]
    """

    def metric(
        outputs: Float[ArrayLike, "*_batch_classes"],
        labels: Shaped[ArrayLike, "*_batch"],
        weights: Float[ArrayLike, "*_batch"],
    ) -> Confusion:
        outputs, labels = _classes("confusion_matrix", outputs, labels)
        if outputs.shape != (labels.size, num_classes):
            raise InputError(
                f"confusion_matrix({num_classes}) expects logits (B, {num_classes}); got "
                f"{list(outputs.shape)}"
            )
        known = (labels >= 0) & (labels < num_classes)
        known, weights = _weighted(known, weights)
        answers = jnp.argmax(outputs, axis=-1)
        # A negative index would count from the end, so unknown labels go to row 0 with weight 0.
        rows = jnp.where(known != 0, labels, 0)
        counts = jnp.zeros((num_classes, num_classes), weights.dtype)
        return Confusion(counts.at[rows, answers].add(known * weights))

    return metric


def mean_squared_error(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Mean:
    """The mean of `losses.squared_error`.

    Example:
        >>> mean_squared_error(jnp.array([1.0, 3.0]), jnp.zeros(2), jnp.ones(2)).compute()
        5.0
    """
    return Mean.of(losses.squared_error(outputs, labels), weights)


def mean_absolute_error(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Mean:
    """The mean of `losses.absolute_error`.

    Example:
        >>> mean_absolute_error(jnp.array([1.0, 3.0]), jnp.zeros(2), jnp.ones(2)).compute()
        2.0
    """
    return Mean.of(losses.absolute_error(outputs, labels), weights)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_k_accuracy(5),
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}
"""The metrics by name, for `jaxnet.names.lookup`."""


def _weighted(values: ArrayLike, weights: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both in one float type, the values of weight 0 replaced by 0."""
    values, weights = jnp.asarray(values), jnp.asarray(weights)
    if values.shape != weights.shape or values.ndim != 1:
        raise InputError(
            f"values and weights must both have the shape (B,), one an example; got "
            f"{list(values.shape)} and {list(weights.shape)}"
        )
    values = losses.widened(values)
    weights = weights.astype(values.dtype)
    # A product would not do: 0 times NaN is NaN.
    return jnp.where(weights != 0, values, 0), weights


def _share(correct: jax.Array) -> jax.Array:
    return jnp.mean(correct, axis=tuple(range(1, correct.ndim)), dtype=jnp.float32)


def _classes(metric: str, outputs: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    outputs, labels = jnp.asarray(outputs), jnp.asarray(labels)
    if labels.shape != outputs.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"{metric} expects logits (B, ..., C) and integer labels (B, ...); got logits "
            f"{list(outputs.shape)} and labels {labels.dtype}{list(labels.shape)}. "
            f"Turn one-hot labels into class numbers with argmax"
        )
    # Eight-bit labels must not be compared in eight bits: class 256 would pass for class 0.
    return outputs, labels.astype(jnp.int32)
