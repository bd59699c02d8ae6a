"""Augmentation as a technique, and the objective of mixed examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics
from jaxnet.data import augmentation as aug
from jaxnet.errors import UsageError
from jaxnet.training import (
    Trainer,
    accumulate,
    augment,
    clip,
    guard_nonfinite,
    mixed_precision,
    remat,
    with_ema,
)
from jaxnet.training.state import stream
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    gradients,
    images,
    make_batch,
    started,
    take_steps,
)


class Flat(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return Dense(3)(inputs.reshape(len(inputs), -1))


FLAT = classifier(Flat(), optax.sgd(0.5))
FUNCTIONS = (aug.crop(1), aug.flip_left_right(), aug.mixup(0.5))


def image_batch(n: int = 8, masked: int = 0) -> dict[str, jax.Array]:
    batch = make_batch(n, masked)
    return {**batch, "inputs": jnp.asarray(np.asarray(batch["inputs"]).reshape(n, 2, 2, 1))}


mix = jax.jit(aug.mixup(1.0))


def mixed_batch(masked: int = 0) -> dict[str, jax.Array]:
    return mix(jax.random.key(5), image_batch(8, masked))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [0, 3])
def test_the_gradient_of_the_mixed_loss_is_the_mixed_gradient(masked):
    batch = mixed_batch(masked)
    lam = np.asarray(batch.pop("lam"))
    one = {name: batch[name] for name in ("inputs", "labels", "mask")}
    parts = [
        ({**one, "weights": lam}, FLAT),
        ({**one, "labels": batch["labels_b"], "weights": 1 - lam}, FLAT),
    ]
    expected, total = None, 0.0
    for part, task in parts:
        grads, aux = gradients(task, part)
        weight = float(aux.weight)
        scaled = jax.tree.map(lambda g, w=weight: np.asarray(g) * w, grads)
        expected = scaled if expected is None else jax.tree.map(np.add, expected, scaled)
        total += weight
    got, aux = gradients(FLAT, {**batch, "lam": lam})
    assert float(aux.weight) == pytest.approx(8 - masked)
    assert_close(got, jax.tree.map(lambda g: g / total, expected))


def test_the_mixed_loss_is_that_of_mixed_class_probabilities():
    batch = mixed_batch(masked=2)
    lam, one_hot = np.asarray(batch["lam"])[:, None], np.eye(3, dtype=np.float32)
    soft = lam * one_hot[np.asarray(batch["labels"])]
    soft += (1 - lam) * one_hot[np.asarray(batch["labels_b"])]
    task = replace(FLAT, loss=losses.categorical_cross_entropy, metrics={})
    expected, expected_aux = gradients(
        task, {"inputs": batch["inputs"], "labels": soft, "mask": batch["mask"]}
    )
    got, aux = gradients(FLAT, batch)
    assert_close(got, expected)
    for name in ("total", "count"):
        assert_close(
            getattr(aux.metrics["loss"], name), getattr(expected_aux.metrics["loss"], name)
        )


def test_a_right_answer_counts_by_its_share():
    task = replace(FLAT, metrics={"accuracy": metrics.accuracy})
    batch = mixed_batch(masked=2)
    state = started(task, batch)
    step = jax.jit(lambda s, b: (task.predict_step(s, b), task.train_step(s, b)[1]))
    outputs, measured = step(state, batch)
    answers = np.asarray(outputs).argmax(axis=1)
    lam, a, b = (np.asarray(batch[name]) for name in ("lam", "labels", "labels_b"))
    expected = (lam * (answers == a) + (1 - lam) * (answers == b))[:6].mean()
    assert measured["accuracy"].compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_training_sees_augmented_batches_and_evaluation_the_plain_ones():
    task, batch = augment(FLAT, *FUNCTIONS), image_batch(masked=2)
    states = take_steps(task, batch, 2)
    by_hand = states[0]

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        key = jax.random.fold_in(stream(state.key, "augment", state.step), 0)
        return FLAT.train_step(state, aug.compose(*FUNCTIONS)(key, batch))[0]

    for state in states[1:]:
        by_hand = step(by_hand, batch)
        assert_close(state.params, by_hand.params)
    assert bits(states[1].params) != bits(take_steps(FLAT, batch, 1)[1].params)
    for function in ("eval_step", "predict_step"):
        run = jax.jit(lambda s, b, f=function: [getattr(t, f)(s, b) for t in (task, FLAT)])
        got, expected = run(states[-1], batch)
        assert bits(got) == bits(expected)


@pytest.mark.slow
def test_it_acts_on_the_whole_batch_wherever_it_stands():
    batch = image_batch(masked=3)
    expected = take_steps(augment(FLAT, *FUNCTIONS), batch, 2)[-1]
    for task in (
        augment(accumulate(FLAT, 4), *FUNCTIONS),
        accumulate(augment(FLAT, *FUNCTIONS), 4),
        clip(with_ema(remat(augment(FLAT, *FUNCTIONS)), 0.9), 1e6),
        guard_nonfinite(augment(with_ema(FLAT, 0.9), *FUNCTIONS), "skip"),
    ):
        assert_close(take_steps(task, batch, 2)[-1].params, expected.params)
    half = take_steps(mixed_precision(augment(FLAT, *FUNCTIONS), "bf16"), batch, 2)[-1]
    assert_close(half.params, expected.params, 3e-2)


def test_one_around_another_draws_for_itself():
    noise = aug.gaussian_noise(1.0)
    zeros = {**image_batch(), "inputs": np.zeros((8, 2, 2, 1), np.float32)}
    once, twice = augment(FLAT, noise), augment(with_ema(augment(FLAT, noise), 0.9), noise)
    prepare = jax.jit(lambda s, b: [t.prepare(s, b)["inputs"] for t in (once, twice)])
    inner, both = map(np.asarray, prepare(started(FLAT, zeros), zeros))
    assert abs(np.corrcoef(inner.ravel(), (both - inner).ravel())[0, 1]) < 0.5


def test_no_functions_are_no_technique():
    assert augment(FLAT) is FLAT


@pytest.mark.slow
def test_steps_draw_anew_and_a_seed_repeats_them():
    task, data = augment(FLAT, *FUNCTIONS), images(30)
    trainer = Trainer(task, steps_per_dispatch=2)
    runs = [trainer.fit(data, epochs=2, batch_size=8, seed=seed) for seed in (0, 0, 1)]
    assert bits(runs[0].state) == bits(runs[1].state)
    assert bits(runs[0].state.params) != bits(runs[2].state.params)
    # Initialisation and the training loop, once each.
    assert trainer.programs.compiles.total == 2
    assert trainer.programs.compiles.repeated() == []
    state, prepare = runs[0].state, jax.jit(task.prepare)
    prepared = [
        np.asarray(prepare(replace(state, step=np.int32(i)), image_batch())["inputs"])
        for i in (7, 7, 8)
    ]
    np.testing.assert_array_equal(prepared[0], prepared[1])
    assert (prepared[0] != prepared[2]).any()


@pytest.mark.slow
def test_a_replay_sees_the_augmented_batch():
    broken = augment(FLAT, aug.on_images(lambda key, x: x / 0.0))
    batch = {**image_batch(), "inputs": jnp.asarray(np.ones((8, 2, 2, 1), np.float32))}
    state = started(FLAT, batch)
    assert "the inputs" in broken.diagnose(state, batch)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda key, b: {**b, "inputs": b["inputs"][:, 1:]}, r"inputs to stay float32\[8, 2, 2"),
        (lambda key, b: {**b, "inputs": b["inputs"].astype(jnp.bfloat16)}, "got bfloat16"),
        (lambda key, b: {"inputs": b["inputs"], "mask": b["mask"]}, "labels to stay.*got nothing"),
    ],
)
def test_what_changes_a_shape_or_a_type_is_refused(function, message):
    with pytest.raises(UsageError, match=message):
        take_steps(augment(FLAT, function), image_batch(), 1)


def test_it_is_refused_around_a_whole_step():
    with pytest.raises(UsageError, match=r"guard_nonfinite\(augment\(task"):
        augment(guard_nonfinite(FLAT, "skip"), aug.crop(1))  # pyright: ignore
