"""Areas under curves: from histograms, merged over batches, and exactly, from all predictions."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.errors import InputError
from jaxnet.metrics.areas import error_bound, log_odds

RNG = np.random.default_rng(0)
N, C = 400, 4
LABELS = RNG.integers(0, C, N)
LOGITS = (RNG.normal(size=(N, C)) + 1.5 * np.eye(C)[LABELS]).astype(np.float32)
SEVERAL = (LOGITS + RNG.normal(size=(N, C)) > 0.5).astype(np.int32)
WEIGHTS = RNG.uniform(0.1, 1, N).astype(np.float32)
ONES = np.ones(N, np.float32)
AVERAGES = ("macro", "micro", "weighted", None, 1)
EXACT = {"roc_auc": metrics.roc_auc_of, "average_precision": metrics.average_precision_of}
FOREIGN = {
    "roc_auc": partial(sklearn_metrics.roc_auc_score, multi_class="ovr"),
    "average_precision": sklearn_metrics.average_precision_score,
}


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits.astype(np.float64), axis=1), np.float64)


def foreign(name: str, average, truth: np.ndarray, scores: np.ndarray, weights=ONES):
    options = {"sample_weight": weights}
    if isinstance(average, int):
        return FOREIGN[name](truth, scores, average=None, **options)[average]
    return FOREIGN[name](truth, scores, average=average, **options)


@jax.jit
def measure(outputs: jax.Array, labels: jax.Array, weights: jax.Array) -> dict:
    return {
        f"{name} {average}": metrics.METRICS[name](outputs, labels, weights, average=average)
        for name in EXACT
        for average in (AVERAGES if outputs.ndim == 2 else ("macro",))
    }


@pytest.mark.slow
@pytest.mark.parametrize("weights", [ONES, WEIGHTS], ids=["ones", "weights"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_areas_equal_scikit_learn(name: str, weights: np.ndarray):
    exact, one_hot = EXACT[name], np.eye(C)[LABELS]
    for average in AVERAGES:
        options = {"average": average}
        expected = foreign(name, average, one_hot, probabilities(LOGITS), weights)
        np.testing.assert_allclose(exact(LOGITS, LABELS, weights, **options), expected, 1e-5)
        expected = foreign(name, average, SEVERAL, LOGITS, weights)
        np.testing.assert_allclose(exact(LOGITS, SEVERAL, weights, **options), expected, 1e-5)
    expected = foreign(name, "macro", SEVERAL[:, 0], LOGITS[:, 0], weights)
    for outputs in (LOGITS[:, 0], LOGITS[:, :1]):
        assert exact(outputs, SEVERAL[:, 0], weights) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [ONES, WEIGHTS], ids=["ones", "weights"])
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["classes", "several"])
def test_histograms_are_as_near_as_they_say(labels: np.ndarray, weights: np.ndarray):
    for key, score in measure(LOGITS, labels, weights).items():
        name, average = key.split()
        average = {"None": None, "1": 1}.get(average, average)
        exact = EXACT[name](LOGITS, labels, weights, average=average)
        off, bound = np.abs(score.compute() - exact), error_bound(score)
        assert np.all(off <= bound + 1e-6), key
        assert np.all(bound < (0.01 if name == "roc_auc" else 0.03)), key
        assert np.all(off < (1e-3 if name == "roc_auc" else 5e-3)), key


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 10.0, 1e3])
def test_histograms_of_one_logit_of_any_size(scale: float):
    logits = LOGITS[:, 0] * np.float32(scale)
    for key, score in measure(logits, SEVERAL[:, 0], ONES).items():
        exact = EXACT[key.split()[0]](logits, SEVERAL[:, 0])
        assert abs(score.compute() - exact) <= error_bound(score) + 1e-6
        assert error_bound(score) < 0.01


def test_histograms_of_half_precision_scores_are_exact():
    logits = jnp.asarray(LOGITS[:, 0]).astype(jnp.bfloat16)
    for key, score in measure(logits, SEVERAL[:, 0], WEIGHTS).items():
        wide = np.asarray(logits, np.float32)
        exact = EXACT[key.split()[0]](wide, SEVERAL[:, 0], WEIGHTS)
        assert score.compute() == pytest.approx(exact, rel=1e-6)


def test_the_bound_is_reached_where_a_bin_has_all():
    """The two positives lie above all negatives, or below them: the histogram cannot know."""
    near = np.float32(1) + (np.arange(N) >= N - 2).astype(np.float32) * np.float32(2**-20)
    labels = (np.arange(N) >= N - 2).astype(int)
    got = measure(near, labels, ONES)
    assert got["roc_auc macro"].compute() == pytest.approx(0.5)
    assert error_bound(got["roc_auc macro"]) == pytest.approx(0.5)
    assert error_bound(got["average_precision macro"]) == pytest.approx(1.0)
    assert metrics.roc_auc_of(near, labels) == 1.0


@pytest.mark.slow
def test_classes_with_one_kind_of_example_stay_out_of_means():
    labels = LABELS % 3  # nobody is of class 3
    kept = np.eye(C)[labels][:, :3], probabilities(LOGITS)[:, :3]
    for key, score in measure(LOGITS, labels, ONES).items():
        name, average = key.split()
        if average in ("macro", "weighted"):
            expected = foreign(name, average, *kept)
            exact = EXACT[name](LOGITS, labels, average=average)
            assert exact == pytest.approx(expected, rel=1e-6)
            assert score.compute() == pytest.approx(expected, abs=1e-3)
        if average == "None":
            assert np.isnan(score.compute()).tolist() == [False, False, False, True]
            exact = EXACT[name](LOGITS, labels, average=None)
            assert np.isnan(exact).tolist() == [False, False, False, True]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_roc_area(label: int):
    labels = np.full(N, label)
    got = measure(LOGITS[:, 0], labels, ONES)
    assert np.isnan(got["roc_auc macro"].compute())
    assert np.isnan(metrics.roc_auc_of(LOGITS[:, 0], labels))
    expected = [np.nan, 1.0][label]
    np.testing.assert_equal(got["average_precision macro"].compute(), expected)
    np.testing.assert_equal(metrics.average_precision_of(LOGITS[:, 0], labels), expected)


@pytest.mark.slow
def test_nothing_counted_is_nan():
    for key, score in measure(LOGITS, LABELS, 0 * ONES).items():
        assert np.isnan(score.compute()).all(), key
    assert np.isnan(metrics.roc_auc_of(LOGITS, LABELS, 0 * ONES))


def test_a_nan_score_is_no_number():
    logits = LOGITS.copy()
    logits[7, 2] = np.nan
    for labels in (LABELS, SEVERAL):
        got = measure(logits, labels, ONES)
        assert np.isnan(got["roc_auc macro"].compute())
        assert np.isnan(got["average_precision weighted"].compute())
    with pytest.raises(InputError, match="example 7 has a NaN"):
        metrics.roc_auc_of(logits, LABELS)


@pytest.mark.slow
def test_labels_below_0_are_left_out_and_others_cannot_be():
    labels = LABELS.copy()
    labels[:2] = -1, -100
    expected = measure(LOGITS, LABELS, np.where(np.arange(N) < 2, 0, 1).astype(np.float32))
    for key, score in measure(LOGITS, labels, ONES).items():
        np.testing.assert_array_equal(score.compute(), expected[key].compute(), err_msg=key)
    exact = metrics.roc_auc_of(LOGITS[2:], LABELS[2:])
    assert metrics.roc_auc_of(LOGITS, labels) == pytest.approx(exact, rel=1e-9)
    beyond = np.where(np.arange(N) == 3, C, LABELS)
    for outputs, labels in ((LOGITS, beyond), (LOGITS[:, 0], LABELS)):
        assert np.isnan(measure(outputs, labels, ONES)["roc_auc macro"].compute())
        with pytest.raises(InputError, match=r"roc_auc_of: label .* of row .* is none"):
            metrics.roc_auc_of(outputs, labels)


CROWDS = {
    "10 and a little": lambda x: 10 + 0.02 * x,
    "-10 and a little": lambda x: -10 - 0.02 * x,
    "probabilities near 1": lambda x: 1 - 1e-3 * np.exp(x),
    "probabilities near 0": lambda x: 1e-6 * np.exp(x),
    "two crowds": lambda x: np.where(x > 0.3, 10 + 0.02 * x, -3 + 0.01 * x),
    "all over": lambda x: np.sinh(5 * x),
}


@pytest.mark.parametrize("name", CROWDS)
def test_scores_that_crowd_are_told_apart(name, caplog):
    """Binned by 7 bits, these were off by up to 0.17."""
    shifted = np.random.default_rng(1).normal(size=N) + 0.7 * SEVERAL[:, 0]
    scores = CROWDS[name](shifted).astype(np.float32)
    got = measure(scores, SEVERAL[:, 0], WEIGHTS)
    for kind, foreign in (
        ("roc_auc", sklearn_metrics.roc_auc_score),
        ("average_precision", sklearn_metrics.average_precision_score),
    ):
        score = got[f"{kind} macro"]
        off = abs(score.compute() - foreign(SEVERAL[:, 0], scores, sample_weight=WEIGHTS))
        assert off <= error_bound(score) + 1e-6
        assert off < (1e-3 if kind == "roc_auc" else 3e-3)
    assert "may be off" not in caplog.text


@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["classes", "several"])
def test_classes_that_crowd_are_told_apart(labels):
    crowded = (7 + 0.01 * LOGITS).astype(np.float32)
    got = measure(crowded, labels, ONES)["roc_auc macro"].compute()
    assert abs(got - metrics.roc_auc_of(crowded, labels)) < 2e-3


def test_what_may_be_off_by_more_than_a_hundredth_is_said(caplog):
    near = np.float32(1) + np.arange(N, dtype=np.float32) % 2 * np.float32(2**-20)
    got = measure(near, np.arange(N) % 2, ONES)["roc_auc macro"]
    assert got.compute() == pytest.approx(0.5)
    assert "roc_auc may be off by 0.5: scores are so close to each other" in caplog.text


@pytest.mark.slow
def test_log_odds_are_precise_where_probabilities_are_all_one():
    logits = np.array([[30.0, 1.0, -2.0], [0.0, 0.0, 0.0], [-50.0, 40.0, 10.0]], np.float32)
    wide = logits.astype(np.float64)
    rest = [np.log(np.exp(np.delete(wide, c, axis=1)).sum(axis=1)) for c in range(3)]
    np.testing.assert_allclose(log_odds(jnp.asarray(logits)), wide - np.stack(rest, 1), rtol=1e-6)
