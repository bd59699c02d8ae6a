from __future__ import annotations

import warnings
from functools import partial

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.errors import InputError
from tests.programs import measured

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 50)
WEIGHTS = RNG.uniform(0.1, 1, 50).astype(np.float32)
ONES = np.ones(50, np.float32)

WEIGHTINGS = (None, "linear", "quadratic")
ALL = {
    "balanced_accuracy": metrics.balanced_accuracy,
    "matthews": metrics.matthews_correlation,
    **{f"kappa_{name}": partial(metrics.cohen_kappa, weighting=name) for name in WEIGHTINGS},
}


@jax.jit
def measure(outputs: jax.Array, labels: jax.Array, weights: jax.Array) -> dict:
    return {name: metric(outputs, labels, weights) for name, metric in ALL.items()}


def scikit_learn(labels: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> dict:
    known = {"sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is degenerate is the subject here
        kappa = partial(sklearn_metrics.cohen_kappa_score, labels, answers, labels=range(7))
        return {
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, answers, **known),
            "matthews": sklearn_metrics.matthews_corrcoef(labels, answers, **known),
            **{f"kappa_{name}": kappa(weights=name, **known) for name in WEIGHTINGS},
        }


SEVEN = metrics.confusion_matrix(7)
CONSTANT = np.eye(7, dtype=np.float32)[np.full(50, 3)]
CASES = {
    "random": (LOGITS, LABELS),
    "right": (np.eye(7, dtype=np.float32)[LABELS], LABELS),
    "one_class": (LOGITS, np.full(50, 3)),
    "one_answer": (CONSTANT, LABELS),
    "one_class_and_one_answer": (CONSTANT, np.full(50, 3)),
    "one_class_and_another_answer": (CONSTANT, np.full(50, 2)),
    "three_classes": (LOGITS, LABELS % 3),
    "one_logit": (LOGITS[:, 0], LABELS % 2),
    "one_logit_one_class": (LOGITS[:, 0], np.ones(50, int)),
    "one_logit_one_answer": (np.full(50, -2, np.float32), LABELS % 2),
}


@pytest.mark.parametrize("weights", [ONES, WEIGHTS], ids=["ones", "weights"])
@pytest.mark.parametrize("case", CASES)
def test_agreement_equals_scikit_learn(case: str, weights: np.ndarray):
    outputs, labels = CASES[case]
    answers = outputs > 0 if outputs.ndim == 1 else outputs.argmax(axis=1)
    expected = scikit_learn(labels, answers.astype(int), weights)
    for name, score in measure(outputs, labels, weights).items():
        approx = pytest.approx(expected[name], rel=1e-5, abs=1e-6, nan_ok=True)
        assert score.compute() == approx, name


def test_nothing_counted_is_nan():
    for name, score in measure(LOGITS, LABELS, 0 * ONES).items():
        assert np.isnan(score.compute()), name


def test_a_threshold_moves_the_answers_of_one_logit():
    logits, labels = LOGITS[:, 0], LABELS % 2
    answers = 1 / (1 + np.exp(-logits.astype(np.float64))) > 0.7
    expected = scikit_learn(labels, answers.astype(int), ONES)
    found = jax.jit(
        lambda *given: {name: metric(*given, threshold=0.7) for name, metric in ALL.items()}
    )(logits, labels, ONES)
    for name, score in found.items():
        assert score.compute() == pytest.approx(expected[name], rel=1e-5), name
    got = measured(metrics.confusion_matrix(2, threshold=0.7), logits[:, None], labels, ONES)
    np.testing.assert_array_equal(got.compute(), sklearn_metrics.confusion_matrix(labels, answers))


def test_a_threshold_is_refused_where_the_largest_logit_answers():
    with pytest.raises(InputError, match="one logit an example"):
        metrics.matthews_correlation(LOGITS, LABELS, ONES, threshold=0.5)


@pytest.mark.parametrize("weights", [ONES, WEIGHTS])
def test_confusion_matrix_equals_scikit_learn(weights: np.ndarray):
    got = measured(SEVEN, LOGITS, LABELS, weights).compute()
    expected = sklearn_metrics.confusion_matrix(
        LABELS, LOGITS.argmax(1), sample_weight=weights, labels=range(7)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_confusion_matrix_leaves_out_labels_below_0():
    labels = LABELS.copy()
    labels[:3] = -1, -7, -100
    got = measured(SEVEN, LOGITS, labels, ONES).compute()
    np.testing.assert_array_equal(
        got, sklearn_metrics.confusion_matrix(LABELS[3:], LOGITS[3:].argmax(1), labels=range(7))
    )


@pytest.mark.parametrize("classes", [6, 8])
def test_confusion_matrix_refuses_another_number_of_classes(classes: int):
    with pytest.raises(InputError, match="confusion_matrix"):
        metrics.confusion_matrix(classes)(LOGITS, LABELS, ONES)


def test_confusion_matrix_of_sequences_counts_their_steps():
    logits, labels = LOGITS.reshape(5, 10, 7), LABELS.reshape(5, 10)
    got = measured(SEVEN, logits, labels, np.arange(5, dtype=np.float32))
    expected = sklearn_metrics.confusion_matrix(
        LABELS, LOGITS.argmax(1), sample_weight=np.repeat(np.arange(5), 10), labels=range(7)
    )
    np.testing.assert_allclose(got.compute(), expected)
