from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.errors import InputError, UsageError
from jaxnet.metrics.curves import GOALS

RNG = np.random.default_rng(0)
N, C = 200, 3
LABELS = RNG.integers(0, C, N)
LOGITS = (RNG.normal(size=(N, C)) + np.eye(C)[LABELS]).astype(np.float32)
YES = (LOGITS[:, 0] + RNG.normal(size=N) > 0.7).astype(int)
WEIGHTS = RNG.uniform(0.1, 1, N).astype(np.float32)


@pytest.mark.slow
def test_curves_are_those_of_scikit_learn():
    scores = np.asarray(jax.nn.softmax(LOGITS.astype(np.float64), axis=1))
    names = ["a", "b", "c"]
    roc = metrics.roc_curves(LOGITS, LABELS, WEIGHTS, class_names=names)
    pr = metrics.precision_recall_curves(LOGITS, LABELS, WEIGHTS, class_names=names)
    assert [curve.name for curve in roc] == [curve.name for curve in pr] == names
    for c in range(C):
        truth = np.equal(LABELS, c)
        fpr, tpr, _ = sklearn_metrics.roc_curve(truth, scores[:, c], sample_weight=WEIGHTS)
        np.testing.assert_allclose(roc[c].x, fpr, atol=1e-6)
        np.testing.assert_allclose(roc[c].y, tpr, atol=1e-6)
        assert roc[c].area == pytest.approx(sklearn_metrics.auc(fpr, tpr), rel=1e-6)
        precision, recall, _ = sklearn_metrics.precision_recall_curve(
            truth, scores[:, c], sample_weight=WEIGHTS, drop_intermediate=True
        )
        np.testing.assert_allclose(pr[c].x, recall, atol=1e-6)
        np.testing.assert_allclose(pr[c].y, precision, atol=1e-6)
        assert pr[c].share == pytest.approx(WEIGHTS[truth].sum() / WEIGHTS.sum(), rel=1e-6)
    exact = metrics.roc_auc_of(LOGITS, LABELS, WEIGHTS)
    assert metrics.mean_area(roc) == pytest.approx(exact, rel=1e-9)


def test_curves_want_a_name_a_class():
    with pytest.raises(InputError, match=r"3 class names.*got 2"):
        metrics.roc_curves(LOGITS, LABELS, class_names=["a", "b"])


def test_weights_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"weights \(200,\).*\[199\]"):
        metrics.roc_auc_of(LOGITS, LABELS, WEIGHTS[1:])


MEASURED = {
    "f1": metrics.f1,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "negative_predictive_value": metrics.negative_predictive_value,
    "balanced_accuracy": metrics.balanced_accuracy,
}


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["f1", "balanced_accuracy"])
@pytest.mark.parametrize("weights", [np.ones(N, np.float32), WEIGHTS], ids=["ones", "weights"])
def test_no_threshold_is_better_than_the_best(goal: str, weights: np.ndarray):
    logits = LOGITS[:, 0]
    best = metrics.best_threshold(logits, YES, weights, goal=goal)
    reached = MEASURED[goal](logits, YES, weights, threshold=best).compute()
    score = {
        "f1": sklearn_metrics.f1_score,
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
    }[goal]
    tried = [score(YES, logits >= cut, sample_weight=weights) for cut in logits]
    assert reached == pytest.approx(max(tried), rel=1e-5)


@pytest.mark.parametrize("goal", GOALS)
def test_every_goal_is_reached_by_its_metric(goal: str):
    logits = LOGITS[:, 0]
    best = metrics.best_threshold(logits, YES, goal=goal, min_recall=0.3)
    ones = np.ones(N, np.float32)
    assert metrics.recall(logits, YES, ones, threshold=best).compute() >= 0.3
    assert 0 < best < 1


def test_conditions_on_precision_and_recall_are_met():
    logits, ones = LOGITS[:, 0], np.ones(N, np.float32)
    plain = metrics.best_threshold(logits, YES)
    careful = metrics.best_threshold(logits, YES, min_precision=0.9)
    eager = metrics.best_threshold(logits, YES, min_recall=0.98)
    assert eager < plain < careful
    assert metrics.precision(logits, YES, ones, threshold=careful).compute() >= 0.9
    assert metrics.recall(logits, YES, ones, threshold=eager).compute() >= 0.98
    with pytest.raises(InputError, match=r"precision of 0.99 and a recall of 0.99"):
        metrics.best_threshold(logits, YES, min_precision=0.99, min_recall=0.99)


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_a_threshold_at_the_ends_is_still_a_probability(size: float):
    logits = np.array([-size, size], np.float32)
    for goal in ("recall", "precision", "specificity"):
        assert 0 < metrics.best_threshold(logits, np.array([0, 1]), goal=goal) < 1


def test_a_threshold_needs_one_logit_both_classes_and_a_known_goal():
    with pytest.raises(InputError, match="one logit an example"):
        metrics.best_threshold(LOGITS, LABELS)
    with pytest.raises(InputError, match="all of one"):
        metrics.best_threshold(LOGITS[:, 0], 0 * YES)
    with pytest.raises(UsageError, match="unknown goal 'f2'; did you mean 'f1'"):
        metrics.best_threshold(LOGITS[:, 0], YES, goal="f2")
