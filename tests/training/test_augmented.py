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
from tests.training.helpers import assert_close, bits, classifier, images, make_batch, take_steps


class Flat(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return Dense(3)(inputs.reshape(len(inputs), -1))


FLAT = classifier(Flat(), optax.sgd(0.5))
FUNCTIONS = (aug.crop(1), aug.flip_left_right(), aug.mixup(0.5))


def image_batch(n: int = 8, masked: int = 0) -> dict[str, jax.Array]:
    batch = make_batch(n, masked)
    return {**batch, "inputs": batch["inputs"].reshape(n, 2, 2, 1)}


def mixed_batch(masked: int = 0) -> dict[str, jax.Array]:
    return aug.mixup(1.0)(jax.random.key(5), image_batch(8, masked))


def gradients(task: Any, batch: Any) -> Any:
    state = task.init(jax.random.key(0), batch)
    return jax.jit(lambda s, b: task.gradients(task.objective, s, b))(state, batch)


@pytest.mark.parametrize("masked", [0, 3])
def test_the_gradient_of_the_mixed_loss_is_the_mixed_gradient(masked):
    batch = mixed_batch(masked)
    lam = batch.pop("lam")
    one = {name: batch[name] for name in ("inputs", "labels", "mask")}
    parts = [
        ({**one, "weights": lam}, FLAT),
        ({**one, "labels": batch["labels_b"], "weights": 1 - lam}, FLAT),
    ]
    expected, total = None, 0.0
    for part, task in parts:
        grads, aux = gradients(task, part)
        scaled = jax.tree.map(lambda g, w=aux.weight: g * w, grads)
        expected = scaled if expected is None else jax.tree.map(jnp.add, expected, scaled)
        total += float(aux.weight)
    got, aux = gradients(FLAT, {**batch, "lam": lam})
    assert float(aux.weight) == pytest.approx(8 - masked)
    assert_close(got, jax.tree.map(lambda g: g / total, expected))


def test_the_mixed_loss_is_that_of_mixed_class_probabilities():
    batch = mixed_batch(masked=2)
    lam = batch["lam"][:, None]
    soft = lam * jax.nn.one_hot(batch["labels"], 3) + (1 - lam) * jax.nn.one_hot(
        batch["labels_b"], 3
    )
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
    state = task.init(jax.random.key(0), batch)
    answers = np.asarray(task.predict_step(state, batch).argmax(axis=1))
    lam, a, b = (np.asarray(batch[name]) for name in ("lam", "labels", "labels_b"))
    expected = (lam * (answers == a) + (1 - lam) * (answers == b))[:6].mean()
    _, measured = task.train_step(state, batch)
    assert measured["accuracy"].compute() == pytest.approx(expected, rel=1e-6)


def test_training_sees_augmented_batches_and_evaluation_the_plain_ones():
    task, batch = augment(FLAT, *FUNCTIONS), image_batch(masked=2)
    states = take_steps(task, batch, 2)
    by_hand = states[0]
    step = jax.jit(FLAT.train_step)
    for state in states[1:]:
        key = jax.random.fold_in(stream(by_hand.key, "augment", by_hand.step), 0)
        by_hand, _ = step(by_hand, aug.compose(*FUNCTIONS)(key, batch))
        assert_close(state.params, by_hand.params)
    assert bits(states[1].params) != bits(take_steps(FLAT, batch, 1)[1].params)
    for function in ("eval_step", "predict_step"):
        got, expected = (getattr(t, function)(states[-1], batch) for t in (task, FLAT))
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
    zeros = {**image_batch(), "inputs": jnp.zeros((8, 2, 2, 1))}
    once, twice = augment(FLAT, noise), augment(with_ema(augment(FLAT, noise), 0.9), noise)
    state = FLAT.init(jax.random.key(0), zeros)
    inner = np.asarray(once.prepare(state, zeros)["inputs"])
    both = np.asarray(twice.prepare(state, zeros)["inputs"])
    assert abs(np.corrcoef(inner.ravel(), (both - inner).ravel())[0, 1]) < 0.5


def test_no_functions_are_no_technique():
    assert augment(FLAT) is FLAT


def test_steps_draw_anew_and_a_seed_repeats_them():
    task, data = augment(FLAT, *FUNCTIONS), images(30)
    trainer = Trainer(task, steps_per_dispatch=2)
    runs = [trainer.fit(data, epochs=2, batch_size=8, seed=seed) for seed in (0, 0, 1)]
    assert bits(runs[0].state) == bits(runs[1].state)
    assert bits(runs[0].state.params) != bits(runs[2].state.params)
    # Initialisation and the training loop, once each.
    assert trainer.programs.compiles.total == 2
    assert trainer.programs.compiles.repeated() == []
    state = runs[0].state
    prepared = [
        np.asarray(task.prepare(replace(state, step=state.step + i), image_batch())["inputs"])
        for i in (0, 0, 1)
    ]
    np.testing.assert_array_equal(prepared[0], prepared[1])
    assert (prepared[0] != prepared[2]).any()


def test_a_replay_sees_the_augmented_batch():
    broken = augment(FLAT, aug.on_images(lambda key, x: x / 0.0))
    batch = {**image_batch(), "inputs": jnp.ones((8, 2, 2, 1))}
    state = broken.init(jax.random.key(0), batch)
    assert "the inputs" in broken.diagnose(state, batch)
    assert "the inputs" not in FLAT.diagnose(state, batch)


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
