"""Attention in a ring against attention on one device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jaxnet.models.gpt2 import GPT2

from jaxnet import losses
from jaxnet.errors import UsageError
from jaxnet.layers import MultiHeadAttention, attention, causal_mask
from jaxnet.parallel import Layout, ring_attention
from jaxnet.training import Supervised, sequence_parallel
from tests.parallel.equality import assert_equal_steps, assert_leaves, collectives, steps

BATCH, HEADS, WIDTH = 2, 4, 6


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tokens(time, source, kv_heads=HEADS, batch=BATCH):
    """Queries, keys and values."""
    key, value = (
        draw(batch, kv_heads, source, WIDTH, seed=1),
        draw(batch, kv_heads, source, 3, seed=2),
    )
    return draw(batch, HEADS, time, WIDTH), key, value


def on_one_device(query, key, value, mask, causal):
    visible = None if mask is None else mask[:, None, None]
    if causal:
        earlier = causal_mask(query.shape[2])
        visible = earlier if visible is None else earlier & visible
    return attention(query, key, value, visible)


def with_gradients(function, *inputs):
    """The outputs, and the gradients of a sum of them in which each has a weight of its own."""

    def total(*inputs):
        out = function(*inputs)
        return jnp.sum(out * draw(*out.shape, seed=9)), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*inputs)
    return {"out": out, "grads": grads}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sequence", "data", "kv_heads", "time", "source", "causal", "masked"),
    [
        (8, 1, 4, 16, 16, False, False),
        (8, 1, 4, 16, 16, True, False),
        (4, 2, 2, 8, 8, True, True),
        (4, 2, 1, 4, 12, False, True),
        (2, 1, 4, 6, 6, True, True),
    ],
)
def test_equals_attention_on_one_device(sequence, data, kv_heads, time, source, causal, masked):
    mask = None
    if masked:
        mask = np.random.default_rng(3).random((BATCH, source)) < 0.6
        mask[0] = False  # an example that is all padding: its queries see nothing
        mask[1, 0] = False  # and where it is causal, neither does the first one here
        mask = jnp.asarray(mask)
    inputs = tokens(time, source, kv_heads)
    expected = with_gradients(lambda *x: on_one_device(*x, mask, causal), *inputs)
    with jax.set_mesh(Layout(data=data, sequence=sequence).mesh()):
        ring = functools.partial(ring_attention, mask=mask, causal=causal)
        got = with_gradients(ring, *inputs)
    assert_leaves(got, expected)
    if masked:
        assert not np.asarray(got["out"])[0].any()


@pytest.mark.slow
def test_half_precision_is_as_near_to_the_truth_as_on_one_device():
    exact = tokens(16, 16)
    truth = np.asarray(on_one_device(*exact, None, True))
    rough = [x.astype(jnp.bfloat16) for x in exact]
    mesh = Layout(sequence=8).mesh()
    got = jax.jit(lambda *x: ring_attention(*x, causal=True, mesh=mesh))(*rough)
    one = on_one_device(*rough, None, True)
    assert got.dtype == one.dtype == jnp.bfloat16
    error, usual = (np.abs(np.asarray(x, np.float32) - truth).max() for x in (got, one))
    assert error <= 1.5 * usual


@pytest.mark.slow
def test_keys_and_values_go_around_and_nothing_is_gathered():
    query, key, value = tokens(16, 16, kv_heads=2)
    mesh = Layout(sequence=8).mesh()
    lies = jax.NamedSharding(mesh, jax.P(None, None, "sequence"))
    inputs = [jax.device_put(x, lies) for x in (query, key, value)]

    def sent(function):
        return collectives(jax.jit(function).lower(*inputs).compile().as_text())

    block = [BATCH * 2 * 2 * width * 4 for width in (WIDTH, 3)]  # of keys, of values
    ring = functools.partial(ring_attention, causal=True, mesh=mesh)
    # The loop's 7 steps forward; in the loop back the gradients too, which then go home.
    assert sorted(sent(ring)) == sorted(("collective-permute", size) for size in block)
    back = sent(jax.grad(lambda *x: ring(*x).sum(), (0, 1, 2)))
    assert {kind for kind, _ in back} == {"collective-permute"}
    assert sum(size for _, size in back) == (1 + 2 + 1) * sum(block)


@pytest.mark.slow
def test_no_device_holds_all_weights_or_all_keys():
    inputs = tokens(512, 512, batch=1)
    mesh = Layout(sequence=8).mesh()
    lies = jax.NamedSharding(mesh, jax.P(None, None, "sequence"))

    def scratch(function, place=None):
        x = [jax.device_put(x, place) for x in inputs]
        grad = jax.grad(lambda *x: jnp.square(function(*x)).sum(), (0, 1, 2))
        return jax.jit(grad).lower(*x).compile().memory_analysis().temp_size_in_bytes

    whole = scratch(lambda *x: on_one_device(*x, None, True))
    assert 16 * scratch(functools.partial(ring_attention, causal=True, mesh=mesh), lies) < whole


def test_what_cannot_be_shared_out_is_refused():
    mesh = Layout(sequence=8).mesh()
    with pytest.raises(UsageError, match=r"12 queries can't be split .* sequence=8.* as 16"):
        ring_attention(*tokens(12, 12), mesh=mesh)
    with pytest.raises(UsageError, match="12 keys"):
        ring_attention(*tokens(16, 12), mesh=mesh)
    with pytest.raises(UsageError, match="as many keys as queries, got 16 and 8"):
        ring_attention(*tokens(8, 16), causal=True, mesh=mesh)


# --- the technique ------------------------------------------------------------------------------


def language_task(**options):
    model = GPT2(vocab_size=13, length=16, features=16, num_layers=1, num_heads=2, **options)
    return Supervised(model, losses.cross_entropy, optax.sgd(0.1, momentum=0.9))


def texts(rows=4, time=16):
    drawn = np.random.default_rng(0).integers(0, 13, (rows, time + 1)).astype(np.int32)
    mask = jnp.arange(rows) < rows - 1  # the last one is padding
    return {"inputs": jnp.asarray(drawn[:, :-1]), "labels": jnp.asarray(drawn[:, 1:]), "mask": mask}


@functools.cache
def expected_steps():
    return steps(language_task(dropout=0.0), texts())


@pytest.mark.slow
def test_a_language_model_learns_as_on_one_device():
    task = sequence_parallel(language_task(dropout=0.0))
    assert_equal_steps(steps(task, texts(), Layout(data=2, sequence=4)), expected_steps())


@pytest.mark.slow
def test_without_a_mesh_the_technique_changes_nothing():
    task = sequence_parallel(language_task(dropout=0.0))
    assert_equal_steps(steps(task, texts(), count=1), expected_steps()[:1])


@pytest.mark.slow
def test_weights_that_are_dropped_are_refused_by_the_name_of_the_layer():
    task = sequence_parallel(language_task(dropout=0.1))
    with pytest.raises(UsageError, match=r"stack/blocks_0/self_attention.*dropout, got 0\.1"):
        steps(task, texts(), Layout(sequence=8), count=1)


@pytest.mark.slow
def test_an_interceptor_can_take_the_place_of_all_mixing():
    """What the ring relies on: tokens meet in `mix` and nowhere else."""
    layer, x = MultiHeadAttention(8, 2, causal=True), draw(2, 5, 8)
    variables = layer.init(jax.random.key(0), x)

    def alone(call, args, kwargs, context):
        if context.method_name != "mix":
            return call(*args, **kwargs)
        query, memory, _, _, _ = args
        assert query.shape == (2, 2, 5, 4)
        return memory.value

    with nn.intercept_methods(alone):
        y = layer.apply(variables, x)
        moved = layer.apply(variables, x.at[:, 2].add(1.0))
    changed = np.abs(np.asarray(y - moved)).max(axis=(0, 2)) > 0
    assert changed.tolist() == [False, False, True, False, False]
