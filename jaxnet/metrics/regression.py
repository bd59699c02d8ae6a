"""Metrics of regression: errors, and the share of the labels' variance that is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from jaxnet import losses
from jaxnet.metrics.accuracy import spread
from jaxnet.metrics.bins import Bins
from jaxnet.metrics.sums import Mean, Score

# Where a batch's mean lies; see `Moments`.
PLACES = Bins(bits=3, octaves=32)


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
    return Mean.of(losses.squared_error(outputs, labels), weights, "min")


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
    return Mean.of(losses.absolute_error(outputs, labels), weights, "min")


def root_mean_squared_error(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Score:
    """The root of `mean_squared_error`; with several outputs the root of the mean over them all.

    Example:
        >>> root_mean_squared_error(jnp.array([1.0, 7.0]), jnp.zeros(2), jnp.ones(2)).compute()
        5.0
    """
    return Score(mean_squared_error(outputs, labels, weights), _root, "min")


def r2(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Score:
    """The coefficient of determination: 1 less the squared error over the labels' variance.

    With several outputs, the mean over those for which it is defined. It is NaN where the labels do
    not vary, or vary so little beside their size that float32 could not say to 0.001 how much (a
    mean of more than some 1,600 standard deviations): subtract a constant from labels and outputs.

    Args:
        outputs: (B,), or (B, ..., K) for K outputs; a last axis of size 1 more than `labels` has is
            dropped.
        labels: the same shape.
        weights: (B,).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> labels = jnp.array([1.0, 2.0, 3.0])
        >>> r2(jnp.array([1.0, 2.0, 4.0]), labels, jnp.ones(3)).compute()
        0.5
    """
    outputs, labels, weights = _rows("r2", outputs, labels, weights)
    errors = _masked(jnp.square(outputs - labels), weights) * weights[:, None]
    sums = {"left": jnp.sum(errors, axis=0), "labels": Moments.of(labels, weights)}
    return Score(sums, _Explained(_epsilon(labels)), "max")


def explained_variance(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Score:
    """1 less the variance of the errors over the labels' variance: `r2` that forgives an offset.

    Arguments, precision and errors as in `r2`.

    Example:
        >>> labels = jnp.array([1.0, 2.0, 3.0])
        >>> jax.jit(explained_variance)(labels + 5.0, labels, jnp.ones(3)).compute()
        1.0
    """
    outputs, labels, weights = _rows("explained_variance", outputs, labels, weights)
    sums = {
        "left": Moments.of(outputs - labels, weights),
        "labels": Moments.of(labels, weights),
    }
    return Score(sums, _Explained(_epsilon(labels)), "max")


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class Moments:
    """Sums that hold the variance of K numbers an example, however far from 0 they are.

    The sum of squares of large numbers that differ little loses the difference. Squares about the
    mean keep it, but only sums about one and the same point add up, and the mean is not known
    beforehand. So there are 1,024 points, known beforehand (`PLACES`), each with sums of its own; a
    batch adds to those of the point next to its mean, which is within 6 % of it. The host puts the
    points together in float64 (Chan, Golub and LeVeque 1983, equation 2.1).

    Attributes:
        weights: (K, points) the sum of the weights.
        deviations: (K, points) the weighted sum of the distances to the point.
        squares: (K, points) that of their squares.
    """

    weights: Float[Array | np.ndarray, "outputs points"]
    deviations: Float[Array | np.ndarray, "outputs points"]
    squares: Float[Array | np.ndarray, "outputs points"]

    @classmethod
    def of(cls, values: Float[Array, "rows outputs"], weights: Float[Array, " rows"]) -> Moments:
        """The sums over a batch; rows of weight 0 are left out."""
        values, weights = _masked(values, weights), weights[:, None]
        total = jnp.sum(weights)
        mean = jnp.sum(weights * values, axis=0) / jnp.where(total == 0, 1, total)
        place = PLACES.of(mean)
        point = jnp.asarray(PLACES.centres)[place].astype(mean.dtype)
        apart = jnp.where(weights != 0, values - point[None], 0)
        where = (np.arange(len(mean)), place)
        zeros = jnp.zeros((len(mean), PLACES.count), mean.dtype)
        return cls(
            weights=zeros.at[where].set(total),
            deviations=zeros.at[where].set(jnp.sum(weights * apart, axis=0)),
            squares=zeros.at[where].set(jnp.sum(weights * jnp.square(apart), axis=0)),
        )

    def scatter(self) -> Float[np.ndarray, " outputs"]:
        """The sum of squares about the mean, on the host."""
        weights, squares = np.asarray(self.weights), np.asarray(self.squares)
        counted = np.where(weights != 0, weights, 1)
        offsets = self.deviations / counted
        means = PLACES.centres.astype(np.float64) + offsets
        total = weights.sum(axis=1, keepdims=True)
        mean = (weights * means).sum(axis=1, keepdims=True) / np.where(total != 0, total, 1)
        within = squares - weights * offsets**2
        return np.maximum((within + weights * (means - mean) ** 2).sum(axis=1), 0.0)

    def varies(self, epsilon: float) -> Bool[np.ndarray, " outputs"]:
        """Whether `scatter` is more than rounding (`epsilon` of the squares) by a factor of 1,000.

        True for NaN, which is no lack of variance.
        """
        return ~(self.scatter() <= 1e3 * epsilon * np.asarray(self.squares).sum(axis=1))


@dataclass(frozen=True)
class _Explained:
    """The formula of R2 and of the explained variance: 1 less what is left over what there was.

    Attributes:
        epsilon: the rounding of the sums.
    """

    epsilon: float

    def __call__(self, sums: dict) -> float:
        left, labels = sums["left"], sums["labels"]
        left = left.scatter() if isinstance(left, Moments) else left
        varies = labels.varies(self.epsilon)
        shares = 1 - left / labels.scatter()
        return float(shares[varies].mean()) if varies.any() else np.nan


def _root(mean: Mean) -> float:
    return float(np.sqrt(mean.compute()))


def _rows(
    metric: str, outputs: ArrayLike, labels: ArrayLike, weights: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Outputs and labels (N, K), weights (N,)."""
    outputs, labels = losses.paired(outputs, labels)
    width = 1 if outputs.ndim == 1 else outputs.shape[-1]
    outputs, labels = (x.reshape(len(x), -1, width) for x in (outputs, labels))
    weights = spread(metric, weights, outputs[..., 0]).astype(outputs.dtype)
    return outputs.reshape(-1, width), labels.reshape(-1, width), weights


def _masked(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Values (N, K), those of weight 0 replaced by 0."""
    return jnp.where(weights[:, None] != 0, values, 0)


def _epsilon(values: jax.Array) -> float:
    return float(jnp.finfo(values.dtype).eps)
