"""The items that fit a query best, exactly: dot products with all of them, block by block.

A catalogue of a million items makes 256 million scores for a batch of 256 queries. They are never
all there at once: each block of items meets the best of those before it, and only the winners go
on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxnet.errors import InputError

BLOCK = 8192


def nearest(
    queries: Float[ArrayLike, "batch width"],
    items: Float[ArrayLike, "items width"],
    k: int,
    excluded: Int[ArrayLike, "batch most"] | None = None,
    block: int = BLOCK,
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The `k` items with the largest dot products, the best first; of equal ones the lower number.

    Args:
        queries: (batch, width).
        items: (items, width).
        k: how many, at most as many as there are items.
        excluded: items that a query must not get, by number; numbers outside the table mean none.
        block: items scored at a time.

    Returns:
        Scores and item numbers, (batch, k). Where a query has fewer than `k` items left, the
        scores end in -inf and the numbers in -1.

    Raises:
        InputError: there are fewer than `k` items.

    Example:
        >>> items = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]])
        >>> scores, numbers = nearest(jnp.array([[2.0, 1.0]]), items, 2)
        >>> print(numbers, scores.round())
        [[0 2]] [[2. 2.]]
        >>> nearest(jnp.array([[2.0, 1.0]]), items, 2, jnp.array([[0]]))[1].tolist()
        [[2, 1]]
    """
    queries, items = jnp.asarray(queries), jnp.asarray(items)
    count, batch = len(items), len(queries)
    if not 1 <= k <= count:
        raise InputError(f"expected k from 1 to the number of items, {count}; got {k}")
    starts, blocks = _blocks(items, block)
    rows = jnp.arange(batch)[:, None]
    out = None if excluded is None else jnp.asarray(excluded)

    def step(best, start_and_block):
        start, part = start_and_block
        scores, numbers = _scores(queries, start, part, count)
        if out is not None:
            inside = (out >= start) & (out < start + len(part))
            place = jnp.where(inside, out - start, len(part))
            scores = scores.at[rows, place].set(-jnp.inf, mode="drop")
        # Those before come first, so that of equal scores the lower number wins.
        scores = jnp.concatenate([best[0], scores], axis=1)
        numbers = jnp.concatenate([best[1], jnp.broadcast_to(numbers, (batch, len(part)))], axis=1)
        scores, place = jax.lax.top_k(scores, k)
        return (scores, jnp.take_along_axis(numbers, place, axis=1)), None

    nothing = jnp.full((batch, k), -jnp.inf, queries.dtype), jnp.full((batch, k), -1, jnp.int32)
    (scores, numbers), _ = jax.lax.scan(step, nothing, (starts, blocks))
    return scores, jnp.where(scores == -jnp.inf, -1, numbers)


def log_partition(
    queries: Float[ArrayLike, "batch width"],
    items: Float[ArrayLike, "items width"],
    block: int = BLOCK,
) -> Float[Array, " batch"]:
    """`log sum_j exp(q . item_j)`: what normalises the softmax over all items.

    Args:
        queries: (batch, width).
        items: (items, width).
        block: items scored at a time.

    Example:
        >>> print(log_partition(jnp.zeros((1, 2)), jnp.ones((10, 2)), block=4).round(4))
        [2.3026]
    """
    queries, items = jnp.asarray(queries), jnp.asarray(items)

    def step(total, start_and_block):
        start, part = start_and_block
        scores, _ = _scores(queries, start, part, len(items))
        return jnp.logaddexp(total, jax.nn.logsumexp(scores, axis=1)), None

    nothing = jnp.full(len(queries), -jnp.inf, queries.dtype)
    return jax.lax.scan(step, nothing, _blocks(items, block))[0]


def _blocks(items: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    """The number of each block's first item, and the items (blocks, block, width)."""
    count, width = items.shape
    block = min(block, count)
    blocks = -(-count // block)
    padded = jnp.pad(items, ((0, blocks * block - count), (0, 0)))
    return jnp.arange(blocks) * block, padded.reshape(blocks, block, width)


def _scores(
    queries: jax.Array, start: jax.Array, part: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Scores (batch, block) of a block's items, -inf for padding, and their numbers (1, block)."""
    numbers = (start + jnp.arange(len(part)))[None]
    return jnp.where(numbers < count, queries @ part.T, -jnp.inf), numbers
