"""Steps that give NaN or infinity: where they are found, what is kept, what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, optimizers
from jaxnet.data.order import batches, epoch_order
from jaxnet.errors import NonFiniteError
from jaxnet.training import (
    Checkpoints,
    Supervised,
    Trainer,
    accumulate,
    guard_nonfinite,
    mixed_precision,
)
from jaxnet.training.nonfinite import first_nonfinite
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    compiled,
    make_batch,
    started,
    table,
)

pytestmark = pytest.mark.usefixtures("shared_programs")

BATCH, ROWS = 4, 30
STEPS = -(-ROWS // BATCH)


class Root(nn.Module):
    """Its gradient at 0 is NaN, its value isn't."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = jnp.sqrt(jnp.abs(Dense(4, use_bias=False)(inputs)))
        return Dense(3)(hidden)


class Exponential(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = jnp.exp(Dense(4)(inputs))
        return Dense(3)(hidden)


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        convolution = nn.Conv(2, (3, 3), kernel_init=nn.initializers.constant(2.0))
        hidden = nn.relu(convolution(inputs.reshape(-1, 2, 2, 1)))
        return Dense(3)(hidden.reshape(len(inputs), -1))


FIRST = make_batch(BATCH)


def poisoned(value: float) -> tuple[tuple[np.ndarray, np.ndarray], int, dict[str, np.ndarray]]:
    """Data with one bad row, the step of the first epoch that meets it, and that step's batch."""
    inputs, labels = table(ROWS)
    order = batches(epoch_order(0, 0, ROWS), BATCH)
    step = 5
    inputs[order[step, 1]] = value
    rows = order[step]
    batch = {"inputs": inputs[rows], "labels": labels[rows], "mask": np.ones(BATCH, bool)}
    return (inputs, labels), step, batch


CASES = {
    # Huge numbers overflow in the first product. It is a convolution, so that a CPU goes step by
    # step.
    "product": (Convolution(), 3e38, "first in Conv_0"),
    "function": (Exponential(), 1e4, "first in the input of Dense_1"),
    "gradient": (Root(), 0.0, "first in the gradient of Dense_0/kernel"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "steps_per_dispatch"),
    [("product", "auto"), ("function", "auto"), ("gradient", "auto"), ("gradient", 3)],
)
def test_stop_ends_training_before_the_bad_step(case, steps_per_dispatch, caplog):
    model, value, message = CASES[case]
    data, step, batch = poisoned(value)
    task = guard_nonfinite(classifier(model, optimizers.by_name("adam", 0.01)), "stop")
    trainer = Trainer(task, steps_per_dispatch=steps_per_dispatch)

    result = trainer.fit(data, epochs=2, batch_size=BATCH)

    assert result.stop_reason == "nonfinite"
    assert (result.last_step, len(result.history)) == (step, 0)
    assert result.halt is not None
    assert (result.halt.reason, result.halt.step) == ("nonfinite", step)
    assert bits(result.halt.batch) == bits(batch)
    assert f"step {step + 1} ended training: nonfinite, {message}" in caplog.text

    cut = trainer.fit(data, steps=step, batch_size=BATCH)
    assert (cut.stop_reason, cut.last_step) == ("steps", step)
    assert bits(result.state) == bits(cut.state)


@pytest.mark.slow
def test_the_bad_step_may_be_the_first():
    inputs, labels = table(ROWS)
    inputs[epoch_order(0, 0, ROWS)[0]] = 0
    trainer = Trainer(guard_nonfinite(classifier(Root()), "stop"))
    result = trainer.fit((inputs, labels), epochs=2, batch_size=BATCH)
    assert (result.stop_reason, result.last_step, result.best_step) == ("nonfinite", 0, -1)
    assert np.isfinite(result.state.params["Dense_0"]["kernel"]).all()


@pytest.mark.slow
def test_a_bad_step_of_a_later_epoch_leaves_the_best_state(caplog):
    bad = STEPS + 2
    rate = optimizers.by_name("sgd", lambda count: jnp.where(count == bad, jnp.inf, 0.1))
    trainer = Trainer(guard_nonfinite(classifier(optimizer=rate), "stop"))
    result = trainer.fit(table(ROWS), epochs=3, batch_size=BATCH)
    assert (result.stop_reason, result.last_step) == ("nonfinite", bad)
    assert "the replay of the step is finite: the optimizer's update overflowed" in caplog.text
    assert result.history.columns == ["epoch", "step", "loss", "accuracy", "learning_rate"]
    assert result.history["step"] == [STEPS]
    assert result.best_step == STEPS
    cut = trainer.fit(table(ROWS), epochs=1, batch_size=BATCH)
    assert bits(result.state) == bits(cut.state)


@pytest.mark.slow
def test_raise_names_step_and_layer_and_keeps_the_batch(tmp_path):
    data, step, batch = poisoned(1e4)
    task = guard_nonfinite(classifier(Exponential()), "raise")
    trainer = Trainer(task, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    message = (
        rf"step {step + 1} ended training: nonfinite_error, "
        r"first in the input of Dense_1: .* infinite"
    )
    with pytest.raises(NonFiniteError, match=message) as error:
        trainer.fit(data, epochs=1, batch_size=BATCH)

    file = tmp_path / f"halted_step_{step + 1}.npz"
    assert str(file) in str(error.value)
    with np.load(file) as kept:
        assert bits(dict(kept)) == bits(batch)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["product", "gradient"])
def test_skip_leaves_the_bad_batch_out(case):
    model, value, _ = CASES[case]
    data, step, _ = poisoned(value)
    plain = classifier(model)
    result = Trainer(guard_nonfinite(plain, "skip")).fit(data, epochs=1, batch_size=BATCH)
    assert result.stop_reason == "epochs"
    assert result.history["skipped_steps"] == [1]
    assert np.isfinite(result.history["loss"]).all()

    train_step, state = compiled(plain).train_step, started(plain, FIRST)
    for i, order in enumerate(batches(epoch_order(0, 0, ROWS), BATCH)):
        rows = np.where(order < 0, ~order, order)
        batch = {"inputs": data[0][rows], "labels": data[1][rows], "mask": order >= 0}
        if i == step:
            state = replace(state, step=np.int32(i + 1))
        else:
            state, _ = train_step(state, batch)
    assert int(result.state.step) == STEPS
    assert_close(result.state.params, state.params, 1e-5)


@pytest.mark.slow
def test_a_skipped_step_changes_nothing_but_the_step():
    good = make_batch(BATCH)
    bad = {**good, "inputs": np.where(np.arange(BATCH)[:, None] == 2, 0, good["inputs"])}
    plain = classifier(Root(), optimizers.by_name("adam", 0.01))
    guarded = guard_nonfinite(plain, "skip")
    train_step = compiled(guarded).train_step
    state = train_step(started(guarded, good), good)[0]

    after, metrics = train_step(state, bad)
    assert bits(after) == bits(replace(state, step=np.int32(2)))
    assert int(metrics["skipped_steps"]) == 1
    assert float(metrics["loss"].count) == 0

    after, metrics = train_step(state, good)
    expected, expected_metrics = jax.jit(plain.train_step)(state, good)
    assert_close(after.params, expected.params)
    assert int(metrics["skipped_steps"]) == 0
    assert_close(metrics["loss"], expected_metrics["loss"])


def test_a_run_without_a_guard_goes_on_with_nan(caplog):
    # What the guard is for: without it the parameters are lost, and only early stopping sees it.
    data, _, _ = poisoned(0.0)
    result = Trainer(classifier(Root())).fit(data, epochs=3, batch_size=BATCH)
    assert result.stop_reason == "nonfinite_metric"
    assert np.isnan(result.state.params["Dense_0"]["kernel"]).all()
    said = "epoch 1 ended training: loss is nan. The weights are the last ones, as no epoch had a"
    assert said in caplog.text
    assert "guard_nonfinite(task, 'stop')" in caplog.text


# --- what the replay says -----------------------------------------------------------------------


def diagnosis(task: Any, inputs: Any, labels: Any) -> str:
    batch = {
        "inputs": jnp.asarray(inputs),
        "labels": jnp.asarray(labels),
        "mask": jnp.ones(len(inputs), bool),
    }
    return task.diagnose(started(task, batch), batch)


def regression(**options: Any) -> Supervised:
    options = {"optimizer": optax.sgd(0.1), **options}
    return Supervised(Dense(1), losses.squared_error, **options)


@pytest.mark.slow
def test_the_replay_names_the_inputs_the_parameters_the_loss_or_the_update():
    ones, zeros = jnp.ones((4, 2)), jnp.zeros(4)
    infinite = regression(preprocess=lambda x: x / jnp.zeros(()))
    assert "first in the inputs: 0 NaN and 8 infinite of 8" in diagnosis(infinite, ones, zeros)
    assert "first in the loss" in diagnosis(regression(), ones, zeros + 1e30)
    assert "the replay of the step is finite" in diagnosis(regression(), ones, zeros)

    batch = {"inputs": ones, "labels": zeros, "mask": jnp.ones(4, bool)}
    state = started(regression(), batch)
    spoilt = replace(state, params={**state.params, "bias": jnp.full(1, jnp.nan)})
    assert "first in the parameters (bias): 1 NaN" in regression().diagnose(spoilt, batch)


@pytest.mark.parametrize("wrap", [lambda t: accumulate(t, 2), lambda t: guard_nonfinite(t, "stop")])
def test_the_replay_works_through_techniques(wrap):
    inputs, labels = table(4)
    inputs[2] = 1e4
    assert "the input of Dense_1" in diagnosis(wrap(classifier(Exponential())), inputs, labels)


@pytest.mark.slow
def test_the_replay_computes_in_the_precision_of_the_step():
    # 300 * 300 * 4 is beyond float16 only.
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            hidden = nn.Dense(4, kernel_init=nn.initializers.constant(300.0))(inputs)
            return Dense(3)(nn.tanh(hidden))

    inputs, labels = np.full((4, 4), 300, np.float32), np.zeros(4, np.int32)
    assert "the replay of the step is finite" in diagnosis(classifier(Wide()), inputs, labels)
    half = mixed_precision(classifier(Wide()), "fp16")
    assert "first in Dense_0: 0 NaN and 16 infinite of 16" in diagnosis(half, inputs, labels)


def test_the_gradient_that_fails_first_is_that_of_the_last_layer_to_run():
    one = jnp.ones(1)
    stages = [
        ("the inputs", one),
        ("Block_0/Dense_0", one),
        ("Block_0/Dense_1", one),
        ("Block_0", one),
        ("Dense_0", one),
        ("the loss", one),
    ]
    bad, good = {"kernel": jnp.full(1, jnp.nan)}, {"kernel": one}
    block = {"Dense_0": bad, "Dense_1": bad}
    said = first_nonfinite(stages, {"Block_0": block, "Dense_0": good})
    assert "in the gradient of Block_0/Dense_1/kernel: 1 NaN" in said
    assert "of Dense_0/kernel" in first_nonfinite(stages, {"Block_0": block, "Dense_0": bad})
