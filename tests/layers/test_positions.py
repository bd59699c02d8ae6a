"""Positions against NumPy in float64, and what they have to have in common."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers import LearnedPositions, rotary, sinusoidal, token_positions
from tests.networks import applied, drawn


def test_sines_equal_the_formula_in_float64():
    time, features = 200, 16
    want = np.zeros((time, features))
    for position, i in np.ndindex(time, features // 2):
        angle = position / 10_000 ** (2 * i / features)
        want[position, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    got = jax.jit(sinusoidal, static_argnums=1)(np.arange(time), features)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_products_of_turned_vectors_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    turn = jax.jit(rotary)

    def product(i, j):
        turned = turn(query, np.array([[i]])), turn(key, np.array([[j]]))
        return (np.asarray(turned[0]) * np.asarray(turned[1])).sum()

    assert product(7, 3) == pytest.approx(product(104, 100), rel=1e-4)
    assert product(7, 3) != pytest.approx(product(8, 3), rel=1e-2)
    assert product(0, 0) == pytest.approx((query * key).sum(), rel=1e-6)


def test_rotary_equals_complex_numbers_in_float64():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    angles = positions[:, None, :, None] / 500.0 ** (np.arange(3) / 3)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    got = jax.jit(partial(rotary, base=500.0))(x.astype(np.float32), positions)
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)


def test_positions_are_counted_without_padding():
    mask = jnp.array([[False, False, True, True], [True, True, True, False]])
    assert token_positions(mask).tolist() == [[-1, -1, 0, 1], [0, 1, 2, -1]]
    assert token_positions(mask, jnp.array([3, 0])).tolist() == [[-1, -1, 3, 4], [0, 1, 2, -1]]


def test_learned_positions_are_rows_of_a_table():
    layer, x = LearnedPositions(6), np.ones((2, 3, 4), np.float32)
    variables = drawn(layer, x)
    table = np.asarray(variables["params"]["embedding"])
    np.testing.assert_array_equal(applied(layer, variables, x)[1], 1 + table[:3])
    got = np.asarray(applied(layer, variables, x, np.array([[-1, 0, 1], [3, 4, 5]])))
    np.testing.assert_array_equal(got[0, 1:], 1 + table[:2])
    np.testing.assert_array_equal(got[1], 1 + table[3:])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="7 tokens is longer than the 6 positions"):
        jax.eval_shape(LearnedPositions(6).init, jax.random.key(0), np.zeros((1, 7, 4), "float32"))
    with pytest.raises(InputError, match="even number of features, got 5"):
        sinusoidal(jnp.arange(3), 5)
