"""The trainer: against hand loops, scikit-learn and plain application of the model."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics, optimizers
from jaxnet.data import Arrays
from jaxnet.data.order import epoch_order
from jaxnet.training import Callback, Checkpoints, EarlyStopping, Supervised, Trainer
from tests.networks import Dense, applied
from tests.training.helpers import MLP, bits, classifier, started, table

pytestmark = pytest.mark.usefixtures("shared_programs")

BY_HAND = classifier(optimizer=optimizers.by_name("adam", 0.02))


@functools.cache
def step_by_hand() -> Any:
    """A step in plain Optax."""
    model = BY_HAND.model
    assert isinstance(model, nn.Module)

    def objective(params, inputs, labels):
        logits: Any = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, inputs, labels):
        loss, grads = jax.value_and_grad(objective)(params, inputs, labels)
        updates, state = BY_HAND.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def by_hand(data: Any, epochs: int, batch_size: int, params: Any) -> Any:
    """The run in plain Optax, with a last batch that is really smaller."""
    (inputs, labels), step = data, step_by_hand()
    state, means = BY_HAND.optimizer.init(params), []
    for epoch in range(epochs):
        order, total = epoch_order(0, epoch, len(inputs)), 0.0
        for rows in np.split(order, range(batch_size, len(order), batch_size)):
            params, state, loss = step(params, state, inputs[rows], labels[rows])
            total += float(loss) * len(rows)
        means.append(total / len(inputs))
    return params, means


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 30, 64])
def test_a_run_equals_a_loop_by_hand_with_a_smaller_last_batch(batch_size):
    data = table(30)
    result = Trainer(BY_HAND, early_stopping=EarlyStopping("loss")).fit(
        data, epochs=3, batch_size=batch_size
    )
    batch = {"inputs": data[0][:2], "labels": data[1][:2], "mask": np.ones(2, bool)}
    params, means = by_hand(data, 3, batch_size, started(BY_HAND, batch).params)

    assert result.best_step == result.last_step == 3 * -(-30 // batch_size)
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.state.params):
        expected = params[path[0].key][path[1].key]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.history["loss"], means, rtol=1e-5)


@pytest.fixture(scope="module")
def trained() -> Any:
    """A trained network, and data that it has not seen."""
    inputs, labels = table(60)
    trainer = Trainer(
        classifier(eval_metrics={"confusion": metrics.confusion_matrix(3)}), eval_batch_size=8
    )
    result = trainer.fit((inputs[:20], labels[:20]), epochs=4, batch_size=8)
    return result, Arrays(inputs[20:], labels[20:])


@pytest.mark.parametrize("rows", [1, 7, 8, 40])
def test_predictions_are_those_of_the_model_a_row_each(trained, rows):
    result, data = trained
    outputs = result.model.predict(data.inputs[:rows])
    assert isinstance(outputs, np.ndarray)
    assert outputs.shape == (rows, 3)
    expected = applied(MLP(), {"params": result.state.params}, data.inputs)
    np.testing.assert_allclose(outputs, expected[:rows], rtol=1e-5, atol=1e-6)


def test_many_stacks_of_batches_are_predicted_in_order(trained):
    # A stack has 16 batches of 8 rows.
    result, data = trained
    inputs = np.concatenate([data.inputs] * 8)[:300]
    outputs = result.model.predict(inputs)
    assert outputs.shape == (300, 3)
    for start in (40, 120, 240):
        np.testing.assert_array_equal(outputs[start : start + 40], outputs[:40])


def test_outputs_of_several_parts_are_predicted_part_by_part():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return {"sum": inputs.sum(axis=1), "twice": 2 * Dense(3)(inputs)}

    def loss(outputs, labels):
        return losses.cross_entropy(outputs["twice"], labels)

    trainer = Trainer(Supervised(Two(), loss, optax.sgd(0.1)), eval_batch_size=4)
    inputs, _ = table(10)
    batch = {"inputs": inputs[:4], "labels": np.zeros(4, np.int32), "mask": np.ones(4, bool)}
    outputs = trainer.predict(started(trainer.task, batch), inputs)
    assert {name: part.shape for name, part in outputs.items()} == {"sum": (10,), "twice": (10, 3)}
    np.testing.assert_allclose(outputs["sum"], inputs.sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluation_equals_scikit_learn(trained, weighted):
    from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

    result, data = trained
    weights = np.random.default_rng(0).uniform(0, 3, len(data)).astype(np.float32)
    weights = weights if weighted else None
    data = Arrays(data.inputs, data.labels, weights)
    measured = result.model.evaluate(data)

    logits = result.model.predict(data.inputs).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers, options = logits.argmax(axis=1), dict[str, Any](sample_weight=weights)
    assert measured["accuracy"] == pytest.approx(accuracy_score(data.labels, answers, **options))
    assert measured["loss"] == pytest.approx(
        log_loss(data.labels, shares, labels=[0, 1, 2], **options), rel=1e-5
    )
    expected = confusion_matrix(data.labels, answers, labels=[0, 1, 2], **options)
    np.testing.assert_allclose(measured["confusion"], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "steps", "reason"),
    [
        ({"epochs": 2}, [4, 8], "epochs"),
        ({"steps": 8}, [4, 8], "steps"),
        ({"steps": 6}, [4, 6], "steps"),
        ({"steps": 3}, [3], "steps"),
        ({"epochs": 2, "steps": 5}, [4, 5], "steps"),
        ({"epochs": 1, "steps": 5}, [4], "epochs"),
    ],
)
def test_a_run_lasts_as_long_as_was_said_and_its_end_is_evaluated(trained, wanted, steps, reason):
    trainer, data = trained[0].model.trainer, table(30)
    result = trainer.fit(data, data, batch_size=8, **wanted)
    assert (result.stop_reason, result.last_step) == (reason, steps[-1])
    assert result.history["step"] == steps
    assert result.history["epoch"] == list(range(1, len(steps) + 1))
    assert len(result.history["val_loss"]) == len(steps)
    assert np.isfinite(result.history["val_loss"]).all()


def test_the_history_has_the_means_over_an_epoch_and_the_validation_after_it(trained):
    trainer = trained[0].model.trainer
    seen: list[tuple[dict[str, float], float]] = []
    predicted: list[np.ndarray] = []

    class Watcher(Callback):
        def on_epoch(self, row, trained):
            seen.append((dict(row), trained.evaluate(table(30))["loss"]))
            predicted.append(trained.predict(table(30)[0]))

    watched = Trainer(trainer.task, callbacks=[Watcher()], eval_batch_size=8)
    result = watched.fit(table(30), table(30), epochs=2, batch_size=8)
    names = ["epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert result.history.columns == names
    assert [row for row, _ in seen] == [dict(row) for row in result.history.rows]
    assert [loss for _, loss in seen] == result.history["val_loss"]
    np.testing.assert_array_equal(predicted[-1], result.model.predict(table(30)[0]))
    assert result.history["loss"][0] > result.history["val_loss"][0]


@pytest.mark.slow
def test_weights_of_examples_count_in_training_and_evaluation():
    inputs, labels = table(40)
    half = np.arange(40) < 20
    weighted = Arrays(inputs, np.where(half, labels, 0), half.astype(np.float32))
    trainer = Trainer(classifier(Dense(3)), early_stopping=EarlyStopping("loss"))
    result = trainer.fit(weighted, epochs=10, batch_size=40)
    alone = trainer.fit((inputs[:20], labels[:20]), epochs=10, batch_size=20)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            result.state.params[name], alone.state.params[name], rtol=1e-4, atol=1e-5
        )
    assert trainer.evaluate(result.state, weighted)["loss"] == pytest.approx(
        trainer.evaluate(result.state, (inputs[:20], labels[:20]))["loss"], rel=1e-6
    )


def test_what_the_result_says_of_speed_is_possible(trained):
    result, _ = trained
    assert result.seconds > 0
    assert result.seconds_to_first_step > 0
    assert result.samples_per_second >= 0
    assert result.data_wait_share >= 0


@pytest.mark.slow
def test_numbers_of_numpy_do_for_seed_and_batch_size(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    trainer = Trainer(classifier(), checkpoints=checkpoints)
    numbers: Any = {"batch_size": np.int64(5), "seed": np.int64(3)}
    first = trainer.fit(table(20), epochs=1, **numbers)
    plain = Trainer(classifier()).fit(table(20), epochs=1, batch_size=5, seed=3)
    assert bits(first.state) == bits(plain.state)


@pytest.mark.slow
def test_callbacks_that_started_are_told_of_the_end_whatever_fails():
    told = []

    class Watcher(Callback):
        def __init__(self, name: str, fails: str = "") -> None:
            self.name, self.fails = name, fails

        def on_start(self, plan: Any) -> None:
            if self.fails == "start":
                raise OSError(self.name)

        def on_stop(self, reason: str) -> None:
            told.append((self.name, reason))
            if self.fails == "stop":
                raise OSError(self.name)

    watchers = [Watcher("a"), Watcher("b", "stop"), Watcher("c", "start")]
    for last in (2, 3):
        told.clear()
        with pytest.raises(OSError, match="b"):
            Trainer(classifier(), callbacks=watchers[:last]).fit(table(20), epochs=1)
        reason = "epochs" if last == 2 else "error"
        assert told == [("b", reason), ("a", reason)]


def test_the_state_can_be_used_after_other_runs_of_the_trainer(trained):
    # Training donates its buffers: the state of a result must not be among them.
    result, data = trained
    before = bits(result.state)
    result.model.trainer.fit((data.inputs, data.labels), epochs=1, batch_size=8)
    assert bits(result.state) == before
    assert jnp.isfinite(result.model.predict(data.inputs)).all()


@pytest.mark.slow
def test_the_monitored_metric_chooses_the_best_step():
    inputs, labels = table(40)
    rule = EarlyStopping("val/accuracy")
    result = Trainer(classifier(optimizer=optax.sgd(1.0)), early_stopping=rule).fit(
        (inputs[:16], labels[:16]), (inputs[16:], labels[16:]), epochs=10, batch_size=8
    )
    accuracies = result.history["val_accuracy"]
    assert result.best == max(accuracies)
    assert result.best_step == result.history["step"][accuracies.index(max(accuracies))]
