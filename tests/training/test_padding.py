"""Batches, or parts of them, in which nothing counts: they must not move anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import optimizers
from jaxnet.training import accumulate, local_sgd, log_norms, mixed_precision, penalize, with_ema
from tests.training.helpers import assert_close, bits, classifier, make_batch
from tests.training.test_ema import Counted

ADAMW = optimizers.by_name("adamw", 0.01, weight_decay=0.1)
PLAIN = classifier(Counted(), ADAMW)


def nothing_counts(how: str) -> dict[str, jax.Array]:
    batch = make_batch(8)
    if how == "padding":
        return {**batch, "mask": jnp.zeros(8, bool), "weights": jnp.ones(8)}
    return {**batch, "weights": jnp.zeros(8)}


@pytest.mark.slow
def test_a_step_in_which_nothing_counts_changes_nothing_but_the_step():
    task = penalize(mixed_precision(PLAIN, "fp16"), l2=0.1)
    task = with_ema(log_norms(accumulate(task, 2)), 0.9)
    batch = {**make_batch(8), "weights": jnp.ones(8)}
    train_step = jax.jit(task.train_step)
    before, _ = train_step(jax.jit(task.init)(jax.random.key(0), batch), batch)
    for how in ("padding", "weights of 0"):
        after, metrics = train_step(before, nothing_counts(how))
        assert bits(after) == bits(replace(before, step=before.step + 1)), how
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))
        for name, value in metrics.items():
            assert float(value.count) == 0, name
    after, _ = train_step(before, batch)  # and a step in which something does
    assert bits(after.params) != bits(before.params)


@pytest.mark.slow
def test_parts_that_are_all_padding_tell_running_statistics_nothing():
    whole = {**make_batch(8), "mask": jnp.arange(8) < 4}
    half = {name: column[:4] for name, column in whole.items()}
    task = accumulate(PLAIN, 2)
    state = jax.jit(PLAIN.init)(jax.random.key(0), half)
    got, _ = jax.jit(task.train_step)(state, whole)
    expected, _ = jax.jit(PLAIN.train_step)(state, half)
    assert_close(got.params, expected.params)
    assert_close(got.collections, expected.collections)


@pytest.mark.slow
def test_a_replica_whose_part_is_all_padding_takes_no_step():
    task = local_sgd(with_ema(PLAIN, 0.9), 4, period=9)
    full, padded = make_batch(8), make_batch(8, masked=3)  # 2 + 2 + 1 + 0 examples
    train_step = jax.jit(task.train_step)
    before, _ = train_step(jax.jit(task.init)(jax.random.key(0), full), full)
    after, _ = train_step(before, padded)

    def own(state: Any, replica: int) -> Any:
        parts = (state.params, state.opt_state, state.collections, state.memory["ema"])
        return bits(jax.tree.map(lambda x: x[replica], parts))

    assert own(after, 3) == own(before, 3)
    for replica in range(3):
        assert own(after, replica) != own(before, replica)
    assert int(after.step) == 2
