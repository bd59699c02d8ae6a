from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.losses import cross_entropy, in_batch_softmax, log_frequencies

RNG = np.random.default_rng(0)
USERS = RNG.standard_normal((6, 3)).astype(np.float32)
ITEMS = RNG.standard_normal((6, 3)).astype(np.float32)


@pytest.mark.slow
def test_with_all_items_in_the_batch_it_is_the_full_softmax():
    labels = np.array([3, 0, 5, 1, 4, 2])
    by_number = np.empty_like(ITEMS)
    by_number[labels] = ITEMS
    even = np.full(6, -np.log(6), np.float32)
    expected = cross_entropy(USERS @ by_number.T, labels)
    for log_q in (None, even):
        ours = in_batch_softmax((USERS, ITEMS), labels, log_q=log_q)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_accidental_hits_are_no_wrong_answers():
    items, labels = ITEMS.copy(), np.array([7, 2, 7, 1, 2, 9])
    items[2], items[4] = items[0], items[1]
    scores = USERS @ items.T
    expected = []
    for row in range(6):
        others = [row, *np.flatnonzero(labels != labels[row])]
        expected.append(np.log(np.exp(scores[row, others]).sum()) - scores[row, row])
    np.testing.assert_allclose(in_batch_softmax((USERS, items), labels), expected, rtol=1e-5)


@pytest.mark.slow
def test_padding_counts_for_nobody():
    labels = np.array([4, 1, 3, -1, -1, -1])
    ours = in_batch_softmax((USERS, ITEMS), labels)
    alone = in_batch_softmax((USERS[:3], ITEMS[:3]), labels[:3])
    np.testing.assert_allclose(ours[:3], alone, rtol=1e-6)
    assert ours[3:].tolist() == [0, 0, 0]

    def loss(vectors):
        return in_batch_softmax(vectors, labels).sum()

    for gradient in jax.grad(loss)((jnp.asarray(USERS), jnp.asarray(ITEMS))):
        assert (gradient[3:] == 0).all()
        assert np.isfinite(gradient).all() and (gradient[:3] != 0).any()


def test_the_corrected_sum_is_unbiased_for_the_sum_over_all_items():
    """Yi et al. 2019, section 3: E[exp(s - log q)] under q is the full sum, exactly."""
    scores, q = RNG.standard_normal(8), RNG.dirichlet(np.ones(8))
    assert (q * np.exp(scores - np.log(q))).sum() == pytest.approx(np.exp(scores).sum())


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [True, False])
def test_correction_makes_the_true_probabilities_the_optimum(corrected):
    """At scores log p the expected gradient by an item's score is 0, and without it is not."""
    p = (1 / np.arange(5, 45)) / (1 / np.arange(5, 45)).sum()
    scores = jnp.log(jnp.asarray(p, jnp.float32))

    def loss(scores, labels):
        items = scores[labels][:, None]
        log_q = np.log(p).astype(np.float32) if corrected else None
        return in_batch_softmax((jnp.ones_like(items), items), labels, log_q=log_q).mean()

    draws = jax.random.choice(jax.random.key(0), 40, (2000, 64), p=jnp.exp(scores))
    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(scores, draws)
    largest = np.abs(np.asarray(gradients).mean(axis=0) / p).max()
    # Chance, and the accidental hits that were left out, move it by up to a tenth.
    assert largest < 0.15 if corrected else largest > 0.5, largest


def test_wrong_shapes():
    with pytest.raises(InputError, match="vectors of users and of items"):
        in_batch_softmax((USERS, ITEMS[:5]), np.arange(6))
    with pytest.raises(InputError, match="got -1 to 2"):
        log_frequencies(np.array([2, -1]), 3)


def test_log_frequencies_sum_to_one_where_all_items_occur():
    labels = RNG.integers(0, 5, 200)
    q = np.exp(log_frequencies(labels, 5))
    np.testing.assert_allclose(q, np.bincount(labels) / 200, rtol=1e-6)
    assert log_frequencies(labels, 6)[5] == pytest.approx(-np.log(200))
