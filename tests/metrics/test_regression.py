from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.metrics.bins import Bins
from jaxnet.training.history import add_steps, as_metrics

RNG = np.random.default_rng(0)
TARGETS = RNG.normal(size=(60, 3)).astype(np.float32)
OUTPUTS = (TARGETS + 0.3 * RNG.normal(size=(60, 3)) + 0.2).astype(np.float32)
WEIGHTS = RNG.uniform(0.1, 1, 60).astype(np.float32)
ONES = np.ones(60, np.float32)

NAMES = {
    "mean_squared_error": "mean_squared_error",
    "mean_absolute_error": "mean_absolute_error",
    "root_mean_squared_error": "root_mean_squared_error",
    "r2": "r2_score",
    "explained_variance": "explained_variance_score",
}


@jax.jit
def measure(outputs: jax.Array, labels: jax.Array, weights: jax.Array) -> dict:
    return {name: metrics.METRICS[name](outputs, labels, weights) for name in NAMES}


def check(outputs: np.ndarray, labels: np.ndarray, weights: np.ndarray = ONES) -> None:
    for name, score in measure(outputs, labels, weights).items():
        function = getattr(sklearn_metrics, NAMES[name])
        wide = np.asarray(labels, np.float64), np.asarray(outputs, np.float64)
        expected = function(*wide, sample_weight=weights)
        if name == "root_mean_squared_error":  # over all outputs, where scikit-learn takes each
            expected = np.sqrt(sklearn_metrics.mean_squared_error(*wide, sample_weight=weights))
        assert score.compute() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("weights", [ONES, WEIGHTS], ids=["ones", "weights"])
def test_regression_metrics_equal_scikit_learn(weights: np.ndarray):
    check(OUTPUTS, TARGETS, weights)
    check(OUTPUTS[:, 0], TARGETS[:, 0], weights)


def test_errors_of_sequences_are_those_of_their_steps():
    shape = (20, 3, 3)
    got = measure(OUTPUTS.reshape(shape), TARGETS.reshape(shape), np.ones(20, np.float32))
    for name in ("r2", "explained_variance", "mean_squared_error"):
        expected = measure(OUTPUTS, TARGETS, ONES)[name].compute()
        assert got[name].compute() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("offset", [-1e6, -2000.0, 1000.0, 3e4])
def test_labels_far_from_zero_keep_their_variance(offset: float):
    """Sums of squares about 0 would be all rounding: the deviation is a thousandth of the mean."""
    scale = abs(offset) / 1000
    labels = (offset + scale * TARGETS).astype(np.float32)
    outputs = (offset + scale * OUTPUTS).astype(np.float32)
    rows = [slice(i, i + 20) for i in range(0, 60, 20)]
    parts = [measure(outputs[r], labels[r], WEIGHTS[r]) for r in rows]
    merged = metrics.merge(metrics.merge(parts[0], parts[1]), parts[2])
    wide = labels.astype(np.float64), outputs.astype(np.float64)
    for name in ("r2", "explained_variance"):
        expected = getattr(sklearn_metrics, NAMES[name])(*wide, sample_weight=WEIGHTS)
        assert merged[name].compute() == pytest.approx(expected, rel=1e-3), name


def test_batches_of_different_sizes_and_places_merge():
    """Sorted labels: each batch has a mean of its own, far from the others'."""
    labels = np.sort(10 ** RNG.uniform(-3, 3, 60)).astype(np.float32)
    outputs = (labels * RNG.uniform(0.5, 1.5, 60)).astype(np.float32)
    parts = [measure(outputs[r], labels[r], WEIGHTS[r]) for r in np.split(np.arange(60), 3)]
    merged = metrics.merge(metrics.merge(parts[0], parts[1]), parts[2])
    for name in ("r2", "explained_variance"):
        expected = getattr(sklearn_metrics, NAMES[name])(labels, outputs, sample_weight=WEIGHTS)
        assert merged[name].compute() == pytest.approx(expected, rel=1e-5), name


def test_r2_of_a_million_examples_of_a_thousand_batches():
    """Float32 sums of each batch, added in float64 as the trainer does."""
    rng = np.random.default_rng(1)
    labels = (2000 + 10 * rng.normal(size=(1000, 1000))).astype(np.float32)
    outputs = (labels + 5 * rng.normal(size=labels.shape)).astype(np.float32)
    scores = jax.jit(jax.vmap(metrics.r2))(outputs, labels, np.ones(labels.shape, np.float32))
    got = as_metrics(add_steps(None, scores), scores).compute()
    error = np.square(outputs.astype(np.float64) - labels).sum()
    expected = 1 - error / np.square(labels - labels.mean(dtype=np.float64)).sum()
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.3, -2.0, 12345.678])
def test_what_does_not_vary_has_no_explained_share(constant: float):
    labels = np.full((60, 3), constant, np.float32)
    got = measure(OUTPUTS, labels, WEIGHTS)
    assert np.isnan(got["r2"].compute())
    assert np.isnan(got["explained_variance"].compute())


def test_an_output_that_does_not_vary_stays_out_of_the_mean():
    labels = TARGETS.copy()
    labels[:, 1] = 0.3
    got = measure(OUTPUTS, labels, WEIGHTS)["r2"].compute()
    kept = sklearn_metrics.r2_score(labels[:, ::2], OUTPUTS[:, ::2], sample_weight=WEIGHTS)
    assert got == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("where", ["outputs", "labels"])
def test_nan_is_never_explained(where: str):
    outputs, labels = OUTPUTS.copy(), TARGETS.copy()
    {"outputs": outputs, "labels": labels}[where][5, 0] = np.nan
    for name, score in measure(outputs, labels, ONES).items():
        assert np.isnan(score.compute()), name


def test_perfect_and_shifted_predictions():
    got = measure(TARGETS, TARGETS, WEIGHTS)
    assert got["r2"].compute() == got["explained_variance"].compute() == 1.0
    shifted = measure(TARGETS + 100, TARGETS, WEIGHTS)
    assert shifted["explained_variance"].compute() == pytest.approx(1.0, abs=1e-6)
    assert shifted["r2"].compute() < -1000


def test_nothing_counted_is_nan():
    for name, score in measure(OUTPUTS, TARGETS, 0 * ONES).items():
        assert np.isnan(score.compute()), name


def test_bins_are_monotone_and_as_fine_as_they_say():
    bins = Bins(bits=3, octaves=4)
    sizes = np.geomspace(2.0**-4, 2.0**4, 3000, endpoint=False).astype(np.float32)
    numbers = np.concatenate([-sizes[::-1], [-0.0, 0.0], sizes]).astype(np.float32)
    places = np.asarray(bins.of(jnp.asarray(numbers)))
    assert (np.diff(places) >= 0).all()
    assert set(places) == set(range(bins.count))
    assert places[2999:3003].tolist() == [bins.count // 2 - 1, *3 * [bins.count // 2]]
    off = np.abs(bins.centres[places] - numbers)[np.abs(numbers) > 0]
    assert (off <= np.abs(numbers)[np.abs(numbers) > 0] / 16 + 1e-9).all()
    far = np.asarray(bins.of(jnp.array([-np.inf, -1e30, 1e-30, 1e30, np.inf])))
    assert far.tolist() == [0, 0, bins.count // 2, bins.count - 1, bins.count - 1]
