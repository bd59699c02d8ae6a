"""Metrics of lists: how many of the right items are among the k that were proposed, and how high.

They take item numbers in the place of outputs and labels: `recommended` (B, at least k), the best
first (`jaxnet.layers.nearest`), and `relevant` (B, most), the right ones in any order. In both, -1
is no item, and an item that comes twice counts once. A user without relevant items has no value and
is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxnet.errors import InputError, UsageError
from jaxnet.metrics.sums import Mean


def recall_at(k: int) -> Callable[..., Mean]:
    """The share of a user's relevant items that are among the first `k` recommended.

    Its mean over users. Divided by all relevant items: with more than `k` of them 1 can't be
    reached.

    Raises:
        UsageError: `k` isn't positive. Calling the metric raises `InputError` where fewer than `k`
            items are recommended.

    Example:
        >>> recommended, relevant = jnp.array([[4, 2, 9]]), jnp.array([[9, 7, -1]])
        >>> recall_at(3)(recommended, relevant, jnp.ones(1)).compute()
        0.5
    """
    return _AtK(_recall, k)


def ndcg_at(k: int) -> Callable[..., Mean]:
    """Normalised discounted cumulative gain of the first `k`, from 0 to 1; its mean over users.

    Järvelin and Kekäläinen (2002) with gain 1 for a relevant item: the item at rank r counts
    `1 / log2(r + 1)`, divided by what the best possible list of `k` would have.

    Raises:
        UsageError: `k` isn't positive. Calling the metric raises `InputError` where fewer than `k`
            items are recommended.

    Example:
        >>> recommended, relevant = jnp.array([[4, 9]]), jnp.array([[9]])
        >>> import jax
        >>> round(jax.jit(ndcg_at(2))(recommended, relevant, jnp.ones(1)).compute(), 4)
        0.6309
    """
    return _AtK(_ndcg, k)


@dataclass(frozen=True)
class _AtK:
    """A metric of the first `k` places."""

    values: Callable[[Bool[Array, "batch k"], Int[Array, " batch"]], Float[Array, " batch"]]
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"expected k of at least 1, got {self.k}")

    def __call__(
        self,
        recommended: Int[ArrayLike, "batch places"],
        relevant: Int[ArrayLike, "batch most"],
        weights: Float[ArrayLike, " batch"],
    ) -> Mean:
        recommended, relevant = jnp.asarray(recommended), jnp.asarray(relevant)
        if recommended.shape[1] < self.k:
            raise InputError(
                f"expected at least {self.k} recommended items a user, got "
                f"{recommended.shape[1]}: ask for more, or measure at a smaller k"
            )
        first = recommended[:, : self.k]
        hits = ((first[:, :, None] == relevant[:, None, :]) & (first >= 0)[:, :, None]).any(axis=2)
        # What is recommended a second time takes a place and is found no second time.
        same = first[:, :, None] == first[:, None, :]
        hits = hits & ~(same & np.tri(self.k, k=-1, dtype=bool)[None]).any(axis=2)
        ordered = jnp.sort(relevant, axis=1)
        new = jnp.diff(ordered, axis=1, prepend=jnp.full_like(ordered[:, :1], -1)) > 0
        count = (new & (ordered >= 0)).sum(axis=1)
        known = count > 0
        values = self.values(hits, jnp.where(known, count, 1))
        return Mean.of(values, jnp.where(known, jnp.asarray(weights, jnp.float32), 0), "max")


def _recall(hits: Bool[Array, "batch k"], count: Int[Array, " batch"]) -> Float[Array, " batch"]:
    return hits.sum(axis=1).astype(jnp.float32) / count.astype(jnp.float32)


def _ndcg(hits: Bool[Array, "batch k"], count: Int[Array, " batch"]) -> Float[Array, " batch"]:
    k = hits.shape[1]
    discounts = 1 / jnp.log2(jnp.arange(2, k + 2, dtype=jnp.float32))
    best = jnp.cumsum(discounts)[jnp.minimum(count, k) - 1]
    return jnp.where(hits, discounts[None], 0).sum(axis=1) / best
