from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.errors import InputError
from jaxnet.losses import position_counts
from jaxnet.metrics.accuracy import cut
from tests.programs import measured

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 50)
WEIGHTS = RNG.uniform(size=50).astype(np.float32)
ONES = np.ones(50, np.float32)


@pytest.mark.parametrize("weights", [ONES, WEIGHTS])
def test_accuracy_equals_scikit_learn(weights: np.ndarray):
    got = measured(metrics.accuracy, LOGITS, LABELS, weights).compute()
    expected = sklearn_metrics.accuracy_score(LABELS, LOGITS.argmax(1), sample_weight=weights)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_accuracy_of_one_logit_an_example(shape: tuple[int, ...]):
    logits, labels = LOGITS[:, 0], (LABELS > 3).astype(np.float32)
    got = measured(metrics.accuracy, logits.reshape(shape), labels, WEIGHTS).compute()
    expected = sklearn_metrics.accuracy_score(labels, logits > 0, sample_weight=WEIGHTS)
    assert got == pytest.approx(expected, rel=1e-6)


def test_accuracy_of_sequences_is_the_mean_over_their_steps():
    logits, labels = LOGITS.reshape(5, 10, 7), LABELS.reshape(5, 10)
    got = measured(metrics.accuracy, logits, labels, np.ones(5)).compute()
    assert got == pytest.approx((LOGITS.argmax(1) == LABELS).mean(), rel=1e-6)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.f1])
def test_masked_metrics_count_the_positions_that_count(metric):
    logits, labels = LOGITS.reshape(5, 10, 7), LABELS.reshape(5, 10).copy()
    labels[0, 4:] = labels[3, 1:] = labels[4] = -100
    counts = position_counts(labels, -100)
    keep = labels.ravel() != -100
    got = measured(metrics.masked(metric, -100), logits, labels, counts).compute()
    assert got == pytest.approx(
        measured(metric, LOGITS[keep], LABELS[keep], ONES[keep]).compute(), rel=1e-6
    )
    # Without those weights each example counts alike, and the last, of which nothing counts, not.
    if metric is metrics.accuracy:
        right = (logits.argmax(-1) == labels).sum(1)[:4] / counts[:4]
        got = measured(
            metrics.masked(metric, -100), logits, labels, np.ones(5, np.float32)
        ).compute()
        assert got == pytest.approx(right.mean(), rel=1e-6)


def test_accuracy_does_not_compare_in_eight_bits():
    logits = np.eye(300, dtype=np.float32)[[256, 256]]
    got = measured(metrics.accuracy, logits, np.array([0, 1], np.uint8), np.ones(2))
    assert got.compute() == 0.0
    top = measured(metrics.top_k_accuracy(1), logits, np.array([0, 1], np.uint8), np.ones(2))
    assert top.compute() == 0.0


def test_accuracy_refuses_one_hot_labels():
    with pytest.raises(InputError, match="argmax"):
        measured(metrics.accuracy, LOGITS, np.eye(7)[LABELS], ONES)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_accuracy_equals_scikit_learn(k: int):
    got = measured(metrics.top_k_accuracy(k), LOGITS, LABELS, WEIGHTS).compute()
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
        measured(metrics.top_k_accuracy(k), LOGITS, LABELS, ONES)


def test_the_accuracy_of_nothing_is_nan():
    assert np.isnan(measured(metrics.accuracy, LOGITS, LABELS, 0 * ONES).compute())


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_accuracies_of_several_labels_equal_scikit_learn(threshold: float):
    labels = RNG.integers(0, 2, LOGITS.shape)
    answers = 1 / (1 + np.exp(-LOGITS.astype(np.float64))) > threshold
    share = measured(
        partial(metrics.multilabel_accuracy, threshold=threshold), LOGITS, labels, WEIGHTS
    )
    lost = sklearn_metrics.hamming_loss(labels, answers, sample_weight=WEIGHTS)
    assert share.compute() == pytest.approx(1 - lost, rel=1e-6)
    labels[:20] = answers[:20]
    whole = measured(partial(metrics.exact_match, threshold=threshold), LOGITS, labels, WEIGHTS)
    expected = sklearn_metrics.accuracy_score(labels, answers, sample_weight=WEIGHTS)
    assert 0 < expected < 1
    assert whole.compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 1.0, np.nan])
def test_a_threshold_is_inside_zero_and_one(threshold: float):
    with pytest.raises(InputError, match=r"inside \(0, 1\)"):
        cut(threshold)


def test_labels_below_0_are_gaps_to_accuracies_as_to_all_metrics():
    labels = LABELS.copy()
    labels[:10] = -1
    for metric in (metrics.accuracy, metrics.top_k_accuracy(3)):
        expected = measured(metric, LOGITS[10:], LABELS[10:], WEIGHTS[10:]).compute()
        assert measured(metric, LOGITS, labels, WEIGHTS).compute() == pytest.approx(
            expected, rel=1e-6
        )
        # Of a sequence the share is that of the positions that count.
        rows = measured(
            metric, LOGITS.reshape(5, 10, 7), labels.reshape(5, 10), np.ones(5)
        ).compute()
        expected = measured(metric, LOGITS[10:], LABELS[10:], ONES[10:]).compute()
        assert rows == pytest.approx(expected, rel=1e-6)
        assert np.isnan(measured(metric, LOGITS, np.full(50, -1), ONES).compute())


def test_gaps_of_yes_and_no_are_left_out_where_it_is_said():
    """-1 is "no" to some and a gap to others: neither is guessed."""
    labels = RNG.integers(0, 2, LOGITS.shape)
    labels[RNG.random(labels.shape) < 0.3] = -1
    assert np.isnan(measured(metrics.multilabel_accuracy, LOGITS, labels, ONES).compute())
    assert np.isnan(measured(metrics.accuracy, LOGITS[:, 0], labels[:, 0], ONES).compute())
    kept = labels >= 0
    right = (LOGITS > 0) == (labels == 1)
    counts = position_counts(labels)
    for metric in (metrics.accuracy, metrics.multilabel_accuracy):
        got = measured(metrics.masked(metric), LOGITS, labels, counts).compute()
        assert got == pytest.approx(right[kept].mean(), rel=1e-6)
    got = measured(metrics.masked(metrics.f1), LOGITS[:, :1], labels[:, 0], ONES).compute()
    rows = kept[:, 0]
    assert got == pytest.approx(
        sklearn_metrics.f1_score(labels[rows, 0], LOGITS[rows, 0] > 0), rel=1e-6
    )
