from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, metrics
from jaxnet.errors import InputError
from jaxnet.training.history import add_steps

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 7)).astype(np.float32)
WEIGHTS = RNG.uniform(size=50).astype(np.float32)


def half(sums: dict) -> float:
    return float(sums["a"] / 2)


def test_a_score_is_sums_and_a_formula():
    score = metrics.Score({"a": np.float32(3)}, half)
    assert metrics.merge(score, metrics.Score({"a": np.float32(1)}, half)).compute() == 2.0


def test_scores_of_different_formulas_do_not_merge():
    other = metrics.Score({"a": np.float32(1)}, float)
    with pytest.raises(ValueError, match=r"metadata|Mismatch"):
        metrics.merge(metrics.Score({"a": np.float32(3)}, half), other)


def test_a_score_that_diverged_is_a_value_and_no_warning():
    assert np.isnan(metrics.Score({"a": np.inf}, lambda s: float(s["a"] - s["a"])).compute())


def test_millions_of_examples_keep_the_precision_of_float32():
    """As in evaluation: float32 sums of a dispatch, dispatches added in float64."""
    rng = np.random.default_rng(1)
    values = (1000 + rng.normal(size=(256, 2**14))).astype(np.float32)
    means = jax.jit(jax.vmap(metrics.Mean.of))(values, jnp.ones(values.shape))
    sums = add_steps(None, means)
    assert sums["count"] == values.size > 4e6
    assert sums["total"] / sums["count"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-7)


def test_merging_works_on_dicts_and_on_the_host_in_float64():
    many = np.float64(2**24)
    a = {"x": metrics.Mean(many, many), "y": metrics.Confusion(np.eye(2))}
    merged = metrics.merge(a, {"x": metrics.Mean(1.0, 1.0), "y": metrics.Confusion(np.eye(2))})
    assert merged["x"].count == 2**24 + 1
    np.testing.assert_array_equal(merged["y"].compute(), 2 * np.eye(2))


def test_the_mean_of_nothing_is_nan():
    assert np.isnan(metrics.Mean.of(jnp.zeros(0), jnp.zeros(0)).compute())


def test_mean_refuses_weights_of_another_shape():
    with pytest.raises(InputError, match=r"\[3\] and \[3, 1\]"):
        metrics.Mean.of(jnp.zeros(3), jnp.zeros((3, 1)))


def test_weighted_mean_and_its_gradient_equal_numpy():
    gradient = jax.grad(metrics.weighted_mean)(jnp.asarray(LOGITS[:, 0]), jnp.asarray(WEIGHTS))
    np.testing.assert_allclose(gradient, WEIGHTS / WEIGHTS.sum(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.weighted_mean(LOGITS[:, 0], WEIGHTS),
        np.average(LOGITS[:, 0], weights=WEIGHTS),
        rtol=1e-5,
    )


@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf])
def test_weighted_mean_keeps_masked_values_out_of_value_and_gradients(junk: float):
    values, weights = jnp.array([1.0, junk, 3.0]), jnp.array([1.0, 0.0, 1.0])
    value, gradients = jax.value_and_grad(metrics.weighted_mean, argnums=(0, 1))(values, weights)
    assert value == 2.0
    np.testing.assert_array_equal(gradients[0], [0.5, 0.0, 0.5])
    assert jnp.isfinite(gradients[1]).all()


@pytest.mark.slow
def test_a_masked_row_with_an_impossible_label_leaves_the_gradient_of_the_rest():
    def objective(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        return metrics.weighted_mean(losses.cross_entropy(logits, labels), weights)

    logits = jnp.asarray(LOGITS[:4])
    padded = jax.grad(objective)(logits, jnp.array([1, 2, 3, -1]), jnp.array([1.0, 1.0, 1.0, 0.0]))
    alone = jax.grad(objective)(logits[:3], jnp.array([1, 2, 3]), jnp.ones(3))
    np.testing.assert_allclose(padded[:3], alone, rtol=1e-6)
    np.testing.assert_array_equal(padded[3], 0)


def test_a_shard_of_padding_alone_has_no_gradient():
    value, gradient = jax.value_and_grad(metrics.weighted_mean)(jnp.ones(3), jnp.zeros(3))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0)
