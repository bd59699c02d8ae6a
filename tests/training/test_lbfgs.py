"""L-BFGS in `fit`: full batches and small ones, with techniques around it, and resumed."""

from __future__ import annotations

import shutil
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxnet import losses, optimizers
from jaxnet.errors import UsageError
from jaxnet.training import (
    Callback,
    Checkpoints,
    Supervised,
    Trainer,
    accumulate,
    clip,
    freeze,
    guard_nonfinite,
    mixed_precision,
    with_ema,
)
from tests.networks import Dense
from tests.training.helpers import assert_close, bits, classifier, make_batch, table, take_steps

LBFGS = optimizers.by_name("lbfgs")


class Noisy(nn.Module):
    """Batch norm and dropout: the objective changes from step to step."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.BatchNorm(use_running_average=not train)(Dense(8)(inputs))
        hidden = nn.Dropout(0.2, deterministic=not train)(nn.tanh(hidden))
        return Dense(3)(hidden)


def overlapping(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Classes that no plane separates, so that the best weights are finite."""
    inputs, labels = table(n)
    flipped = np.random.default_rng(1).integers(0, 3, n)
    return inputs, np.where(np.arange(n) % 4 == 0, flipped, labels).astype(np.int32)


@pytest.mark.slow
def test_full_batches_reach_the_optimum_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, labels = overlapping()
    theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-8, max_iter=500).fit(inputs, labels)
    task = Supervised(Dense(3), losses.cross_entropy, LBFGS)
    trainer = Trainer(task)
    result = trainer.fit((inputs, labels), epochs=30, batch_size=len(inputs))
    assert trainer.programs.compiles.repeated() == []
    expected = theirs.predict_proba(inputs)
    got = jax.nn.softmax(result.model.predict(inputs))
    np.testing.assert_allclose(got, expected, atol=2e-4)
    best = -np.log(expected[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(result.model.evaluate((inputs, labels))["loss"], best, rtol=1e-6)


@pytest.mark.slow
def test_small_batches_with_a_damped_step():
    task = guard_nonfinite(classifier(optimizer=optimizers.by_name("lbfgs", 0.3)), "raise")
    trainer = Trainer(task)
    result = trainer.fit(table(60), epochs=10, batch_size=20)
    assert result.history["loss"][-1] < 0.5 * result.history["loss"][0]
    assert trainer.programs.compiles.repeated() == []


@pytest.mark.slow
def test_the_objective_of_the_search_is_that_of_the_step():
    """The same dropout and statistics, as often as it is asked; others in the next step."""
    task, batch = classifier(Noisy(), LBFGS), make_batch(16)
    state, after = take_steps(task, batch, 1)

    @jax.jit
    def asked(state, params):
        grads, aux = task.gradients(task.objective, state, batch)
        again = jax.value_and_grad(aux.value_at)(state.params)
        return (aux.loss, grads), again, aux.value_at(params)

    first, again, searched = asked(state, after.params)
    assert_close(again, first)
    # The step went down on its own objective, which isn't that of the next step.
    assert searched < first[0]
    assert asked(after, state.params)[2] != first[0]


@pytest.mark.slow
def test_only_what_is_not_frozen_is_searched():
    batch = make_batch(16)
    task = freeze(clip(with_ema(classifier(optimizer=LBFGS), 0.5), 10.0), "Dense_0/**")
    first, *_, last = take_steps(task, batch, 4)
    assert bits(last.params["Dense_0"]) == bits(first.params["Dense_0"])
    loss = jax.jit(lambda state: task.gradients(task.objective, state, batch)[1].loss)
    assert loss(last) < 0.7 * loss(first)


@pytest.mark.parametrize(
    "technique", [lambda task: accumulate(task, 2), lambda task: mixed_precision(task, "fp16")]
)
def test_techniques_without_an_objective_of_the_step_are_refused(technique):
    with pytest.raises(UsageError, match="accumulate and fp16 have no objective"):
        Trainer(technique(classifier(optimizer=LBFGS))).fit(table(16), epochs=1, batch_size=8)


class Interrupted(BaseException):
    """What no code should catch."""


class Interrupts(Callback):
    step = 10**9

    def on_chunk(self, step: int, loss: float | None) -> None:
        if step >= self.step:
            self.step = 10**9
            raise Interrupted


@pytest.mark.slow
def test_an_interrupted_run_comes_to_the_same_bits(tmp_path):
    interrupts = Interrupts()
    trainer = Trainer(
        classifier(Dense(3), LBFGS),
        checkpoints=Checkpoints(tmp_path / "run", every_steps=2),
        callbacks=[interrupts],
        steps_per_dispatch=2,
    )

    def fit() -> Any:
        return trainer.fit(table(40), table(12, seed=1), epochs=2, batch_size=10)

    whole = fit()
    shutil.rmtree(tmp_path / "run")
    interrupts.step = 5
    with pytest.raises(Interrupted):
        fit()
    resumed = fit()
    assert bits(resumed.state) == bits(whole.state)
    assert resumed.history.rows == whole.history.rows
    assert trainer.programs.compiles.repeated() == []


@pytest.mark.slow
def test_optax_itself_works_under_strict_promotion():
    """`optax.adam` multiplies its integer count with floats."""
    states = take_steps(classifier(optimizer=optax.adam(1e-2)), make_batch(8), 2)
    same = take_steps(classifier(optimizer=optimizers.by_name("adam", 1e-2)), make_batch(8), 2)
    assert_close(states[-1].params, same[-1].params, 1e-5)
