from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import losses, metrics
from jaxnet.errors import InputError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 50)
WEIGHTS = RNG.uniform(size=50).astype(np.float32)
ONES = np.ones(50, np.float32)


@pytest.mark.parametrize("weights", [ONES, WEIGHTS])
def test_accuracy_equals_scikit_learn(weights: np.ndarray):
    got = metrics.accuracy(LOGITS, LABELS, weights).compute()
    expected = sklearn_metrics.accuracy_score(LABELS, LOGITS.argmax(1), sample_weight=weights)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_accuracy_of_one_logit_an_example(shape: tuple[int, ...]):
    logits, labels = LOGITS[:, 0], (LABELS > 3).astype(np.float32)
    got = metrics.accuracy(logits.reshape(shape), labels, WEIGHTS).compute()
    expected = sklearn_metrics.accuracy_score(labels, logits > 0, sample_weight=WEIGHTS)
    assert got == pytest.approx(expected, rel=1e-6)


def test_accuracy_of_sequences_is_the_mean_over_their_steps():
    logits, labels = LOGITS.reshape(5, 10, 7), LABELS.reshape(5, 10)
    got = metrics.accuracy(logits, labels, np.ones(5)).compute()
    assert got == pytest.approx((LOGITS.argmax(1) == LABELS).mean(), rel=1e-6)


def test_accuracy_does_not_compare_in_eight_bits():
    logits = np.eye(300, dtype=np.float32)[[256, 256]]
    got = metrics.accuracy(logits, np.array([0, 1], np.uint8), np.ones(2))
    assert got.compute() == 0.0
    top = metrics.top_k_accuracy(1)(logits, np.array([0, 1], np.uint8), np.ones(2))
    assert top.compute() == 0.0


def test_accuracy_refuses_one_hot_labels():
    with pytest.raises(InputError, match="argmax"):
        metrics.accuracy(LOGITS, np.eye(7)[LABELS], ONES)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_accuracy_equals_scikit_learn(k: int):
    got = metrics.top_k_accuracy(k)(LOGITS, LABELS, WEIGHTS).compute()
    if k == 7:  # scikit-learn warns that this is 1 by definition
        assert got == pytest.approx(1.0)
        return
    expected = sklearn_metrics.top_k_accuracy_score(
        LABELS, LOGITS, k=k, sample_weight=WEIGHTS, labels=range(7)
    )
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [0, 8])
def test_top_k_needs_k_classes(k: int):
    with pytest.raises(InputError, match=r"top_k_accuracy"):
        metrics.top_k_accuracy(k)(LOGITS, LABELS, ONES)


@pytest.mark.parametrize("weights", [ONES, WEIGHTS])
def test_confusion_matrix_equals_scikit_learn(weights: np.ndarray):
    got = metrics.confusion_matrix(7)(LOGITS, LABELS, weights).compute()
    expected = sklearn_metrics.confusion_matrix(
        LABELS, LOGITS.argmax(1), sample_weight=weights, labels=range(7)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_confusion_matrix_leaves_out_labels_that_are_no_class():
    labels = LABELS.copy()
    labels[:3] = -1, 7, -100
    got = metrics.confusion_matrix(7)(LOGITS, labels, ONES).compute()
    np.testing.assert_array_equal(
        got, sklearn_metrics.confusion_matrix(LABELS[3:], LOGITS[3:].argmax(1), labels=range(7))
    )


@pytest.mark.parametrize("classes", [6, 8])
def test_confusion_matrix_refuses_another_number_of_classes(classes: int):
    with pytest.raises(InputError, match="confusion_matrix"):
        metrics.confusion_matrix(classes)(LOGITS, LABELS, ONES)


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error"])
def test_regression_metrics_equal_scikit_learn(name: str):
    targets = RNG.normal(size=(50, 7)).astype(np.float32)
    expected = getattr(sklearn_metrics, name)(targets, LOGITS, sample_weight=WEIGHTS)
    assert metrics.METRICS[name](LOGITS, targets, WEIGHTS).compute() == pytest.approx(
        expected, 1e-6
    )


def labels_for(name: str) -> np.ndarray:
    return LABELS if "accuracy" in name or "confusion" in name else LOGITS[::-1].copy()


ALL = {**metrics.METRICS, "confusion_matrix": metrics.confusion_matrix(7)}


@pytest.mark.parametrize("name", ALL)
def test_batches_merge_into_the_whole(name: str):
    metric, labels = ALL[name], labels_for(name)
    whole = metric(LOGITS, labels, WEIGHTS).compute()
    cuts = [slice(0, 7), slice(7, 8), slice(8, 50)]
    parts = [metric(LOGITS[c], labels[c], WEIGHTS[c]) for c in cuts]
    merged = metrics.merge(metrics.merge(parts[0], parts[1]), parts[2])
    np.testing.assert_allclose(merged.compute(), whole, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_rows_of_weight_zero_do_not_count_whatever_they_hold(name: str, junk: float):
    metric, labels = ALL[name], labels_for(name)
    clean = metric(LOGITS[:40], labels[:40], WEIGHTS[:40])
    outputs, weights = LOGITS.copy(), WEIGHTS.copy()
    outputs[40:], weights[40:] = junk, 0
    dirty = jax.jit(metric)(outputs, labels, weights)
    np.testing.assert_allclose(dirty.compute(), clean.compute(), rtol=1e-6)


def test_metrics_of_half_precision_outputs_are_float32():
    for name, metric in ALL.items():
        sums = metric(jnp.asarray(LOGITS).astype(jnp.bfloat16), labels_for(name), ONES)
        assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {jnp.dtype(jnp.float32)}


def test_merging_works_on_dicts_and_on_the_host_in_float64():
    many = np.float64(2**24)
    a = {"x": metrics.Mean(many, many), "y": metrics.Confusion(np.eye(2))}
    merged = metrics.merge(a, {"x": metrics.Mean(1.0, 1.0), "y": metrics.Confusion(np.eye(2))})
    assert merged["x"].count == 2**24 + 1
    np.testing.assert_array_equal(merged["y"].compute(), 2 * np.eye(2))


def test_the_mean_of_nothing_is_nan():
    assert np.isnan(metrics.Mean.of(jnp.zeros(0), jnp.zeros(0)).compute())
    assert np.isnan(metrics.accuracy(LOGITS, LABELS, 0 * ONES).compute())


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
