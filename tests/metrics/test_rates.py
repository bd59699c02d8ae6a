from __future__ import annotations

import itertools
import warnings
from functools import partial

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.errors import InputError
from jaxnet.metrics.precision_recall import check_average

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(60, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 60)
WEIGHTS = RNG.uniform(0.1, 1, 60).astype(np.float32)
ONES = np.ones(60, np.float32)

RATES = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "f1": metrics.f1,
    "fbeta": partial(metrics.f_beta, beta=2.0),
    # scikit-learn has no names for these two: they are rates of the classes turned inside out.
    "specificity": metrics.specificity,
    "npv": metrics.negative_predictive_value,
}
AVERAGES = ("macro", "micro", "weighted", None, 0)


@partial(jax.jit, static_argnames=("threshold", "zero_division"))
def measure(outputs, labels, weights, threshold=None, zero_division=0.0) -> dict:
    options = {"threshold": threshold, "zero_division": zero_division}
    return {
        f"{name} {average}": rate(outputs, labels, weights, average=average, **options)
        for name, rate in RATES.items()
        for average in AVERAGES
    }


def scikit_learn(name: str, average, truth: np.ndarray, answers: np.ndarray, **options):
    """scikit-learn's value for truth and answers (N, K) of 0 and 1."""
    score = getattr(sklearn_metrics, f"{name}_score")
    options |= {"beta": 2.0} if name == "fbeta" else {}
    if truth.shape[1] == 1:
        return score(truth[:, 0], answers[:, 0], average="binary", **options)
    if isinstance(average, int):
        return score(truth, answers, average=None, **options)[average]
    present = (truth | answers).any(axis=0)
    if average in ("macro", "weighted"):
        truth, answers = truth[:, present], answers[:, present]
    return score(truth, answers, average=average, **options)


def check(outputs, labels, truth, answers, weights=ONES, threshold=None, zero_division=0.0) -> None:
    got = measure(outputs, labels, weights, threshold, zero_division)
    for name, average in itertools.product(("precision", "recall", "f1", "fbeta"), AVERAGES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is degenerate is the subject here
            expected = scikit_learn(
                name, average, truth, answers, sample_weight=weights, zero_division=zero_division
            )
        if average is None and truth.shape[1] == 1:
            expected = [expected]
        np.testing.assert_allclose(
            got[f"{name} {average}"].compute(), expected, 1e-5, 1e-7, err_msg=f"{name} {average}"
        )


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(5, dtype=int)[classes]


CASES = {
    "random": (LOGITS, LABELS),
    "right": (one_hot(LABELS).astype(np.float32), LABELS),
    "one_class": (LOGITS, np.full(60, 3)),
    "one_answer": (one_hot(np.full(60, 2)).astype(np.float32), LABELS),
    "one_class_and_another_answer": (one_hot(np.full(60, 2)).astype(np.float32), np.full(60, 1)),
    "three_classes": (LOGITS - 9 * one_hot(np.full(60, 4)).astype(np.float32), LABELS % 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("zero_division", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("case", CASES)
def test_rates_of_classes_equal_scikit_learn(case: str, zero_division: float):
    outputs, labels = CASES[case]
    truth, answers = one_hot(labels), one_hot(outputs.argmax(axis=1))
    check(outputs, labels, truth, answers, WEIGHTS, zero_division=zero_division)


@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("labels", [LABELS % 2, np.zeros(60, int), np.ones(60, int)])
@pytest.mark.parametrize("shift", [0, -20, 20])
def test_rates_of_yes_equal_scikit_learn(threshold, labels: np.ndarray, shift: float):
    logits = LOGITS[:, 0] + np.float32(shift)
    answers = 1 / (1 + np.exp(-logits.astype(np.float64))) > (threshold or 0.5)
    pair = labels[:, None], answers[:, None].astype(int)
    check(logits, labels, *pair, WEIGHTS, threshold=threshold)


@pytest.mark.parametrize("case", ["random", "no_positive", "no_answer"])
def test_rates_of_several_labels_equal_scikit_learn(case: str):
    labels, logits = RNG.integers(0, 2, LOGITS.shape), LOGITS.copy()
    if case == "no_positive":
        labels[:, 1] = 0
    if case == "no_answer":
        labels[:, 1], logits[:, 1] = 0, -9
    check(logits, labels, labels, (logits > 0).astype(int), WEIGHTS, threshold=0.5)


def test_specificity_and_npv_are_recall_and_precision_of_the_rest():
    truth, answers = one_hot(LABELS), one_hot(LOGITS.argmax(axis=1))
    got = measure(LOGITS, LABELS, WEIGHTS)
    for average in AVERAGES:
        for name, score in (("specificity", "recall"), ("npv", "precision")):
            if average == "weighted":
                each = scikit_learn(score, None, 1 - truth, 1 - answers, sample_weight=WEIGHTS)
                expected = np.average(each, weights=WEIGHTS @ truth)
            else:
                expected = scikit_learn(
                    score, average, 1 - truth, 1 - answers, sample_weight=WEIGHTS
                )
            np.testing.assert_allclose(got[f"{name} {average}"].compute(), expected, rtol=1e-5)


def test_the_rates_of_a_published_table():
    """Fisher's tea tasting, as a test: 3 of 4 cups right on either side."""
    logits = np.array([1, 1, 1, -1, -1, -1, -1, 1], np.float32)
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    for score in measure(logits, labels, np.ones(8, np.float32)).values():
        np.testing.assert_allclose(score.compute(), 0.75)


def test_nothing_counted_is_nan():
    for key, score in measure(LOGITS, LABELS, 0 * ONES).items():
        assert np.isnan(score.compute()).all(), key


def test_labels_below_0_are_left_out_and_others_cannot_be():
    labels = LABELS.copy()
    labels[:2] = -1, -100
    weights = np.where(np.arange(60) < 2, 0, 1).astype(np.float32)
    expected = measure(LOGITS, LABELS, weights)
    for key, score in measure(LOGITS, labels, ONES).items():
        np.testing.assert_array_equal(score.compute(), expected[key].compute(), err_msg=key)
    labels[2] = 5
    for key, score in measure(LOGITS, labels, ONES).items():
        assert np.isnan(score.compute()).all(), key


def test_scores_of_equal_options_merge_and_others_do_not():
    f1 = partial(metrics.f1, LOGITS, LABELS, ONES)
    nan = float("nan")
    merged = metrics.merge(f1(zero_division=nan), f1(zero_division=np.nan)).compute()
    assert merged == pytest.approx(f1().compute())
    with pytest.raises(ValueError, match=r"metadata|node data"):
        metrics.merge(f1(), f1(average="micro"))


def test_one_hot_labels_are_refused_and_the_message_says_how_to_go_on():
    with pytest.raises(InputError, match=r"argmax.*give a rate a threshold"):
        metrics.f1(LOGITS, one_hot(LABELS), ONES)


def test_weights_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"\[59\] for 60 examples"):
        metrics.f1(LOGITS, LABELS, ONES[:59])


@pytest.mark.parametrize("average", ["mean", 5, -1])
def test_unknown_averages_are_refused(average):
    with pytest.raises(InputError, match="one of the 5 classes"):
        check_average.__wrapped__(average, 5)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan])
def test_beta_is_above_zero(beta: float):
    with pytest.raises(InputError, match="beta above 0"):
        metrics.f_beta(LOGITS, LABELS, ONES, beta=beta)
