"""Parameter averaging: replicas against runs by themselves, and against one large batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.app.technique_options import Techniques
from jaxnet.errors import UsageError
from jaxnet.training import (
    augment,
    guard_nonfinite,
    local_sgd,
    reduce_on_plateau,
    with_ema,
)
from jaxnet.training.plateau import ReduceOnPlateau
from jaxnet.training.techniques.local_sgd import averaged
from tests.training.helpers import (
    MLP,
    assert_close,
    classifier,
    compiled,
    make_batch,
    started,
    take_steps,
)

PLAIN = classifier(optimizer=optax.sgd(0.1))


@pytest.mark.parametrize("masked", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_with_a_period_of_1_it_is_training_on_the_whole_batch(masked):
    batch = make_batch(8, masked=masked)  # with 3, one replica of 4 gets 1 example and one none
    expected = take_steps(PLAIN, batch, 3)
    task = local_sgd(PLAIN, 4, period=1)
    for got, wanted in zip(take_steps(task, batch, 3), expected, strict=True):
        assert_close(averaged(got).params, wanted.params)
        for leaf in map(np.asarray, jax.tree.leaves(got.params)):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    _, metrics = compiled(task).train_step(started(task, batch), batch)
    _, wanted = compiled(PLAIN).train_step(expected[0], batch)
    assert_close(metrics, wanted)


@pytest.mark.slow
def test_replicas_learn_by_themselves_until_they_meet():
    momentum = classifier(optimizer=optax.sgd(0.1, momentum=0.9))
    batch, task = make_batch(8), local_sgd(momentum, 2, period=3)
    states = take_steps(task, batch, 3)
    columns = {name: np.asarray(x) for name, x in batch.items()}
    halves = [{name: x[rows] for name, x in columns.items()} for rows in (slice(4), slice(4, 8))]
    alone = [take_steps(momentum, half, 3) for half in halves]
    for replica in range(2):
        own = jax.tree.map(lambda x, r=replica: np.asarray(x)[r], states[2].params)
        assert_close(own, alone[replica][2].params)
    last = [jax.tree.map(np.asarray, states[3].params) for states in alone]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *last)
    for replica in range(2):
        own = jax.tree.map(lambda x, r=replica: np.asarray(x)[r], states[3].params)
        assert_close(own, mean)
        # What the optimizer remembers stays each one's own.
        trace = jax.tree.map(lambda x, r=replica: np.asarray(x)[r], states[3].opt_state)
        assert_close(trace, alone[replica][3].opt_state)
    assert_close(averaged(states[3]).params, mean)


@pytest.mark.slow
def test_evaluation_and_what_comes_of_it_take_the_average():
    batch, task = make_batch(8), local_sgd(PLAIN, 2, period=100)
    state = take_steps(task, batch, 3)[-1]
    mean = jax.tree.map(lambda x: np.asarray(x).mean(axis=0), state.params)
    whole = started(PLAIN, batch).replace(params=mean)
    got, expected = (
        jax.jit(lambda s, b, t=t: (t.eval_step(s, b), t.predict_step(s, b)))(of, batch)
        for t, of in ((task, state), (PLAIN, whole))
    )
    assert_close(got, expected)
    assert_close(task.inference(state).variables["params"], mean)
    apart = jax.tree.map(lambda x: np.abs(np.subtract(*np.asarray(x))).max(), state.params)
    assert min(jax.tree.leaves(apart)) > 0


@pytest.mark.slow
def test_each_replica_draws_by_itself():
    def noise(key, batch):
        return {**batch, "inputs": batch["inputs"] + jax.random.normal(key, batch["inputs"].shape)}

    half = make_batch(4)
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), half)
    for task, same in ((PLAIN, True), (augment(PLAIN, noise), False)):
        state = take_steps(local_sgd(task, 2, period=9), batch, 1)[-1]
        leaf = jax.tree.leaves(state.params)[0]
        assert bool((leaf[0] == leaf[1]).all()) == same


@pytest.mark.slow
def test_what_an_evaluation_changes_it_changes_in_every_replica():
    rule = ReduceOnPlateau(monitor="val_loss", factor=0.5, patience=0)
    task = local_sgd(reduce_on_plateau(PLAIN, rule), 2, period=4)
    batch = make_batch(8)
    state = take_steps(task, batch, 1)[-1]
    for _ in range(2):
        row = {"val_loss": jnp.float32(1.0)}
        after = task.after_evaluation(state, row)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        state = after
    _, metrics = jax.jit(task.train_step)(state, batch)
    assert metrics["learning_rate_scale"].compute() == 0.5
    assert local_sgd(PLAIN, 2).after_evaluation is None


@pytest.mark.slow
def test_moving_averages_and_guards_go_along():
    task = guard_nonfinite(local_sgd(with_ema(PLAIN, 0.5), 2, period=2), "skip")
    batch = make_batch(8)
    states = take_steps(task, batch, 2)
    ema = states[2].memory["ema"].values["params"]
    for leaf in jax.tree.leaves(ema):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert_close(task.inference(states[2]).variables["params"], jax.tree.map(lambda x: x[0], ema))
    bad = {**batch, "inputs": batch["inputs"].at[0, 0].set(jnp.nan)}
    after, metrics = jax.jit(task.train_step)(states[2], bad)
    assert metrics["skipped_steps"] == 1
    assert_close(after.params, states[2].params, 0)


def test_the_recipe_has_it():
    task = Techniques(local_sgd_replicas=2, local_sgd_period=5, nonfinite="ignore").apply(PLAIN)
    assert task == local_sgd(PLAIN, 2, 5)
    assert Techniques(nonfinite="ignore").apply(PLAIN) == PLAIN


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="positive numbers, got replicas=0, period=16"):
        local_sgd(PLAIN, 0)
    with pytest.raises(UsageError, match=r"put guard_nonfinite outside"):
        local_sgd(guard_nonfinite(PLAIN, "stop"), 2)
    with pytest.raises(UsageError, match=r"put local_sgd outside, local_sgd\(with_ema"):
        with_ema(local_sgd(PLAIN, 2), 0.9)
    with pytest.raises(UsageError, match="local_sgd: a batch of 8 can't be cut into 3 equal parts"):
        local_sgd(classifier(MLP()), 3).init(jax.random.key(0), make_batch(8))
