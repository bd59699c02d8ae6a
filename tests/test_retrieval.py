from __future__ import annotations

import numpy as np
import pytest

from jaxnet import retrieval
from jaxnet.data import Lists
from jaxnet.errors import InputError

RNG = np.random.default_rng(0)
# More users than a batch has, and not a whole number of batches.
N = retrieval.BATCH + 37
USERS = RNG.standard_normal((N, 4)).astype(np.float32)
ITEMS = RNG.standard_normal((50, 4)).astype(np.float32)


def lists(most: int) -> Lists:
    lengths = RNG.integers(0, most + 1, N)
    lengths[retrieval.BATCH] = most  # the user whose row fills up the last batch
    values = np.concatenate([RNG.choice(50, length, replace=False) for length in lengths])
    return Lists(values.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def test_recommends_the_best_of_what_is_left():
    had = lists(9)
    sellable = RNG.random(50) < 0.8
    scores = USERS @ ITEMS.T
    scores[:, ~sellable] = -np.inf
    for row in range(N):
        scores[row, had[row]] = -np.inf
    numbers, best = retrieval.recommend(USERS, ITEMS, 7, excluded=had, sellable=sellable)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(best, np.take_along_axis(scores, expected, axis=1), rtol=1e-5)


def test_measures_over_all_users():
    relevant, numbers = lists(3), retrieval.recommend(USERS, ITEMS, 10)[0]
    known = [row for row in range(N) if len(relevant[row])]
    recalls = [np.isin(relevant[row], numbers[row, :5]).mean() for row in known]
    measured = retrieval.measure(numbers, relevant, ks=(5, 10))
    assert sorted(measured) == ["ndcg@10", "ndcg@5", "recall@10", "recall@5"]
    assert measured["recall@5"] == pytest.approx(np.mean(recalls), rel=1e-5)


def test_rerank_leaves_short_lists_short():
    candidates = np.array([[4, 2, 9], [7, -1, -1]])
    users, items = np.array([[0], [1]]), np.arange(10)[:, None]
    numbers, scores = retrieval.rerank(
        lambda pairs: (10 * pairs[:, :1] + pairs[:, 1:]).astype(np.float32),
        candidates,
        users,
        items,
    )
    assert numbers.tolist() == [[9, 4, 2], [7, -1, -1]]
    assert scores.tolist() == [[9, 4, 2], [17, -np.inf, -np.inf]]


def test_wrong_use():
    with pytest.raises(InputError, match="number of items, 50; got 51"):
        retrieval.recommend(USERS, ITEMS, 51)
    with pytest.raises(InputError, match="for each of 3 users"):
        retrieval.recommend(USERS[:3], ITEMS, 5, excluded=lists(2))
    nobody = Lists(np.zeros(0, np.int32), np.zeros(4, np.int64))
    with pytest.raises(InputError, match="users with relevant items"):
        retrieval.measure(np.zeros((3, 10), np.int32), nobody)
