"""Positions against NumPy in float64, and what they have to have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers import LearnedPositions, rotary, sinusoidal, token_positions


def test_sines_equal_the_formula_in_float64():
    time, features = 200, 16
    want = np.zeros((time, features))
    for position, i in np.ndindex(time, features // 2):
        angle = position / 10_000 ** (2 * i / features)
        want[position, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(sinusoidal(jnp.arange(time), features), want, atol=2e-5)


def test_products_of_turned_vectors_depend_on_the_distance_alone():
    query, key = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in (0, 1))

    def product(i, j):
        turned = rotary(query, jnp.array([[i]])), rotary(key, jnp.array([[j]]))
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), rel=1e-4)
    assert product(7, 3) != pytest.approx(product(8, 3), rel=1e-2)
    assert product(0, 0) == pytest.approx(float((query * key).sum()), rel=1e-6)


def test_rotary_equals_complex_numbers_in_float64():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    angles = positions[:, None, :, None] / 500.0 ** (np.arange(3) / 3)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    got = rotary(jnp.asarray(x, jnp.float32), jnp.asarray(positions), base=500.0)
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)


def test_positions_are_counted_without_padding():
    mask = jnp.array([[False, False, True, True], [True, True, True, False]])
    assert token_positions(mask).tolist() == [[-1, -1, 0, 1], [0, 1, 2, -1]]
    assert token_positions(mask, jnp.array([3, 0])).tolist() == [[-1, -1, 3, 4], [0, 1, 2, -1]]


def test_learned_positions_are_rows_of_a_table():
    layer, x = LearnedPositions(6), jnp.ones((2, 3, 4))
    variables = layer.init(jax.random.key(0), x)
    table = np.asarray(variables["params"]["embedding"])
    np.testing.assert_array_equal(layer.apply(variables, x)[1], 1 + table[:3])
    got = layer.apply(variables, x, jnp.array([[-1, 0, 1], [3, 4, 5]]))
    np.testing.assert_array_equal(got[0, 1:], 1 + table[:2])
    np.testing.assert_array_equal(got[1], 1 + table[3:])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="7 tokens is longer than the 6 positions"):
        LearnedPositions(6).init(jax.random.key(0), jnp.zeros((1, 7, 4)))
    with pytest.raises(InputError, match="even number of features, got 5"):
        sinusoidal(jnp.arange(3), 5)
