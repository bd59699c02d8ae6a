"""Mergeable sums: what a metric returns, and the mean that every loss and metric is made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, no_type_check, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet import losses
from jaxnet.errors import InputError
from jaxnet.metrics.direction import Direction


@runtime_checkable
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
    """A weighted mean, as its numerator and denominator.

    Attributes:
        total: the weighted sum of the values.
        count: the sum of the weights.
        better: `"max"` where larger is better, `"min"` where smaller is, None where neither is
            said; early stopping goes by it. It is part of the pytree's structure.
    """

    total: jax.Array | np.floating | float
    count: jax.Array | np.floating | float
    better: Direction | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        values: Shaped[ArrayLike, "*_batch"],
        weights: Float[ArrayLike, "*_batch"],
        better: Direction | None = None,
    ) -> Mean:
        """The mean of `values` (B,) under `weights` (B,); `better` as in the attributes.

        A value of weight 0 is left out even if it is NaN or infinite.

        Raises:
            InputError: the shapes differ.

        Example:
            >>> mean = Mean.of(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0]))
            >>> mean.compute()
            2.0
        """
        values, weights = weighted(values, weights)
        return cls(jnp.sum(values * weights), jnp.sum(weights), better)

    def compute(self) -> float:
        """`total / count` as a Python float; NaN where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Score:
    """Sums, and the formula that makes the metric's value of them.

    Attributes:
        sums: a pytree of sums over examples.
        formula: from the same pytree in float64 to a float or an array. It is part of the pytree's
            structure: functions and frozen dataclasses compare as they should.
        better: as in `Mean`.

    Example:
        >>> def rate(sums):
        ...     return float(sums["hits"] / sums["shots"])
        >>> score = Score({"hits": jnp.float32(1.0), "shots": jnp.float32(4.0)}, rate)
        >>> merge(score, score).compute()
        0.25
    """

    sums: Any
    formula: Callable[[Any], float | np.ndarray] = flax.struct.field(pytree_node=False)
    better: Direction | None = flax.struct.field(pytree_node=False, default=None)

    def compute(self) -> float | np.ndarray:
        """The formula's value, on the host in float64."""
        sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.sums)
        # What diverged is told by NaN and infinity, not by a warning in each epoch.
        with np.errstate(all="ignore"):
            return self.formula(sums)


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
    values, weights = weighted(values, weights)
    count = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(count == 0, jnp.ones_like(count), count)


def weighted(values: ArrayLike, weights: ArrayLike) -> tuple[jax.Array, jax.Array]:
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
