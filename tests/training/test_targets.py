"""Learning on the scale of 1, predicting in the target's units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxnet.models.mlp import MLP

from jaxnet import Bundle, losses, metrics
from jaxnet.data import Arrays, Scale, fit_target
from jaxnet.errors import InputError
from jaxnet.training import Network, Supervised, Trainer, mixed_precision, scaled_target
from tests.networks import Dense
from tests.training.helpers import make_batch, started, table

pytestmark = pytest.mark.usefixtures("shared_programs")

INPUTS = table(40)[0]
TARGET = (1000 + 50 * INPUTS[:, 0]).astype(np.float32)


def plain(**options) -> Supervised:
    return Supervised(
        MLP(hidden=(8,), num_classes=1), losses.squared_error, optax.sgd(0.05), **options
    )


def test_the_scale_of_a_target_is_its_mean_and_deviation():
    scale = fit_target(Arrays(INPUTS, TARGET))
    assert scale.shift == pytest.approx(TARGET.mean(), rel=1e-6)
    assert scale.scale == pytest.approx(1 / TARGET.std(), rel=1e-5)
    both = fit_target(Arrays(INPUTS, np.stack([TARGET, -2 * TARGET], axis=1)))
    np.testing.assert_allclose(both.shift, [TARGET.mean(), -2 * TARGET.mean()], rtol=1e-6)
    with pytest.raises(InputError, match="expected numbers to predict, got labels of type int32"):
        fit_target(Arrays(INPUTS, np.arange(40)))


@pytest.mark.slow
def test_gradients_are_those_of_the_plain_task_on_scaled_labels():
    scale = Scale(1000.0, 1 / 50)
    batch = make_batch(8)
    labels = np.float32(1000 + 50 * np.linspace(-1, 1, 8))
    ours, theirs = scaled_target(plain(), scale), plain()

    @jax.jit
    def gradients(key, batch, labels):
        params = theirs.init(key, batch).params
        cases = (ours, {"network": params}, labels), (theirs, params, scale(labels))
        found = []
        for task, start, wanted in cases:
            differentiate = jax.value_and_grad(task.objective, has_aux=True)
            (loss, aux), grads = differentiate(start, {}, {**batch, "labels": wanted}, key)
            found.append((loss, aux.metrics, grads))
        return found

    (loss, seen, grads), (expected, _, expected_grads) = gradients(jax.random.key(1), batch, labels)
    # Outputs go to units of 1000 and back, which costs one of float32's digits.
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for leaf, other in zip(
        jax.tree.leaves(grads["network"]), jax.tree.leaves(expected_grads), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)
    assert set(seen) == {"loss"}


@pytest.mark.slow
def test_predictions_metrics_and_the_bundle_are_in_the_targets_units(tmp_path):
    train = Arrays(INPUTS, TARGET)
    task = scaled_target(plain(metrics={"mae": metrics.mean_absolute_error}), fit_target(train))
    trained = Trainer(task).fit(train, epochs=30, batch_size=10).model
    predicted = trained.predict(INPUTS)
    error = np.abs(predicted[:, 0] - TARGET).mean()
    assert error < 10 < TARGET.std()
    assert trained.evaluate(train)["mae"] == pytest.approx(error, rel=1e-4)
    Bundle.of(trained).save(tmp_path)
    np.testing.assert_array_equal(Bundle.load(tmp_path).predict(INPUTS), predicted)


@pytest.mark.slow
def test_half_precision_doesnt_round_the_predictions():
    train = Arrays(INPUTS, TARGET)
    task = mixed_precision(scaled_target(plain(), fit_target(train)), "bf16")
    predict = jax.jit(lambda key, b, x: task.predict_step(task.init(key, b), {"inputs": x}))
    outputs = predict(jax.random.key(0), make_batch(8), INPUTS)
    assert outputs.dtype == jnp.float32
    assert len(np.unique(outputs)) > 30  # in bf16, numbers about 1000 are 4 apart


@pytest.mark.slow
def test_each_of_several_targets_has_its_scale():
    labels = np.stack([TARGET, TARGET * 1e-6], axis=1)
    train = Arrays(INPUTS, labels)
    task = Supervised(Dense(2), losses.squared_error, optax.sgd(0.2))
    result = Trainer(scaled_target(task, fit_target(train))).fit(train, epochs=40, batch_size=10)
    np.testing.assert_allclose(result.model.predict(INPUTS), labels, rtol=1e-3)


@pytest.mark.slow
def test_dropout_still_acts_in_training_only():
    task = Supervised(
        MLP(hidden=(8,), num_classes=1, dropout=0.5), losses.squared_error, optax.sgd(0.0)
    )
    scaled = scaled_target(task, Scale(5.0, 1.0))
    batch = {**make_batch(8), "labels": np.zeros(8, np.float32)}
    params = started(scaled, batch).params
    loss = jax.jit(lambda params, key: scaled.objective(params, {}, batch, key)[0])
    found = {float(loss(params, jax.random.key(i))) for i in (1, 2)}
    assert len(found) == 2


def test_plain_functions_have_no_place_for_the_scale():
    network = Network(lambda key, inputs: {"params": {}}, lambda *_: (jnp.zeros((8, 1)), {}))
    task = Supervised(network, losses.squared_error, optax.sgd(0.1))
    with pytest.raises(InputError, match="needs a task of a Linen module, got Network"):
        scaled_target(task, Scale())
