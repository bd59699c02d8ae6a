"""Techniques: each against the plain task, against NumPy in float64, and in compositions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import metrics, optimizers
from jaxnet.errors import UsageError
from jaxnet.training import (
    Supervised,
    accumulate,
    clip,
    freeze,
    freeze_except,
    guard_nonfinite,
    mixed_precision,
    penalize,
    remat,
    with_ema,
)
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    compiled,
    first_steps,
    gradients,
    make_batch,
    regressor,
    started,
    take_steps,
)

SEVERAL = classifier(
    optimizer=optax.sgd(1.0),
    metrics={"accuracy": metrics.accuracy, "confusion": metrics.confusion_matrix(3)},
)


def products(task: Any, batch: Any) -> list[str]:
    """The operand types of each matrix product in the compiled step."""
    text = compiled(task).train_step.lower(started(task, batch), batch).as_text()
    operands = r"tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>"
    found = re.findall(rf"stablehlo\.dot_general.*: \({operands}", text)
    return [kind for pair in found for kind in pair]


# --- accumulate ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_accumulated_parts_equal_the_whole_batch():
    # With 4 parts of 2 rows, 3 padded rows make one part all padding and another half.
    batch = make_batch(8, masked=3)
    batch["weights"] = jnp.asarray(np.random.default_rng(1).uniform(0, 5, 8), jnp.float32)
    got = expected = started(SEVERAL, batch)
    for _ in range(3):
        got, got_metrics = compiled(accumulate(SEVERAL, 4)).train_step(got, batch)
        expected, expected_metrics = compiled(SEVERAL).train_step(expected, batch)
        # After the first step of plain descent this compares the gradients.
        assert_close(got.params, expected.params)
        assert_close(got_metrics, expected_metrics)


def test_accumulation_of_a_batch_that_is_all_padding_has_no_gradient():
    grads, aux = gradients(accumulate(classifier(), 2), make_batch(8, masked=8))
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))
    assert float(aux.weight) == 0


def test_accumulation_refuses_a_batch_that_it_cannot_cut():
    with pytest.raises(UsageError, match=r"batch of 8 can't be cut into 3 equal parts.*3 divides"):
        take_steps(accumulate(classifier(), 3), make_batch(8), 1)
    with pytest.raises(UsageError, match="expected a positive number of parts, got 0"):
        accumulate(classifier(), 0)


class Counter(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros((), jnp.int32))
        if not self.is_initializing():
            calls.value += 1
        return Dense(3)(inputs)


def test_accumulation_hands_running_statistics_from_part_to_part():
    after = take_steps(accumulate(classifier(Counter()), 4), make_batch(8), 2)[-1]
    assert int(after.collections["batch_stats"]["calls"]) == 8


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        dropped = nn.Dropout(0.5, deterministic=not train)(inputs)
        return Dense(1, use_bias=False)(dropped)


@pytest.mark.slow
def test_accumulated_parts_draw_dropout_of_their_own():
    ones = {"inputs": np.ones((2, 64), np.float32), "labels": np.zeros(2, np.float32)}
    ones["mask"] = np.ones(2, bool)
    task = Supervised(Dropped(), lambda outputs, _: outputs[:, 0], optax.sgd(0.1))
    grads, _ = gradients(accumulate(task, 2), ones)
    # Each part gives 0 or 2 to a weight: where one draw served both, their mean is never 1.
    assert set(np.unique(grads["Dense_0"]["kernel"])) == {0.0, 1.0, 2.0}


# --- mixed precision ----------------------------------------------------------------------------


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.BatchNorm(use_running_average=not train)(Dense(8)(inputs))
        return Dense(3)(nn.relu(hidden))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "kind"),
    [("bf16", "bf16"), ("fp16", "f16")],
)
def test_mixed_precision_multiplies_in_half_and_remembers_in_float32(precision, kind):
    model = Normalised()
    task, batch = mixed_precision(classifier(model), precision), make_batch(8, masked=2)
    assert set(products(task, batch)) == {kind}

    mixed, plain = take_steps(task, batch, 5)[-1], take_steps(classifier(model), batch, 5)[-1]
    kept = jax.tree.leaves((mixed.params, mixed.opt_state, mixed.collections))
    assert {leaf.dtype.name for leaf in kept} == {"float32"}
    assert jax.eval_shape(task.predict_step, mixed, batch).dtype == jnp.float32
    assert_close(mixed.params, plain.params, 3e-2)
    assert_close(mixed.collections, plain.collections, 3e-2)
    assert bits(mixed.params) != bits(plain.params)


def test_float32_is_the_plain_task_and_another_precision_is_refused():
    task = classifier()
    assert mixed_precision(task, "float32") is task
    with pytest.raises(UsageError, match="expected one of float32, bf16, fp16, got 'fp8'"):
        mixed_precision(task, cast(Any, "fp8"))


def test_labels_are_not_rounded_to_the_precision_of_the_network():
    # bfloat16 has 8 bits: it would make 1001 into 1000.
    batch = {"inputs": jnp.zeros((4, 2)), "labels": jnp.full(4, 1001.0), "mask": jnp.ones(4, bool)}
    task = mixed_precision(regressor(), "bf16")
    state = started(task, batch)
    both = jax.jit(lambda s, b: (task.eval_step(s, b), task.train_step(s, b)[1]))(state, batch)
    assert [measured["loss"].compute() for measured in both] == [1001.0**2, 1001.0**2]


def test_float16_scales_the_loss_so_that_small_gradients_survive():
    def tiny(outputs, labels):
        return 1e-7 * jnp.square(outputs[:, 0] - labels)

    inputs, labels = np.ones((4, 2), np.float32), np.full(4, 0.5, np.float32)
    batch = {"inputs": inputs, "labels": labels, "mask": np.ones(4, bool)}
    task = Supervised(Dense(1), tiny, optax.sgd(0.1))
    expected, _ = gradients(task, batch)
    scaled, _ = gradients(mixed_precision(task, "fp16"), batch)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(scaled[name], expected[name], rtol=5e-3, atol=0)


def test_float16_skips_a_step_that_overflows_and_halves_the_scale():
    # The bias has the gradient 2 * 10, and 20 * 2**15 is beyond float16.
    batch = {"inputs": jnp.ones((4, 2)), "labels": jnp.full(4, 10.0), "mask": jnp.ones(4, bool)}
    task = mixed_precision(regressor(Dense(1), optimizers.by_name("adam", 0.1)), "fp16")
    states = take_steps(task, batch, 6)

    scales = [float(s.memory["loss_scale"]["scale"]) for s in states]
    overflows = scales.index(scales[-1])
    assert 1 <= overflows < 6
    assert scales == [2.0 ** (15 - min(i, overflows)) for i in range(7)]
    assert [int(s.step) for s in states] == list(range(7))
    for state in states[1 : overflows + 1]:
        assert bits((state.params, state.opt_state)) == bits(
            (states[0].params, states[0].opt_state)
        )
        assert int(state.memory["loss_scale"]["good_steps"]) == 0
    assert bits(states[overflows + 1].params) != bits(states[0].params)
    assert int(states[-1].memory["loss_scale"]["good_steps"]) == 6 - overflows


def test_float16_doubles_the_scale_after_2000_good_steps():
    task = mixed_precision(regressor(Dense(1), optax.sgd(0.01)), "fp16")
    batch = {"inputs": jnp.zeros((2, 2)), "labels": jnp.full(2, 0.5), "mask": jnp.ones(2, bool)}
    state = started(task, batch)
    steps = jax.jit(
        lambda s, n: jax.lax.fori_loop(0, n, lambda _, t: task.train_step(t, batch)[0], s)
    )
    before = steps(state, 1999).memory["loss_scale"]
    after = steps(state, 2000).memory["loss_scale"]
    assert (float(before["scale"]), int(before["good_steps"])) == (2.0**15, 1999)
    assert (float(after["scale"]), int(after["good_steps"])) == (2.0**16, 0)


# --- the update ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_clipping_scales_the_gradient_of_the_whole_batch_to_the_norm():
    batch, plain = make_batch(8, masked=3), classifier(optimizer=optax.sgd(1.0))
    cases = [(0.1, 1), (0.1, 4), (100.0, 1)]
    tasks = [accumulate(clip(plain, max_norm), parts) for max_norm, parts in cases]
    grads = jax.tree.map(lambda g: np.asarray(g, np.float64), gradients(plain, batch)[0])
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    assert 0.1 < norm < 100
    for (max_norm, _), states in zip(cases, first_steps(tasks, batch), strict=True):
        before, after = (jax.tree.map(np.asarray, state.params) for state in states)
        factor = min(1, max_norm / norm)
        assert_close(after, jax.tree.map(lambda p, g, f=factor: p - g * f, before, grads))


# --- the objective ------------------------------------------------------------------------------


def test_remat_computes_the_same_and_keeps_no_activations():
    batch, plain = make_batch(8, masked=2), classifier()
    task = remat(plain)
    assert_close(gradients(task, batch)[0], gradients(plain, batch)[0])
    state = started(task, batch)
    assert "remat" in str(jax.make_jaxpr(task.train_step)(state, batch))
    assert "remat" not in str(jax.make_jaxpr(plain.train_step)(state, batch))


# --- compositions -------------------------------------------------------------------------------


@pytest.mark.slow
def test_techniques_agree_in_any_order():
    techniques = [
        lambda t: accumulate(t, 2),
        lambda t: mixed_precision(t, "fp16"),
        lambda t: clip(t, 0.5),
        lambda t: freeze(t, "Dense_0/bias"),
    ]
    batch = make_batch(8, masked=3)
    orders = [(0, 1, 2, 3), (3, 2, 1, 0)]
    results = []
    for order in orders:
        task: Any = classifier()
        for index in order:
            task = techniques[index](task)
        results.append(take_steps(task, batch, 3)[-1])
    for other in results[1:]:
        assert_close(other.params, results[0].params)
        assert_close(other.memory, results[0].memory)


@dataclass(frozen=True)
class Whole:
    """A task with a step of its own."""

    def init(self, key, batch): ...
    def train_step(self, state, batch): ...
    def eval_step(self, state, batch): ...
    def predict_step(self, state, batch): ...


TECHNIQUES = {
    "accumulate": lambda t: accumulate(t, 2),
    "clip": lambda t: clip(t, 1.0),
    "freeze": lambda t: freeze(t, "**"),
    "freeze_except": lambda t: freeze_except(t, "**"),
    "mixed_precision": lambda t: mixed_precision(t, "bf16"),
    "penalize": lambda t: penalize(t, l2=0.1),
    "remat": remat,
    "with_ema": lambda t: with_ema(t, 0.9),
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_is_refused_with_the_reason_where_it_cannot_act(name):
    with pytest.raises(
        UsageError, match=rf"put guard_nonfinite outside, guard_nonfinite\({name}\(task"
    ):
        TECHNIQUES[name](guard_nonfinite(classifier(), "skip"))
    with pytest.raises(UsageError, match=rf"{name} needs a task that learns by gradient descent"):
        TECHNIQUES[name](Whole())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: clip(t, 0.0), "expected a positive max_norm, got 0.0"),
        (lambda t: clip(t, float("nan")), "expected a positive max_norm, got nan"),
        (lambda t: with_ema(t, 1.0), r"expected a decay in \[0, 1\), got 1.0"),
        (lambda t: with_ema(t, -0.1), r"expected a decay in \[0, 1\), got -0.1"),
        (
            lambda t: guard_nonfinite(t, cast(Any, "hope")),
            "expected one of stop, skip, raise, got 'hope'",
        ),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make(classifier())
