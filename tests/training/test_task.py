"""The supervised task, against its formulas in NumPy and float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.errors import InputError
from jaxnet.training import Network, Supervised
from jaxnet.training.state import stream
from tests.networks import Dense
from tests.training.helpers import bits, classifier, make_batch, regressor, table, take_steps


def softmax_step(params: Any, batch: Any, learning_rate: float) -> tuple[Any, float]:
    """A step of softmax regression on the unmasked rows, in float64, and the loss before it."""
    mask = np.asarray(batch["mask"])
    inputs = np.asarray(batch["inputs"], np.float64)[mask]
    labels = np.asarray(batch["labels"])[mask]
    weights = np.asarray(batch.get("weights", np.ones(len(mask))), np.float64)[mask]
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    logits = inputs @ kernel + bias
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = (weights * -np.log(probabilities[np.arange(len(labels)), labels])).sum() / weights.sum()
    error = (probabilities - np.eye(3)[labels]) * (weights / weights.sum())[:, None]
    moved = {
        "kernel": kernel - learning_rate * inputs.T @ error,
        "bias": bias - learning_rate * error.sum(axis=0),
    }
    return moved, loss


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_is_gradient_descent_on_the_weighted_mean_of_the_unmasked_rows(weighted):
    batch = make_batch(8, masked=3)
    if weighted:
        batch["weights"] = jnp.arange(8, dtype=jnp.float32)
    task = classifier(Dense(3), optax.sgd(0.5))
    states = take_steps(task, batch, 3)
    params = states[0].params
    for state in states[1:]:
        params, _ = softmax_step(params, batch, 0.5)
        for name, expected in params.items():
            np.testing.assert_allclose(state.params[name], expected, rtol=1e-5, atol=1e-6)
    loss = jax.jit(task.eval_step)(states[-1], batch)["loss"].compute()
    np.testing.assert_allclose(loss, softmax_step(params, batch, 0.5)[1], rtol=1e-5)


@pytest.mark.slow
def test_what_padding_holds_changes_nothing():
    task, batch = classifier(), make_batch(8, masked=3)
    state = task.init(jax.random.key(0), batch)
    others = {"inputs": batch["inputs"].at[5:].set(7.0), "labels": batch["labels"].at[5:].set(0)}
    other = {**batch, **others}
    train_step = jax.jit(task.train_step)
    assert bits(train_step(state, batch)) == bits(train_step(state, other))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        normalise = nn.BatchNorm(use_running_average=not train, use_bias=False, use_scale=False)
        hidden = normalise(inputs)
        return Dense(3)(nn.Dropout(0.5, deterministic=not train)(hidden))


@pytest.mark.slow
def test_dropout_and_running_statistics_are_of_training_only():
    task, batch = classifier(Noisy()), make_batch(8)
    before, after = take_steps(task, batch, 1)
    assert bits(before.collections) != bits(after.collections)

    predict = jax.jit(task.predict_step)
    outputs = predict(after, batch)
    assert bits(outputs) == bits(predict(after, batch))
    statistics = after.collections["batch_stats"]["BatchNorm_0"]
    scaled = (batch["inputs"] - statistics["mean"][None]) / np.sqrt(statistics["var"] + 1e-5)[None]
    dense = after.params["Dense_0"]
    expected = np.asarray(scaled) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_dropout_is_drawn_anew_each_step_and_again_the_same_at_the_same_step():
    task, batch = classifier(Noisy()), make_batch(8)
    state = task.init(jax.random.key(0), batch)
    gradients = jax.jit(lambda s: task.gradients(task.objective, s, batch)[0])
    assert bits(gradients(state)) == bits(gradients(state))
    assert bits(gradients(state)) != bits(gradients(replace(state, step=state.step + 1)))
    assert bits(gradients(state)) != bits(gradients(replace(state, key=jax.random.key(1))))


def test_streams_of_different_names_and_steps_are_different():
    root = jax.random.key(0)
    keys = [stream(root, name, step) for name in ("params", "dropout") for step in (0, 1, 2)]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 6


@pytest.mark.slow
def test_inputs_are_preprocessed_in_training_evaluation_and_prediction():
    def scaled(inputs):
        return inputs.astype(jnp.float32) / 16

    raw = {**make_batch(8), "inputs": jnp.arange(32, dtype=jnp.uint8).reshape(8, 4)}
    ready = {**raw, "inputs": scaled(raw["inputs"])}
    inside, outside = classifier(preprocess=scaled), classifier()
    state = take_steps(inside, raw, 1)[-1]
    assert bits(state.params) == bits(take_steps(outside, ready, 1)[-1].params)
    predictions = jax.jit(inside.predict_step)(state, raw)
    assert bits(predictions) == bits(jax.jit(outside.predict_step)(state, ready))


def test_a_network_of_plain_functions_is_trained_like_a_module():
    network = Network(
        init=lambda key, inputs: {"params": {"slope": jnp.zeros(())}},
        apply=lambda variables, inputs, train, key: (
            inputs[:, 0] * variables["params"]["slope"],
            {},
        ),
    )
    x = jnp.linspace(-1, 1, 8)[:, None]
    batch = {"inputs": x, "labels": 3 * x[:, 0], "mask": jnp.ones(8, bool)}
    states = take_steps(Supervised(network, losses.squared_error, optax.sgd(0.5)), batch, 40)
    np.testing.assert_allclose(states[-1].params["slope"], 3.0, rtol=1e-5)


def check(task: Any, labels: Any) -> None:
    inputs, _ = table(len(labels))
    columns = {"inputs": inputs, "labels": np.asarray(labels)}
    batch = {**{k: v[:2] for k, v in columns.items()}, "mask": np.ones(2, bool)}
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    task.check(jax.eval_shape(task.predict_step, state, batch), columns, "train")


@pytest.mark.parametrize(("labels", "wrong"), [([0, 1, 3], 3), ([0, -1, 2], -1)])
def test_labels_that_are_no_class_are_named_with_their_row(labels, wrong):
    row = labels.index(wrong)
    message = rf"train: expected labels from 0 to 2.*has 3 outputs; got {wrong} in row {row}"
    with pytest.raises(InputError, match=message):
        check(classifier(), labels)


def test_one_output_is_a_number_or_a_logit_and_takes_any_integer_label():
    check(classifier(), [0, 1, 2])
    check(regressor(), [0, 1, 70])
    check(Supervised(Dense(1), losses.binary_cross_entropy, optax.sgd(0.1)), [0, 1, 1])
