from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from jaxnet.errors import InputError, UsageError
from jaxnet.metrics import merge, ndcg_at, recall_at

RNG = np.random.default_rng(0)
N, ITEMS = 12, 30
SCORES = RNG.permuted(np.tile(np.arange(ITEMS, dtype=np.float64), (N, 1)), axis=1)
RECOMMENDED = np.argsort(-SCORES, axis=1)[:, :20].astype(np.int32)
TRUTH = RNG.random((N, ITEMS)) < 0.15
TRUTH[:, 0] |= ~TRUTH.any(axis=1)
RELEVANT = np.full((N, 15), -1, np.int32)
for row in range(N):
    found = np.flatnonzero(TRUTH[row])
    RELEVANT[row, : len(found)] = RNG.permutation(found)
ONES = np.ones(N, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_ndcg_is_that_of_scikit_learn(k):
    expected = ndcg_score(TRUTH, SCORES, k=k)
    assert ndcg_at(k)(RECOMMENDED, RELEVANT, ONES).compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_recall_by_sets(k):
    expected = np.mean(
        [
            len(set(RECOMMENDED[row, :k]) & set(np.flatnonzero(TRUTH[row]))) / TRUTH[row].sum()
            for row in range(N)
        ]
    )
    assert recall_at(k)(RECOMMENDED, RELEVANT, ONES).compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [recall_at(10), ndcg_at(10)])
def test_users_without_relevant_items_and_padding_are_left_out(metric):
    relevant = RELEVANT.copy()
    relevant[3] = -1
    weights = ONES.copy()
    weights[5] = 0
    kept = [row for row in range(N) if row not in (3, 5)]
    whole = metric(RECOMMENDED, relevant, weights).compute()
    assert whole == pytest.approx(metric(RECOMMENDED[kept], RELEVANT[kept], ONES[kept]).compute())
    halves = (
        metric(RECOMMENDED[part], relevant[part], weights[part])
        for part in np.split(np.arange(N), 2)
    )
    assert merge(*halves).compute() == pytest.approx(whole)


@pytest.mark.slow
def test_what_comes_twice_counts_once():
    """An item that is recommended twice gave a recall of 2."""
    twice, right = jnp.array([[4, 4, 9, 4]]), jnp.array([[4, -1, 7, 4]])
    assert recall_at(4)(twice, right, jnp.ones(1)).compute() == 0.5
    once = ndcg_at(4)(jnp.array([[4, 8, 9, 6]]), jnp.array([[4, 7]]), jnp.ones(1)).compute()
    assert ndcg_at(4)(twice, right, jnp.ones(1)).compute() == pytest.approx(once)
    many = jnp.asarray(RNG.integers(-1, 4, (50, 6)))
    for metric in (recall_at(5), ndcg_at(5)):
        for row in metric(many, many[:, ::-1], jnp.ones(50)), metric(many, many, jnp.ones(50)):
            assert 0 <= row.compute() <= 1


@pytest.mark.slow
def test_no_item_is_no_hit():
    nothing = jnp.full((1, 3), -1)
    assert recall_at(3)(nothing, jnp.array([[4, -1]]), jnp.ones(1)).compute() == 0


def test_is_compiled():
    metric = jax.jit(recall_at(5))
    assert metric(RECOMMENDED, RELEVANT, ONES).compute() == pytest.approx(
        recall_at(5)(RECOMMENDED, RELEVANT, ONES).compute()
    )


def test_wrong_use():
    with pytest.raises(UsageError, match="at least 1, got 0"):
        recall_at(0)
    with pytest.raises(InputError, match="at least 21 recommended items a user, got 20"):
        ndcg_at(21)(RECOMMENDED, RELEVANT, ONES)
