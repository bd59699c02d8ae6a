"""Augmentations that mix two examples: mixup and cutmix.

A mixed example has two labels: `labels`, which counts by its share `lam` (B,), and `labels_b`,
which counts by the rest. The objective mixes the losses, `lam * loss(labels) + (1 - lam) *
loss(labels_b)`, which is right for every loss and needs no class probabilities (see
`jaxnet.training.tasks.supervised.targets`).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxnet.data.augmentation.base import (
    Augmentation,
    Batch,
    as_type_of,
    images_of,
    in_float,
    one_input,
    require,
)
from jaxnet.data.augmentation.occlusion import box
from jaxnet.errors import UsageError


def mixup(alpha: float = 0.2) -> Augmentation:
    """Take the weighted mean of each example and another one.

    Zhang et al. (2018), "mixup: beyond empirical risk minimization", equation 1:
    `lam * x + (1 - lam) * x_b` with `lam` from Beta(alpha, alpha), here drawn for each pair. Rows
    that merely pad a batch take no part. Inputs may have any shape.

    Args:
        alpha: above 0; 0.2 mixes most pairs slightly, 1 evenly.

    Raises:
        UsageError: `alpha` isn't positive, or the batch is mixed already.
    """
    require(alpha > 0, "mixup", "an alpha above 0", alpha)

    def mix(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        x, partner, lam = _drawn("mixup", key, batch, alpha)
        share = lam.reshape(-1, *(1,) * (x.ndim - 1)).astype(in_float(x[:0]).dtype)
        mixed = share * in_float(x) + (1 - share) * in_float(x[partner])
        return _paired(batch, as_type_of(x, mixed), partner, lam)

    return mix


def cutmix(alpha: float = 1.0) -> Augmentation:
    """Put a rectangle of another example into each, and count both labels by their areas.

    Yun et al. (2019), "CutMix: regularization strategy to train strong classifiers with localizable
    features", section 3.1 and its code: sides of `sqrt(1 - lam)`, with `lam` from
    Beta(alpha, alpha), around a centre anywhere; `lam` is then the share of pixels that stayed.
    Rows that merely pad a batch take no part.

    Args:
        alpha: above 0; 1 makes all areas equally likely.

    Raises:
        UsageError: `alpha` isn't positive, or the batch is mixed already.
    """
    require(alpha > 0, "cutmix", "an alpha above 0", alpha)

    def mix(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        _, height, width, _ = images_of(batch).shape
        place, key = jax.random.split(key)
        x, partner, lam = _drawn("cutmix", key, batch, alpha)
        limits = jnp.array([[height], [width]])
        sides = jnp.sqrt(1 - lam)[None, :] * limits.astype(jnp.float32)
        sides = sides.astype(jnp.int32)
        start = jax.random.randint(place, (2, len(x)), 0, limits) - sides // 2
        # A side of 0 covers nothing, so that a padding row, with lam 1, stays as it is.
        pasted = box(*start, *(start + sides), size=(height, width))
        lam = 1 - pasted.mean(axis=(1, 2, 3), dtype=jnp.float32)
        return _paired(batch, jnp.where(pasted, x[partner], x), partner, lam)

    return mix


def _drawn(
    name: str, key: jax.Array, batch: Batch, alpha: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The inputs, each row's partner (B,), and its share (B,), 1 where the row is padding."""
    if "lam" in batch:
        raise UsageError(
            f"{name}: this batch is mixed already; take turns with one_of(mixup(...), cutmix(...))"
        )
    who, share = jax.random.split(key)
    mask = batch["mask"]
    lam = symmetric_beta(share, alpha, mask.shape)
    return one_input(batch), partners(who, mask), jnp.where(mask, lam, 1.0)


def symmetric_beta(key: jax.Array, alpha: float, shape: tuple[int, ...]) -> jax.Array:
    """Draws from Beta(alpha, alpha), in float32.

    Bailey (1994), "Polar generation of random variates with the t-distribution": Student's t with
    `2 * alpha` degrees of freedom, here divided by their root, is `t` below, and
    `(1 + t / sqrt(1 + t^2)) / 2` is then beta. No draw is rejected: `jax.random.beta` has loops
    that take seconds to compile.

    Example:
        >>> draws = symmetric_beta(jax.random.key(0), 0.5, (1000,))
        >>> bool(abs(draws.mean() - 0.5) < 0.05)
        True
    """
    radius, angle = jax.random.uniform(key, (2, *shape), jnp.float32)
    t = jnp.sqrt(jnp.expm1(-jnp.log(radius) / alpha)) * jnp.cos(2 * jnp.pi * angle)
    # The sine of the arctangent is t / sqrt(1 + t^2), also where t is infinite.
    return (1 + jnp.sin(jnp.arctan(t))) / 2


def partners(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Another row for each row, (B,): the unmasked ones pass theirs on in a random circle.

    A row that merely pads, or the only one that doesn't, is its own partner.

    Example:
        >>> mask = jnp.array([True, True, False])
        >>> partners(jax.random.key(0), mask).tolist()
        [1, 0, 2]
    """
    draws = jax.random.uniform(key, mask.shape)
    order = jnp.argsort(jnp.where(mask, draws, 2.0))
    places = jnp.arange(len(mask))
    real = mask.sum(dtype=places.dtype)
    after = jnp.where(places + 1 < real, places + 1, 0)
    return places.at[order].set(jnp.where(places < real, order[after], order))


def _paired(
    batch: Batch, inputs: jax.Array, partner: jax.Array, lam: jax.Array
) -> dict[str, jax.Array]:
    """The batch with mixed inputs and both labels."""
    others = jax.tree.map(lambda labels: labels[partner], batch["labels"])
    mixed = {**batch, "inputs": inputs, "labels_b": others, "lam": lam}
    return {**mixed, **_weighed(batch, partner, lam)}


def _weighed(batch: Batch, partner: jax.Array, lam: jax.Array) -> Mapping[str, jax.Array]:
    """Weights of examples, where there are any: each label counts by its own example's weight."""
    if "weights" not in batch:
        return {}
    own = lam * batch["weights"].astype(jnp.float32)
    both = own + (1 - lam) * batch["weights"][partner].astype(jnp.float32)
    return {"weights": both, "lam": jnp.where(both > 0, own / jnp.where(both > 0, both, 1.0), lam)}
