"""Blocks against PyTorch's, and caches against plain calls."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet.errors import UsageError
from jaxnet.layers import (
    DecoderBlock,
    FeedForward,
    GatedFeedForward,
    KeyValues,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
)
from tests.networks import applied, drawn

from .test_attention import close, draw, torch_parameters

WIDTH, HEADS, HIDDEN = 16, 4, 20
PARTS = {
    "attention": partial(MultiHeadAttention, WIDTH, HEADS),
    "feed_forward": partial(FeedForward, HIDDEN),
    "norm": partial(nn.LayerNorm, epsilon=1e-5),
}


def dense(layer):
    return {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}


def norm(layer):
    return {"scale": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}


def from_torch(theirs):
    params = {
        "self_attention": torch_parameters(theirs.self_attn)["params"],
        "self_attention_norm": norm(theirs.norm1),
        "mlp": {"up": dense(theirs.linear1), "down": dense(theirs.linear2)},
        "mlp_norm": norm(theirs.norm2),
    }
    if hasattr(theirs, "multihead_attn"):
        params["cross_attention"] = torch_parameters(theirs.multihead_attn)["params"]
        params["cross_attention_norm"], params["mlp_norm"] = norm(theirs.norm2), norm(theirs.norm3)
    return {"params": jax.tree.map(jnp.asarray, params)}


def randomized(torch, layer):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("pre_norm", [True, False], ids=["before", "after"])
def test_equal_torch(pre_norm):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    options = {"batch_first": True, "activation": "gelu", "norm_first": pre_norm, "dropout": 0.0}
    sizes = (WIDTH, HEADS, HIDDEN)
    x, memory = draw(2, 5, WIDTH), draw(2, 7, WIDTH, seed=1)
    tx, tm = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(memory))
    mask = jnp.arange(5)[None] < jnp.array([[5], [3]])
    memory_mask = jnp.arange(7)[None] < jnp.array([[4], [7]])

    theirs = randomized(torch, torch.nn.TransformerEncoderLayer(*sizes, **options))
    block = TransformerBlock(**PARTS, pre_norm=pre_norm)
    want = theirs(tx, src_key_padding_mask=torch.tensor(~np.asarray(mask))).detach().numpy()
    close(applied(block, from_torch(theirs), x, mask), want)

    theirs = randomized(torch, torch.nn.TransformerDecoderLayer(*sizes, **options))
    block = DecoderBlock(**PARTS, pre_norm=pre_norm)
    want = theirs(
        tx,
        tm,
        tgt_mask=torch.tensor(~np.tri(5, dtype=bool)),
        memory_key_padding_mask=torch.tensor(~np.asarray(memory_mask)),
    )
    got = applied(block, from_torch(theirs), x, memory, memory_mask=memory_mask)
    close(got, want.detach().numpy())


def test_a_gate_multiplies_hidden_units():
    layer, x = GatedFeedForward(HIDDEN, jnp.tanh, use_bias=False), draw(2, 3, WIDTH)
    variables = drawn(layer, x)
    gate, up, down = (
        np.asarray(variables["params"][name]["kernel"], np.float64)
        for name in ("gate", "up", "down")
    )
    x64 = np.asarray(x, np.float64)
    close(applied(layer, variables, x), np.tanh(x64 @ gate) * (x64 @ up) @ down)


@pytest.mark.slow
def test_a_stack_with_a_cache_is_the_same_token_by_token():
    attention = partial(MultiHeadAttention, WIDTH, HEADS, causal=True)
    stack = Stack(partial(TransformerBlock, **{**PARTS, "attention": attention}), 2)
    x = draw(2, 4, WIDTH)
    variables = drawn(stack, x)
    assert sorted(variables["params"]) == ["blocks_0", "blocks_1"]
    cache = (KeyValues.empty(2, HEADS, 4, WIDTH // HEADS),) * 2
    pieces = []
    for t in range(4):
        positions = np.full((2, 1), t, np.int32)
        y, cache = applied(
            stack, variables, np.asarray(x)[:, t : t + 1], positions=positions, cache=cache
        )
        pieces.append(y)
    close(np.concatenate(pieces, axis=1), applied(stack, variables, x))


@pytest.mark.slow
def test_a_decoder_block_with_a_cache_is_the_same_token_by_token():
    block, x, memory = DecoderBlock(**PARTS), draw(2, 4, WIDTH), draw(2, 6, WIDTH, seed=1)
    memory_mask = jnp.arange(6)[None] < jnp.array([[6], [4]])
    variables = drawn(block, x, memory)
    whole = applied(block, variables, x, memory, memory_mask=memory_mask)
    cache = block.apply(variables, memory, 4, method="start")
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {2}
    pieces = []
    for t in range(4):
        y, cache = applied(
            block,
            variables,
            np.asarray(x)[:, t : t + 1],
            memory_mask=memory_mask,
            positions=np.full((2, 1), t, np.int32),
            cache=cache,
        )
        pieces.append(y)
    close(np.concatenate(pieces, axis=1), whole)


def test_a_decoder_block_needs_one_memory():
    block, x, memory = DecoderBlock(**PARTS), draw(2, 4, WIDTH), draw(2, 6, WIDTH, seed=1)
    with pytest.raises(UsageError, match="as memory or in a cache, got neither"):
        block.init(jax.random.key(0), x)
    variables = jax.eval_shape(block.init, jax.random.key(0), x, memory)
    cache = jax.eval_shape(lambda v: block.apply(v, memory, 4, method="start"), variables)
    with pytest.raises(UsageError, match="in a cache, got both"):
        jax.eval_shape(lambda v, c: block.apply(v, x, memory, cache=c), variables, cache)


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    block = TransformerBlock(**PARTS, dropout=0.5)
    x = draw(2, 3, WIDTH)
    variables = drawn(block, x)
    plain = applied(TransformerBlock(**PARTS), variables, x)
    np.testing.assert_array_equal(applied(block, variables, x), plain)
    trained = applied(block, variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(trained, plain)
