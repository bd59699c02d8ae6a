"""Early stopping against sequences made by hand, and the best state in whole runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import optax
import pytest

from jaxnet.errors import UsageError
from jaxnet.metrics import Mean
from jaxnet.training import EarlyStopping, ReduceOnPlateau, Trainer, reduce_on_plateau
from jaxnet.training.early_stopping import Stopping
from tests.training.helpers import MLP, bits, classifier, table

pytestmark = pytest.mark.usefixtures("shared_programs")

NAN, INF = float("nan"), float("inf")


def judged(rule: EarlyStopping, values: Sequence[float]) -> tuple:
    """The epoch after which training stopped (0: never), why, and the best epoch."""
    memory = Stopping()
    for epoch, value in enumerate(values, start=1):
        memory = rule.update(memory, value, step=epoch, epoch=epoch)
        if memory.reason:
            return epoch, memory.reason, memory.best_step
    return 0, None, memory.best_step


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [3, 2, 4, 5, 6, 7], (0, None, 2)),
        ({"patience": 0}, [3, 2, 2.5, 1], (3, "early_stopping", 2)),
        ({"patience": 1}, [3, 2, 2.5, 1], (3, "early_stopping", 2)),
        ({"patience": 2}, [3, 2, 2.5, 1, 1.5, 1.6], (6, "early_stopping", 4)),
        ({"patience": 2}, [3, 4, 2, 4, 1, 4], (0, None, 5)),
        # The first of equals is the best, and the others are no improvement.
        ({"patience": 2}, [1, 1, 1], (3, "early_stopping", 1)),
        # Each is better than the one before by less than min_delta, but they add up.
        ({"patience": 2, "min_delta": 0.25}, [1, 0.8, 0.7, 0.6], (0, None, 3)),
        ({"patience": 2, "min_delta": 0.5}, [1, 0.8, 0.7, 0.6], (3, "early_stopping", 1)),
        # An improvement by just min_delta is none.
        ({"patience": 1, "min_delta": 0.25}, [1, 0.75], (2, "early_stopping", 1)),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 2], (4, "early_stopping", 3)),
        ({"patience": 1, "mode": "max", "min_delta": 1}, [1, 2.5, 3], (3, "early_stopping", 2)),
    ],
)
def test_patience_and_min_delta(options, values, expected):
    assert judged(EarlyStopping(**options), values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # The best value grows better, but never beats the baseline: that is waiting all the same.
        ([0.9, 0.8, 0.7, 0.6], (3, "early_stopping", 3)),
        ([0.9, 0.8, 0.4, 0.41, 0.42, 0.43], (6, "early_stopping", 3)),
        ([0.9, 0.4, 0.9, 0.9, 0.3, 0.9, 0.9], (0, None, 5)),
        # Reaching it is not beating it.
        ([0.5, 0.5, 0.5], (3, "early_stopping", 1)),
        ([0.9, 0.9, 0.4, 0.9], (0, None, 3)),
    ],
)
def test_a_baseline_has_to_be_beaten(values, expected):
    assert judged(EarlyStopping(patience=3, baseline=0.5), values) == expected


def test_a_baseline_for_a_metric_that_grows():
    rule = EarlyStopping(patience=2, baseline=0.5, mode="max")
    assert judged(rule, [0.3, 0.4, 0.6]) == (2, "early_stopping", 2)
    assert judged(rule, [0.3, 0.6, 0.5, 0.7]) == (0, None, 4)


@pytest.mark.parametrize(("monitor", "better"), [("val_acc", 3), ("val_layer2_loss", 2)])
def test_the_mode_goes_by_the_words_of_the_name(monitor, better):
    values = [5 - better, better, 5 - better]
    assert judged(EarlyStopping(monitor, patience=1), values) == (3, "early_stopping", 2)
    turned = EarlyStopping(monitor, patience=1, mode="min" if better == 3 else "max")
    assert judged(turned, values) == (2, "early_stopping", 1)


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        # Epochs before start_epoch don't wait, but the best of them counts.
        ({"patience": 2, "start_epoch": 4}, [1, 2, 2, 2, 2], (5, "early_stopping", 1)),
        ({"patience": 1, "start_epoch": 3}, [1, 2, 2], (3, "early_stopping", 1)),
        # Worse than the threshold is divergence; just as bad is not. It needs no patience.
        ({"divergence": 5.0}, [1, 5, 5.1], (3, "diverged", 1)),
        ({"divergence": 5.0, "start_epoch": 9}, [6, 1], (1, "diverged", -1)),
        ({"divergence": 0.2, "mode": "max"}, [0.5, 0.2, 0.1], (3, "diverged", 1)),
    ],
)
def test_start_epoch_and_divergence(options, values, expected):
    assert judged(EarlyStopping(**options), values) == expected


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_metric_that_is_not_finite_stops_at_once(bad):
    assert judged(EarlyStopping(), [bad, 1]) == (1, "nonfinite_metric", -1)
    assert judged(EarlyStopping(start_epoch=9), [2, 1, bad]) == (3, "nonfinite_metric", 2)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_without_check_finite_it_is_merely_no_improvement(bad, mode):
    divergence = 9 if mode == "min" else -9
    rule = EarlyStopping(check_finite=False, patience=2, mode=mode, divergence=divergence)
    assert judged(rule, [bad, 1, bad, 1]) == (4, "early_stopping", 2)
    assert judged(rule, [bad, bad, 1]) == (2, "early_stopping", -1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": -1}, "expected a patience of 0 or more evaluations, got -1. Leave it out"),
        ({"min_delta": -0.1}, "expected a min_delta of 0 or more, got -0.1"),
        ({"min_delta": NAN}, "expected a min_delta of 0 or more, got nan"),
        ({"mode": "up"}, "expected mode 'auto', 'min' or 'max', got 'up'"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        EarlyStopping(**options)


COLUMNS = ["loss", "accuracy", "val_loss", "val_accuracy"]


def watched(rule: EarlyStopping, columns: list[str] = COLUMNS, **declared: Any) -> tuple:
    resolved = rule.resolved(columns, declared)
    return resolved.monitor, resolved.mode


def test_the_column_to_watch():
    assert watched(EarlyStopping()) == ("val_loss", "min")
    assert watched(EarlyStopping(), COLUMNS[:2]) == ("loss", "min")
    assert watched(EarlyStopping("val/accuracy")) == ("val_accuracy", "max")
    assert watched(EarlyStopping("train/loss")) == ("loss", "min")
    assert watched(EarlyStopping("step", mode="max")) == ("step", "max")


def test_what_the_metric_says_goes_before_its_name_and_what_the_user_says_before_both():
    assert watched(EarlyStopping("val_accuracy"), val_accuracy="min") == ("val_accuracy", "min")
    rule = EarlyStopping("val_accuracy", mode="max")
    assert watched(rule, val_accuracy="min") == ("val_accuracy", "max")


@pytest.mark.parametrize("name", ["val_gain", "neg_loss", "epoch"])
def test_nobody_guesses_which_way_a_metric_gets_better(name):
    message = f'monitors \'{name}\', .* set mode="max" or mode="min"'
    with pytest.raises(UsageError, match=f"early stopping {message}"):
        watched(EarlyStopping(name), [*COLUMNS, name])
    with pytest.raises(UsageError, match=f"reduce on plateau {message}"):
        ReduceOnPlateau(name).resolved([*COLUMNS, name])
    assert watched(EarlyStopping(name, mode="max"), [*COLUMNS, name]) == (name, "max")


@pytest.mark.parametrize(
    ("monitor", "columns", "message"),
    [
        (
            "val_f1",
            COLUMNS,
            "monitors 'val_f1', but this run measures only loss, accuracy, val_loss",
        ),
        (None, ["d_loss", "g_loss"], "monitors 'loss', but this run measures only d_loss, g_loss"),
    ],
)
def test_an_unknown_column_is_refused_with_those_there_are(monitor, columns, message):
    with pytest.raises(UsageError, match=message):
        EarlyStopping(monitor).resolved(columns)


@pytest.fixture(scope="module")
def cut_at_the_best():
    """A run that grows worse after its second epoch, and the same cut there."""
    trainer = Trainer(classifier(optimizer=optax.sgd(1.0, momentum=0.9)))
    inputs, labels = table(40)
    train, valid = (inputs[:16], labels[:16]), (inputs[16:], labels[16:])
    whole = trainer.fit(train, valid, epochs=8, batch_size=8, seed=2)
    return trainer, train, valid, whole, trainer.fit(train, valid, epochs=2, batch_size=8, seed=2)


@pytest.mark.slow
def test_the_best_state_is_restored_at_the_end_of_the_epochs(cut_at_the_best):
    _, _, valid, whole, cut = cut_at_the_best
    losses = whole.history["val_loss"]
    assert min(losses) == losses[1]
    assert (whole.stop_reason, whole.best_step, whole.last_step) == ("epochs", 4, 16)
    assert whole.best == losses[1]
    assert bits(whole.state) == bits(cut.state)
    assert whole.model.evaluate(valid)["loss"] == losses[1]


def test_the_best_state_is_restored_at_the_end_of_the_steps(cut_at_the_best):
    trainer, train, valid, _, cut = cut_at_the_best
    result = trainer.fit(train, valid, steps=9, batch_size=8, seed=2)
    assert (result.stop_reason, result.best_step, result.last_step) == ("steps", 4, 9)
    assert bits(result.state) == bits(cut.state)


def test_the_best_state_is_restored_when_training_stops_early(cut_at_the_best):
    trainer, train, valid, whole, cut = cut_at_the_best
    early = Trainer(trainer.task, early_stopping=EarlyStopping(patience=2))
    result = early.fit(train, valid, epochs=8, batch_size=8, seed=2)
    assert (result.stop_reason, result.best_step, result.last_step) == ("early_stopping", 4, 8)
    assert result.history.rows == whole.history.rows[:4]
    assert bits(result.state) == bits(cut.state)


def test_divergence_ends_a_run_and_leaves_its_best_state():
    task = classifier(optimizer=optax.sgd(1.0, momentum=1.5))
    rule = EarlyStopping("loss", divergence=50.0)
    result = Trainer(task, early_stopping=rule).fit(table(30), epochs=30, batch_size=8)
    assert result.stop_reason == "diverged"
    assert result.history["loss"][-1] > 50
    assert all(loss <= 50 for loss in result.history["loss"][:-1])
    best = min(result.history["loss"])
    assert math.isfinite(best)
    assert result.best == best
    assert result.best_step == result.history["step"][result.history["loss"].index(best)]


def rising(better: Any) -> Any:
    """The probability of class 0, of which we say which way it gets better."""
    return lambda outputs, labels, weights: Mean.of(nn.softmax(outputs)[:, 0], weights, better)


@pytest.mark.slow
@pytest.mark.parametrize(("better", "best"), [("max", -1), ("min", 0)])
def test_runs_go_by_what_a_metric_says_whatever_it_is_called(better, best):
    """Its name says the other thing: the run and its plateau follow the metric."""
    name = {"max": "loss_like", "min": "accuracy"}[better]
    task = classifier(MLP(outputs=3), optax.sgd(0.5), metrics={name: rising(better)})
    plateau = ReduceOnPlateau(f"val_{name}", factor=0.5, patience=1, min_delta=0.0)
    trainer = Trainer(reduce_on_plateau(task, plateau), early_stopping=EarlyStopping(f"val_{name}"))
    inputs, labels = table(40)
    result = trainer.fit((inputs, 0 * labels), (inputs, labels), epochs=4, batch_size=20)
    values = result.history[f"val_{name}"]
    assert values == sorted(values)
    assert result.best == values[best]
    scales = result.history["learning_rate_scale"]
    assert scales == ([1, 1, 1, 1] if better == "max" else [1, 1, 0.5, 0.25])
