"""Search among all items with compiled programs: the best for each user, and how good they are.

What is searched are vectors, whoever made them: the towers of a trained network, a model that is
known, or the popularity of items as vectors of one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxnet.data.interactions.interactions import Lists
from jaxnet.errors import InputError
from jaxnet.layers.nearest import nearest
from jaxnet.metrics import Mean, merge
from jaxnet.metrics.retrieval import ndcg_at, recall_at
from jaxnet.training.programs import compiled

BATCH = 256


def tower_vectors(
    predict: Callable[[np.ndarray], Any], users: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of all users and all items, each computed once.

    Args:
        predict: `Trained.predict` or `Bundle.predict` of two towers.
        users: (users, user columns) integers.
        items: (items, item columns) integers.

    Returns:
        (users, width) and (items, width) float32.
    """
    # Towers don't look at each other, so that what stands beside a user doesn't matter.
    by_user = np.concatenate([users, np.repeat(items[:1], len(users), axis=0)], axis=1)
    by_item = np.concatenate([np.repeat(users[:1], len(items), axis=0), items], axis=1)
    return predict(by_user)[0], predict(by_item)[1]


def recommend(
    users: np.ndarray,
    items: np.ndarray,
    k: int,
    *,
    excluded: Lists | None = None,
    sellable: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` items of the largest dot products for each user, exactly.

    Args:
        users: (n, width) float32.
        items: (items, width) float32.
        k: how many.
        excluded: for each user the items that it must not get, those that it has.
        sellable: (items,) bool, which items may be recommended at all; None means all. What was
            never seen in training has a vector that means nothing, and is better left out.

    Returns:
        Item numbers and scores (n, k), the best first. Where fewer are left, numbers end in -1 and
        scores in -inf.

    Raises:
        InputError: there are fewer than `k` items, or as many lists as users are expected.

    Example:
        >>> users, items = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
        >>> recommend(users, items, 1)[0].tolist()
        [[0], [1]]
        >>> had = Lists(np.array([0]), np.array([0, 1, 1]))
        >>> recommend(users, items, 1, excluded=had)[0].tolist()
        [[1], [1]]
    """
    if not 1 <= k <= len(items):
        raise InputError(f"expected k from 1 to the number of items, {len(items)}; got {k}")
    if excluded is not None:
        _check_lists(users, excluded, "items to leave out")
    width = 0 if excluded is None else int(excluded.lengths.max(initial=0))
    users, items = _without(users, items, sellable)
    catalogue, found = jax.device_put(items), []
    for rows, count in _batches(len(users)):
        out = excluded.padded(rows, width) if excluded is not None and width else None
        scores, numbers = jax.device_get(_search(k)(users[rows], catalogue, out))
        found.append((numbers[:count], scores[:count]))
    numbers, scores = zip(*found, strict=True)
    return np.concatenate(numbers), np.concatenate(scores)


def measure(
    recommended: np.ndarray, relevant: Lists, ks: Sequence[int] = (10,)
) -> dict[str, float]:
    """Recall and NDCG of lists of recommended items, a mean over users.

    Args:
        recommended: (n, at least max(ks)) item numbers, the best first, as `recommend` gives them.
        relevant: for each user the items that count as right. Users without any are left out.
        ks: the lengths of list to measure at.

    Returns:
        `recall@K` and `ndcg@K` for each of `ks`.

    Raises:
        InputError: no user has relevant items, there isn't a list for each user, or the lists are
            shorter than a `k`.

    Example:
        >>> relevant = Lists(np.array([1, 1]), np.array([0, 1, 2]))
        >>> measure(np.array([[0, 2], [1, 2]]), relevant, ks=(1,))
        {'ndcg@1': 0.5, 'recall@1': 0.5}
    """
    _check_lists(recommended, relevant, "relevant items")
    if not relevant.lengths.any():
        raise InputError("expected users with relevant items to measure with, got none")
    width = int(relevant.lengths.max())
    total: dict[str, Mean] | None = None
    for rows, count in _batches(len(recommended)):
        weights = (np.arange(len(rows)) < count).astype(np.float32)
        sums = _metrics(tuple(ks))(recommended[rows], relevant.padded(rows, width), weights)
        sums = jax.tree.map(np.float64, jax.device_get(sums))
        total = sums if total is None else merge(total, sums)
    return {name: value.compute() for name, value in (total or {}).items()}


def rerank(
    predict: Callable[[np.ndarray], Any], lists: np.ndarray, users: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of candidates in the order of what a second network says of each pair.

    Args:
        predict: `Trained.predict` or `Bundle.predict` of a network that gives (n, 1) for pairs.
        lists: (n, places) item numbers, -1 where a list is shorter.
        users: (n, user columns) integers.
        items: (items, item columns) integers.

    Returns:
        Item numbers and what was predicted for them, (n, places), the largest first; -1 and -inf
        where a list is shorter.

    Example:
        >>> lists = np.array([[0, 2, -1]])
        >>> def dearest(pairs):  # the second column is the price
        ...     return pairs[:, 1:].astype(np.float32)
        >>> rerank(dearest, lists, np.array([[0]]), np.array([[5], [6], [7]]))[0].tolist()
        [[2, 0, -1]]
    """
    places = lists.shape[1]
    pairs = np.concatenate(
        [np.repeat(users, places, axis=0), items[np.maximum(lists, 0).ravel()]], axis=1
    )
    scores = np.where(lists < 0, -np.inf, predict(pairs)[:, 0].reshape(lists.shape))
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(lists, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _batches(users: int) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of a batch of users, and how many are real."""
    for start in range(0, users, BATCH):
        count = min(BATCH, users - start)
        # The last batch is filled up with its first user: one shape, one compile.
        yield np.where(np.arange(BATCH) < count, start + np.arange(BATCH), start), count


def _without(
    users: np.ndarray, items: np.ndarray, sellable: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors with one number more, which makes the score of unsellable items -inf."""
    users, items = np.asarray(users, np.float32), np.asarray(items, np.float32)
    if sellable is None:
        return users, items
    ones = np.ones((len(users), 1), np.float32)
    out = np.where(sellable, 0, -np.inf).astype(np.float32)[:, None]
    return np.concatenate([users, ones], axis=1), np.concatenate([items, out], axis=1)


def _check_lists(users: np.ndarray, lists: Lists, what: str) -> None:
    if len(lists) != len(users):
        raise InputError(
            f"expected a list of {what} for each of {len(users)} users, got {len(lists)}"
        )


@lru_cache
def _search(k: int) -> Callable[..., Any]:
    return compiled(lambda users, items, out: nearest(users, items, k, out))


@lru_cache
def _metrics(ks: tuple[int, ...]) -> Callable[..., Mapping[str, Mean]]:
    metrics = {f"recall@{k}": recall_at(k) for k in ks} | {f"ndcg@{k}": ndcg_at(k) for k in ks}

    def measured(found: jax.Array, relevant: jax.Array, weights: jax.Array) -> dict[str, Mean]:
        return {name: metric(found, relevant, weights) for name, metric in metrics.items()}

    return compiled(measured)
