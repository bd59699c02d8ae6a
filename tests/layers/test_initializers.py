from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers.initializers import INITIALIZERS, uniform

FAN_IN, FAN_OUT = 400, 200
LIMITS = {
    "glorot_uniform": np.sqrt(6 / (FAN_IN + FAN_OUT)),
    "xavier_uniform": np.sqrt(6 / (FAN_IN + FAN_OUT)),
    "kaiming_uniform": np.sqrt(6 / FAN_IN),
    "he_uniform": np.sqrt(6 / FAN_IN),
    "lecun_uniform": np.sqrt(3 / FAN_IN),
    "uniform": 0.5,
}
DEVIATIONS = {
    "glorot_normal": np.sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_normal": np.sqrt(2 / (FAN_IN + FAN_OUT)),
    "kaiming_normal": np.sqrt(2 / FAN_IN),
    "he_normal": np.sqrt(2 / FAN_IN),
    "lecun_normal": np.sqrt(1 / FAN_IN),
    "normal": 0.05,
    # Of a normal distribution cut at two deviations: 1 - 4 pdf(2) / (2 cdf(2) - 1) of the variance.
    "truncated_normal": 0.05 * 0.8796257,
}


@cache
def drawn() -> dict[str, jax.Array]:
    """A matrix of every initializer, all of them by one program."""

    @jax.jit
    def all_of_them(key: jax.Array) -> dict[str, jax.Array]:
        shape = (FAN_IN, FAN_OUT)
        return {name: init(key, shape, jnp.float32) for name, init in INITIALIZERS.items()}

    return all_of_them(jax.random.key(0))


def draw(name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    if shape is None:
        return np.asarray(drawn()[name], np.float64)
    initializer = jax.jit(INITIALIZERS[name], static_argnums=(1, 2))
    return np.asarray(initializer(jax.random.key(0), shape, jnp.float32), np.float64)


def test_every_initializer_is_tested():
    assert set(LIMITS) | set(DEVIATIONS) | {"zeros", "ones", "orthogonal"} == set(INITIALIZERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_a_uniform_initializer_fills_its_range_evenly(name: str):
    weights, limit = draw(name), LIMITS[name]
    assert np.abs(weights).max() <= limit * (1 + 1e-6)
    # 80 000 draws reach within 0.1 % of both ends, and fill ten bins alike.
    assert weights.max() > 0.999 * limit and weights.min() < -0.999 * limit
    counts, _ = np.histogram(weights, bins=10, range=(-limit, limit))
    np.testing.assert_allclose(counts, weights.size / 10, rtol=0.06)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_normal_initializer_has_its_deviation(name: str):
    weights, deviation = draw(name), DEVIATIONS[name]
    assert weights.std() == pytest.approx(deviation, rel=0.02)
    assert weights.mean() == pytest.approx(0, abs=0.02 * deviation)


@pytest.mark.parametrize("name", ["he_normal", "glorot_normal", "lecun_normal"])
def test_the_scaled_normals_are_cut(name: str):
    assert np.abs(draw(name)).max() < 2.3 * DEVIATIONS[name]


def test_the_fan_of_a_convolution_counts_its_window():
    weights = draw("he_uniform", (3, 5, 40, 20))
    limit = np.sqrt(6 / (3 * 5 * 40))
    assert 0.99 * limit < np.abs(weights).max() <= limit * (1 + 1e-6)


def test_orthogonal_columns_or_rows_are_orthonormal():
    tall, wide = draw("orthogonal"), draw("orthogonal", (20, 50))
    np.testing.assert_allclose(tall.T @ tall, np.eye(FAN_OUT), atol=1e-5)
    np.testing.assert_allclose(wide @ wide.T, np.eye(20), atol=1e-5)


@pytest.mark.slow
def test_orthogonal_matrices_favour_no_direction():
    """An entry of a Haar-distributed n x n matrix has mean 0 and variance 1/n (Saxe 2014)."""

    @jax.jit
    def matrices(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 4000)
        return jax.vmap(lambda key: INITIALIZERS["orthogonal"](key, (4, 4), jnp.float32))(keys)

    draws = matrices(jax.random.key(0))
    draws = np.asarray(draws, np.float64)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=5 / np.sqrt(4 * 4000))
    np.testing.assert_allclose((draws**2).mean(axis=0), 1 / 4, rtol=0.06)


def test_an_orthogonal_convolution_is_so_from_window_to_features():
    kernel = draw("orthogonal", (3, 3, 4, 8)).reshape(-1, 8)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)


def test_constants():
    assert not draw("zeros").any() and (draw("ones") == 1).all()


def test_the_plain_truncated_normal_is_cut_at_two_deviations():
    assert 0.0999 < np.abs(draw("truncated_normal")).max() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_type_is_the_one_asked_for(name: str):
    # What is no type of the function's is refused as it is traced.
    start = partial(INITIALIZERS[name], shape=(4, 3), dtype=jnp.bfloat16)
    assert jax.eval_shape(start, jax.random.key(0)).dtype == jnp.bfloat16


def test_there_are_orthogonal_matrices_in_half_precision():
    half = jax.jit(partial(INITIALIZERS["orthogonal"], shape=(4, 3), dtype=jnp.bfloat16))
    weights = np.asarray(half(jax.random.key(0)), np.float32)
    np.testing.assert_allclose(weights.T @ weights, np.eye(3), atol=0.02)


def test_uniform_takes_other_bounds():
    start = jax.jit(partial(uniform(2.0, 3.0), shape=(1000,), dtype=jnp.float32))
    weights = np.asarray(start(jax.random.key(1)))
    assert 2.0 <= weights.min() < 2.01 and 2.99 < weights.max() <= 3.0
    with pytest.raises(InputError, match="low=1"):
        uniform(1.0, 1.0)
