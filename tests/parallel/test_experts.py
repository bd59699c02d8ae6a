"""Experts on many devices against all of them on one."""

from __future__ import annotations

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxnet import losses
from jaxnet.errors import UsageError
from jaxnet.layers import (
    ExpertFeedForward,
    FeedForward,
    GatedFeedForward,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
)
from jaxnet.parallel import Layout, on_their_devices
from jaxnet.training import Supervised, accumulate, expert_parallel, mixed_precision
from tests.networks import applied, drawn, quick_starts
from tests.parallel.equality import assert_equal_steps, assert_leaves, steps
from tests.parallel.test_ring import draw, texts

EXPERTS = (("**/experts/**", ("expert",)),)


class Mixture(nn.Module):
    """A small language model whose feed-forward networks are mixtures of experts."""

    num_experts: int = 4
    top_k: int = 2
    capacity_factor: float = 1.0
    gated: bool = False
    dropout: float = 0.0
    num_layers: int = 1

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        expert = partial(GatedFeedForward if self.gated else FeedForward, 16, dropout=self.dropout)
        mixture = partial(
            ExpertFeedForward,
            expert,
            num_experts=self.num_experts,
            top_k=self.top_k,
            capacity_factor=self.capacity_factor,
            balance=0.1,
        )
        block = partial(TransformerBlock, partial(MultiHeadAttention, 8, 2, causal=True), mixture)
        x = Stack(block, self.num_layers, name="stack")(nn.Embed(13, 8)(tokens), train=train)
        return nn.Dense(13)(x)


def task(**options):
    return Supervised(Mixture(**options), losses.cross_entropy, optax.sgd(0.1, momentum=0.9))


@functools.cache
def expected(**options):
    return steps(task(**options), texts(16, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ({"expert": 4, "data": 2}, {}),
        (
            {"expert": 2, "sequence": 2, "fsdp": 2, "fsdp_min_size": 64},
            {"top_k": 1, "gated": True},
        ),
    ],
    ids=["one expert a device", "two"],
)
def test_learns_as_on_one_device(axes, options):
    got = steps(expert_parallel(task(**options)), texts(16, 8), Layout(**axes, rules=EXPERTS))
    assert_equal_steps(got, expected(**options))
    kernel = got[-1].state.params["stack"]["blocks_0"]["mlp"]["experts"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] == 4 // axes["expert"]


@pytest.mark.slow
def test_without_a_mesh_the_technique_changes_nothing():
    assert_equal_steps(steps(expert_parallel(task()), texts(16, 8), count=1), expected()[:1])


@pytest.mark.slow
def test_experts_drop_out_anew_on_each_device():
    layer = ExpertFeedForward(partial(FeedForward, 8, dropout=0.5), 2, top_k=1, capacity_factor=2.0)
    x = jnp.tile(draw(1, 4, 6), (4, 1, 1))
    variables = drawn(layer, x)
    rngs = {"dropout": jax.random.key(1)}
    with jax.set_mesh(Layout(expert=2, data=2).mesh()), nn.intercept_methods(on_their_devices()):
        y = jax.jit(lambda x: layer.apply(variables, x, True, rngs=rngs))(x)
        calm = jax.jit(lambda x: layer.apply(variables, x))(x)
    assert len({tuple(row.ravel()) for row in np.asarray(y)}) == 4
    assert_leaves({"y": calm}, {"y": applied(layer, variables, x)})


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_refused():
    for experts, rows, message in (
        (6, 16, r"stack/blocks_0/mlp: 6 experts can't .* expert=4"),
        (4, 6, "6 examples can't"),
    ):
        spread, batch = expert_parallel(task(num_experts=experts)), texts(rows, 8)
        state = jax.eval_shape(spread.init, jax.random.key(0), batch)
        with jax.set_mesh(Layout(expert=4).mesh()), pytest.raises(UsageError, match=message):
            jax.eval_shape(partial(spread.gradients, spread.objective), state, batch)


# --- the loss for the balance, in any task ------------------------------------------------------


@pytest.mark.slow
def test_the_balance_is_part_of_the_loss_and_reported_as_penalty():
    both, alone = task(), Supervised(Mixture(), losses.cross_entropy, optax.sgd(1.0))
    batch = texts(4, 8)
    with quick_starts():
        state, other = jax.jit(lambda k: (both.init(k, batch), alone.init(k, batch)))(
            jax.random.key(0)
        )
    assert not state.collections

    @jax.jit
    def computed(params, key):
        variables = {"params": params}
        loss, aux = both.objective(params, {}, batch, key)
        return loss, aux, both.network.apply(variables, batch["inputs"], True, key)

    loss, aux, (outputs, updated) = computed(state.params, jax.random.key(1))
    added = sum(jax.tree.leaves(updated["losses"]))
    assert added.shape == (4,)
    data = np.asarray(losses.cross_entropy(outputs, batch["labels"]))[:3].mean()
    penalty = np.asarray(added)[:3].mean()  # the last row is padding
    assert penalty >= 0.1 * 0.5
    np.testing.assert_allclose(loss, data + penalty, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["penalty"].compute(), penalty, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["loss"].compute(), data, rtol=1e-6)
    after, _ = jax.eval_shape(alone.train_step, other, batch)
    assert jax.tree.structure(after.collections) == jax.tree.structure({})


@pytest.mark.slow
def test_the_balance_goes_through_other_techniques():
    batch = {**texts(4, 8), "mask": jnp.ones(4, bool)}
    (plain,) = steps(task(), batch, count=1)
    (parts,) = steps_without_loss(accumulate(task(), 2), batch)
    assert_leaves(parts, plain.grads, 1e-4)
    rough = expert_parallel(mixed_precision(task(), "bf16"))
    (taken,) = steps(rough, batch, Layout(expert=2, data=2, rules=EXPERTS), count=1)
    assert_leaves({"loss": taken.loss}, {"loss": plain.loss}, 1e-2)


def steps_without_loss(task, batch):
    with quick_starts():
        state = jax.jit(task.init)(jax.random.key(0), batch)
    return [jax.jit(lambda s, b: task.gradients(task.objective, s, b)[0])(state, batch)]
