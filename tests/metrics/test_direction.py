"""Which way every metric of the library gets better, and what names say of others."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from jaxnet import metrics
from jaxnet.metrics.direction import declared, direction_of
from jaxnet.names import lookup

LOGITS = np.array([[2.0, 1.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -1.0, 0.5]], np.float32)
LABELS = np.array([0, 1], np.int32)
SEVERAL = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], np.int32)
ITEMS = np.array([[3, 1, 2], [2, 4, 1]], np.int32)
ONES = np.ones(2, np.float32)

# Written down from the definitions: the perfect value is the largest one, or the smallest.
LARGER = {
    "accuracy": (LOGITS, LABELS),
    "top_5_accuracy": (LOGITS, LABELS),
    "multilabel_accuracy": (LOGITS, SEVERAL),
    "exact_match": (LOGITS, SEVERAL),
    "precision": (LOGITS, LABELS),
    "recall": (LOGITS, LABELS),
    "sensitivity": (LOGITS, LABELS),
    "specificity": (LOGITS, LABELS),
    "negative_predictive_value": (LOGITS, LABELS),
    "f1": (LOGITS, LABELS),
    "f1_micro": (LOGITS, LABELS),
    "f1_weighted": (LOGITS, LABELS),
    "multilabel_f1": (LOGITS, SEVERAL),
    "balanced_accuracy": (LOGITS, LABELS),
    "matthews_correlation": (LOGITS, LABELS),
    "cohen_kappa": (LOGITS, LABELS),
    "quadratic_kappa": (LOGITS, LABELS),
    "roc_auc": (LOGITS, LABELS),
    "average_precision": (LOGITS, LABELS),
    "r2": (LOGITS[:, 0], LOGITS[:, 1]),
    "explained_variance": (LOGITS[:, 0], LOGITS[:, 1]),
}
SMALLER = {
    "mean_squared_error": (LOGITS[:, 0], LOGITS[:, 1]),
    "mean_absolute_error": (LOGITS[:, 0], LOGITS[:, 1]),
    "root_mean_squared_error": (LOGITS[:, 0], LOGITS[:, 1]),
    "perplexity": (LOGITS, LABELS),
}
# What makes a metric, or isn't one by name.
MADE = {
    "f_beta": partial(metrics.f_beta, beta=2.0),
    "top_3_accuracy": metrics.top_k_accuracy(3),
    "masked accuracy": metrics.masked(metrics.accuracy),
}


def test_each_metric_by_name_has_a_direction_of_its_own():
    assert set(LARGER) | set(SMALLER) == set(metrics.METRICS)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_direction_of_each_metric(name: str):
    expected = "max" if name in LARGER else "min"
    data = (LARGER | SMALLER)[name]
    # Called as nobody calls it, the metric says it itself; its own name says the same or nothing.
    shapes = jax.eval_shape(lookup(name, metrics.METRICS, "metric"), *data, ONES)
    assert declared({"zzz": shapes}, "val_") == {"val_zzz": expected}
    assert direction_of(f"val_{name}") in (expected, None)


@pytest.mark.parametrize("name", MADE)
def test_the_direction_of_metrics_that_are_made(name: str):
    assert MADE[name](LOGITS, LABELS, ONES).better == "max"


def test_the_direction_of_lists_and_translations():
    assert metrics.recall_at(3)(ITEMS, ITEMS, ONES).better == "max"
    assert metrics.ndcg_at(3)(ITEMS, ITEMS, ONES).better == "max"
    assert metrics.bleu([["a", "b"]], [[["a", "b"]]]).better == "max"


def test_what_is_no_number_has_none():
    assert declared({"c": metrics.confusion_matrix(5)(LOGITS, LABELS, ONES), "n": 3}) == {}


def test_sums_of_one_direction_merge_and_keep_it():
    both = metrics.merge(metrics.Mean(1.0, 1.0, "max"), metrics.Mean(0.0, 1.0, "max"))
    assert (both.compute(), both.better) == (0.5, "max")


@pytest.mark.parametrize(
    ("direction", "names"),
    [
        (
            "max",
            "acc val_acc VAL_ACC val/Acc valAUC val_auc_2 acc1 top1_acc val_F1Score ndcg@10 NDCG@K "
            "recall@k val_recall_5 exact_match val_r2 BLEU val_bleu4 mIoU_iou roc_auc "
            "val-precision negative_predictive_value val_log_likelihood dice bestAccuracy",
        ),
        (
            "min",
            "loss val_loss val_layer2_loss dice_loss f1_loss val_precision_error MSELoss valLoss "
            "mse RMSE val_mean_squared_error generator_loss perplexity val_ppl nll wer "
            "negative_log_likelihood val_false_positive_rate val_kl_divergence logLoss loss_2",
        ),
        (
            None,
            "score val_score layer2 norm grad_norm/Dense_0 step epoch neg_mse "
            "neg_mean_squared_error accuracy_per_loss_unit negative_elbo not_accuracy facc "
            "lossy accurate val precise closs myauc map learning_rate_scale reflection",
        ),
    ],
)
def test_names_are_read_by_whole_words(direction, names: str):
    assert {name: direction_of(name) for name in names.split()} == dict.fromkeys(
        names.split(), direction
    )
