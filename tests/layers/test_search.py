from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers import log_partition, nearest

RNG = np.random.default_rng(0)
QUERIES = RNG.standard_normal((5, 3)).astype(np.float32)
ITEMS = RNG.standard_normal((23, 3)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 23, 100])
def test_finds_what_sorting_all_scores_finds(block):
    scores = QUERIES @ ITEMS.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    best, numbers = nearest(QUERIES, ITEMS, 6, block=block)
    np.testing.assert_array_equal(numbers, order)
    np.testing.assert_allclose(best, np.take_along_axis(scores, order, axis=1), rtol=1e-6)


@pytest.mark.parametrize("block", [4, 100])
def test_leaves_out_what_is_excluded(block):
    excluded = np.array([[0, 22, -1], [-1, -1, -1], [5, 6, 7], [3, 3, 99], [22, 21, 20]], np.int32)
    scores = QUERIES @ ITEMS.T
    for row, numbers in enumerate(excluded):
        scores[row, numbers[(numbers >= 0) & (numbers < 23)]] = -np.inf
    _, numbers = nearest(QUERIES, ITEMS, 6, excluded, block=block)
    np.testing.assert_array_equal(numbers, np.argsort(-scores, axis=1, kind="stable")[:, :6])


def test_of_equal_scores_the_lower_number_wins_whatever_the_block():
    items = np.ones((9, 3), np.float32)
    for block in (2, 4, 9):
        assert nearest(QUERIES[:1] ** 2, items, 4, block=block)[1].tolist() == [[0, 1, 2, 3]]


def test_a_list_that_is_too_short_ends_in_minus_one():
    excluded = np.arange(1, 23, dtype=np.int32)[None]
    scores, numbers = nearest(QUERIES[:1], ITEMS, 3, excluded, block=8)
    assert numbers.tolist() == [[0, -1, -1]]
    assert np.isneginf(scores[0, 1:]).all()


@pytest.mark.parametrize("k", [0, 24])
def test_refuses_more_than_there_is(k):
    with pytest.raises(InputError, match="number of items, 23; got"):
        nearest(QUERIES, ITEMS, k)


@pytest.mark.parametrize("block", [4, 23, 50])
def test_log_partition(block):
    expected = jax.nn.logsumexp(jnp.asarray(40 * QUERIES @ ITEMS.T), axis=1)
    np.testing.assert_allclose(log_partition(40 * QUERIES, ITEMS, block), expected, rtol=1e-6)
