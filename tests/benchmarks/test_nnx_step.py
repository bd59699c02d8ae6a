from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import nnx_step
from benchmarks.nnx_step import LINEN, LOOP, NNX, Case, LinenMLP, NnxMLP

CASE = Case((5, 3), 4, inputs=6)


def test_the_contenders_are_the_same_network():
    linen = LinenMLP(CASE.hidden).init(jax.random.key(0), jnp.ones((4, 6)))
    other = nnx.state(NnxMLP(6, CASE.hidden, nnx.Rngs(0)), nnx.Any(nnx.Param, nnx.BatchStat))

    def shapes(tree):
        return sorted(leaf.shape for leaf in jax.tree.leaves(tree))

    assert shapes(linen) == shapes(other)


@pytest.mark.slow
def test_each_contender_learns_and_is_timed_in_each_round(monkeypatch):
    monkeypatch.setattr(nnx_step, "SECONDS", 0.0)
    for step in nnx_step.steps(CASE).values():
        first, *_, last = [float(step()) for _ in range(150)]
        assert last < first
    seconds = nnx_step.measure(CASE, rounds=2)
    assert list(seconds) == [LINEN, NNX, LOOP]
    assert all(len(each) == 2 for each in seconds.values())
    np.testing.assert_allclose(nnx_step.ratios(seconds, LINEN), 1.0)
