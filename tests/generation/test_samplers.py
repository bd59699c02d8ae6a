from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnet.errors import UsageError
from jaxnet.generation import greedy, temperature, top_k, top_p
from jaxnet.generation.samplers import NO_TOKEN, draw

SHARES = np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32)
KEY = jax.random.key(1)
LOGITS = np.log(SHARES)[None]


def kept(filtered) -> list[int]:
    return np.flatnonzero(np.isfinite(np.asarray(filtered)[0])).tolist()


LEFT = [
    (greedy, [1]),
    (temperature(0), [1]),
    (temperature(3.0), [0, 1, 2, 3, 4]),
    (top_k(1), [1]),
    (top_k(3), [1, 2, 3]),
    (top_k(9), [0, 1, 2, 3, 4]),
    (top_p(0.39), [1]),
    (top_p(0.41), [1, 3]),
    (top_p(0.69), [1, 3]),
    (top_p(0.71), [1, 2, 3]),
    (top_p(1.0), [0, 1, 2, 3, 4]),
    (top_p(1e-6), [1]),
]


@cache
def filtered() -> list[np.ndarray]:
    """What each filter leaves, all of them by one program."""
    return jax.device_get(jax.jit(lambda logits: [one(logits) for one, _ in LEFT])(LOGITS))


@pytest.mark.parametrize("index", range(len(LEFT)))
def test_which_tokens_are_left(index):
    one, expected = LEFT[index]
    got = filtered()[index]
    assert kept(got) == expected
    if one != temperature(3.0):
        np.testing.assert_array_equal(got[0, expected], LOGITS[0, expected])


@pytest.mark.parametrize("value", [1e-31, 1e-38, 1e-40, 5e-324])
def test_a_temperature_that_float32_cannot_divide_by_is_greedy(value):
    """It made all logits infinite, of which the first was taken."""
    assert temperature(value) is greedy


def test_the_coldest_temperature_finds_the_largest_logit():
    logits, keys = np.array([[3.0, 90.0, 7.0, 60.0]], np.float32), jax.random.split(KEY, 1)
    cold = jax.jit(draw, static_argnums=1)(logits, (temperature(1e-30),), keys)
    assert cold.tolist() == [1]


@pytest.mark.parametrize("filters", [(), (greedy,), (temperature(0.5), top_k(2)), (top_p(0.5),)])
def test_nothing_is_drawn_from_nan(filters):
    rows = np.repeat(LOGITS, 3, axis=0)
    rows[1, 3] = rows[2] = np.nan
    tokens = jax.jit(draw, static_argnums=1)(rows, filters, jax.random.split(KEY, 3))
    assert tokens[0] >= 0
    assert tokens[1:].tolist() == [NO_TOKEN, NO_TOKEN]


def test_of_equal_tokens_the_first_are_left():
    filters = (top_k(2), top_p(0.5), greedy)
    found = jax.jit(lambda even: [one(even) for one in filters])(np.zeros((1, 6), np.float32))
    assert [kept(one) for one in found] == [[0, 1], [0, 1, 2], [0]]


def test_each_row_for_itself():
    rows = np.concatenate([LOGITS[:, ::-1], LOGITS])
    for one in (greedy, top_k(2), top_p(0.6)):
        backward, forward = np.asarray(jax.jit(one)(rows))
        np.testing.assert_array_equal(backward, forward[::-1])
        assert 1 <= np.isfinite(forward).sum() < 5


def test_the_order_of_filters_matters():
    # At half the temperature the shares are squared: 0.16 of 0.2875 is more than a half.
    cold, nucleus = temperature(0.5), top_p(0.5)
    orders = jax.jit(lambda logits: (nucleus(cold(logits)), cold(nucleus(logits))))
    assert [kept(one) for one in orders(LOGITS)] == [[1], [1, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_tokens_are_drawn_by_their_probabilities(power):
    n = 20_000
    filters = (temperature(1 / power), top_k(4))

    @jax.jit
    def drawn(logits, key):
        return draw(jnp.tile(logits, (n, 1)), filters, jax.random.split(key, n))

    counts = np.bincount(drawn(LOGITS, jax.random.key(3)), minlength=5)
    assert counts[0] == 0
    shares = SHARES[1:].astype(np.float64) ** power
    expected = n * shares / shares.sum()
    assert stats.chisquare(counts[1:], expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: temperature(-0.1), "temperature of at least 0, got -0.1"),
        (lambda: temperature(float("nan")), "temperature of at least 0, got nan"),
        (lambda: top_k(0), "at least 1, got 0"),
        (lambda: top_k(2.5), "whole number"),
        (lambda: top_p(0.0), r"top_p in \(0, 1\], got 0.0"),
        (lambda: top_p(1.2), r"top_p in \(0, 1\], got 1.2"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
