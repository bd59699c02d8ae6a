"""Attention against NumPy in float64 and PyTorch, and what holds for all of it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError, UsageError
from jaxnet.layers import KeyValues, MultiHeadAttention, attention, causal_mask, token_positions
from tests.networks import applied, drawn

BATCH, TIME, SOURCE, WIDTH, HEADS = 2, 5, 7, 16, 4


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def attention_in_float64(query, key, value, mask):
    """One row, head and query at a time, as the formula has it."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, heads, time, features = query.shape
    out = np.zeros((batch, heads, time, value.shape[-1]))
    mask = np.broadcast_to(mask, (batch, heads, time, key.shape[2]))
    for b, h, t in np.ndindex(batch, heads, time):
        shared = h // (heads // key.shape[1])
        seen = mask[b, h, t]
        if seen.any():
            scores = np.exp(key[b, shared, seen] @ query[b, h, t] / np.sqrt(features))
            out[b, h, t] = scores / scores.sum() @ value[b, shared, seen]
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_equals_the_formula_in_float64(kv_heads):
    query = draw(BATCH, 4, TIME, 6)
    key, value = draw(BATCH, kv_heads, SOURCE, 6, seed=1), draw(BATCH, kv_heads, SOURCE, 3, seed=2)
    mask = np.random.default_rng(3).random((BATCH, 1, TIME, SOURCE)) < 0.6
    mask[1, 0, 2] = False  # a query that sees nothing
    got = jax.jit(attention)(query, key, value, jnp.asarray(mask))
    close(got, attention_in_float64(query, key, value, mask))
    assert not np.asarray(got)[1, :, 2].any()


def test_a_query_that_sees_nothing_gives_no_nan_in_the_gradient():
    query, key, value = draw(1, 1, 2, 4), draw(1, 1, 3, 4, seed=1), draw(1, 1, 3, 4, seed=2)
    mask = jnp.array([[[[False] * 3, [True] * 3]]])
    gradient = jax.jit(jax.grad(lambda *a: attention(*a, mask).sum(), (0, 1, 2)))
    grads = gradient(query, key, value)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert not np.asarray(grads[0])[0, 0, 0].any() and np.asarray(grads[0])[0, 0, 1].any()


def torch_parameters(theirs):
    """Ours from those of `torch.nn.MultiheadAttention`."""
    named = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    params = {"out": {"kernel": named["out_proj.weight"].T, "bias": named["out_proj.bias"]}}
    kernels = np.split(named["in_proj_weight"], 3)
    biases = np.split(named["in_proj_bias"], 3)
    for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
        params[name] = {"kernel": kernel.T, "bias": bias}
    return {"params": jax.tree.map(jnp.asarray, params)}


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_equals_torch(kind):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    ours = MultiHeadAttention(WIDTH, HEADS, causal=kind == "causal")
    x = draw(BATCH, SOURCE, WIDTH)
    context = draw(BATCH, SOURCE, WIDTH, seed=1) if kind == "cross" else x
    mask = jnp.asarray(np.arange(SOURCE)[None] < np.array([[SOURCE], [SOURCE - 3]]))
    variables = torch_parameters(theirs)

    def scalar(x, context):
        given = context if kind == "cross" else None
        y, state = ours.apply(variables, x, given, mask=mask, mutable=["intermediates"])
        return (y * jnp.sin(y)).sum(), (y, state["intermediates"]["weights"][0])

    gradient = jax.jit(jax.grad(scalar, (0, 1), has_aux=True))
    (d_x, d_context), (y, weights) = gradient(x, context)
    tx = torch.tensor(np.asarray(x), requires_grad=True)
    tc = torch.tensor(np.asarray(context), requires_grad=True) if kind == "cross" else tx
    t_y, t_weights = theirs(
        tx,
        tc,
        tc,
        key_padding_mask=torch.tensor(~np.asarray(mask)),
        attn_mask=torch.tensor(~np.tri(SOURCE, dtype=bool)) if kind == "causal" else None,
        average_attn_weights=False,
    )
    (t_y * t_y.sin()).sum().backward()
    close(y, t_y.detach().numpy())
    close(weights, t_weights.detach().numpy())
    close(d_x, tx.grad.numpy())
    if kind == "cross":
        close(d_context, tc.grad.numpy())


@pytest.mark.slow
def test_a_later_token_never_changes_an_earlier_output():
    layer, x = MultiHeadAttention(WIDTH, HEADS, causal=True, rotary_base=1e4), draw(1, TIME, WIDTH)
    variables = drawn(layer, x)
    jacobian = jax.jit(jax.jacobian(lambda x: layer.apply(variables, x)[0].sum(axis=-1)))(x)
    reached = np.abs(np.asarray(jacobian)[:, 0]).sum(axis=-1) > 0
    np.testing.assert_array_equal(reached, np.tri(TIME, dtype=bool))


def test_padding_never_changes_a_result():
    layer, x = MultiHeadAttention(WIDTH, HEADS), draw(1, SOURCE, WIDTH)
    variables = drawn(layer, x)
    mask = np.arange(SOURCE)[None] < 4
    junk = np.where(mask[..., None], x, 1e6)
    got = applied(layer, variables, junk, mask=mask)
    close(np.asarray(got)[:, :4], applied(layer, variables, np.asarray(x)[:, :4]), 1e-6)


def test_grouped_queries_with_all_heads_are_the_plain_ones():
    x = draw(BATCH, TIME, WIDTH)
    plain, grouped = MultiHeadAttention(WIDTH, 4), MultiHeadAttention(WIDTH, 4, num_kv_heads=2)
    variables = drawn(grouped, x)
    every = MultiHeadAttention(WIDTH, 4, num_kv_heads=4)
    full = drawn(plain, x)
    np.testing.assert_array_equal(applied(every, full, x), applied(plain, full, x))

    def repeated(path, leaf):
        if path[1].key not in ("key", "value"):
            return leaf
        heads = np.reshape(leaf, (*leaf.shape[:-1], 2, WIDTH // 4))
        return np.repeat(heads, 2, axis=-2).reshape(*leaf.shape[:-1], WIDTH)

    wide = jax.tree_util.tree_map_with_path(repeated, variables)
    assert variables["params"]["key"]["kernel"].shape == (WIDTH, WIDTH // 2)
    close(applied(grouped, variables, x), applied(plain, wide, x), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_with_a_cache_all_is_the_same(kv_heads):
    layer = MultiHeadAttention(WIDTH, 4, num_kv_heads=kv_heads, causal=True, rotary_base=1e4)
    x = draw(BATCH, TIME, WIDTH)
    variables = drawn(layer, x)
    cache, pieces, start = KeyValues.empty(BATCH, kv_heads, 8, WIDTH // 4), [], 0
    for size in (2, 2, 1):
        positions = np.tile(np.arange(start, start + size, dtype=np.int32), (BATCH, 1))
        part = np.asarray(x)[:, start : start + size]
        y, cache = applied(layer, variables, part, positions=positions, cache=cache)
        pieces.append(y)
        start += size
    close(np.concatenate(pieces, axis=1), applied(layer, variables, x))


@pytest.mark.slow
def test_padding_on_the_left_leaves_no_trace_in_a_cache():
    layer = MultiHeadAttention(WIDTH, HEADS, causal=True, rotary_base=1e4)
    x = np.asarray(draw(BATCH, TIME, WIDTH))
    variables = drawn(layer, x)
    mask = jnp.array([[False, False, True, True, True], [True] * 5])
    start = KeyValues.empty(BATCH, HEADS, TIME, WIDTH // HEADS)
    y, cache = applied(layer, variables, x, positions=token_positions(mask), cache=start)
    assert np.isfinite(y).all()
    y = np.asarray(y)
    close(y[:1, 2:], applied(layer, variables, x[:1, 2:]))
    close(y[1:], applied(layer, variables, x[1:]))
    assert not np.asarray(cache.key)[0, :, 3:].any()


def test_keys_and_values_can_be_made_before():
    layer, x, context = MultiHeadAttention(WIDTH, HEADS), draw(2, 3, WIDTH), draw(2, 6, 8, seed=1)
    variables = drawn(layer, x, context)
    before = applied(layer, variables, context, method="keys_values")
    np.testing.assert_array_equal(
        applied(layer, variables, x, before), applied(layer, variables, x, context)
    )


@pytest.mark.slow
def test_dropout_acts_on_weights_in_training_only():
    x = draw(BATCH, TIME, WIDTH)
    layer, plain = MultiHeadAttention(WIDTH, HEADS, dropout=0.5), MultiHeadAttention(WIDTH, HEADS)
    variables = drawn(layer, x)
    trained = applied(layer, variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(applied(layer, variables, x), applied(plain, variables, x))
    assert not np.allclose(trained, applied(plain, variables, x))


def test_scores_and_softmax_are_float32():
    # In bfloat16 scores of 1024 and 1025 would be the same number.
    query = np.ones((1, 1, 1, 4), jnp.bfloat16)
    key = np.array([[[[512.0, 512.0, 512.0, 0.0], [512.0, 512.0, 512.0, 2.0]]]], jnp.bfloat16)
    value = np.array([[[[0.0], [1.0]]]], jnp.bfloat16)
    got = jax.jit(attention)(query, key, value)
    assert got.dtype == jnp.bfloat16
    assert float(got[0, 0, 0, 0]) == pytest.approx(1 / (1 + np.exp(-1)), rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": 10}, "features that num_heads=4 divides, got 10"),
        ({"num_kv_heads": 3}, "num_kv_heads to divide num_heads=4, got 3"),
        ({"num_heads": 0}, "num_heads of at least 1, got 0"),
        ({"num_kv_heads": 0}, "num_kv_heads of at least 1, got 0"),
        ({"head_dim": 0}, "head_dim of at least 1, got 0"),
        ({"features": 0}, "features of at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, words):
    layer = MultiHeadAttention(**{"features": 12, "num_heads": 4, **options})
    with pytest.raises(UsageError, match=words):
        jax.eval_shape(layer.init, jax.random.key(0), np.zeros((1, 2, 12), np.float32))


def test_wrong_calls_are_refused():
    layer, x = MultiHeadAttention(12, 4, causal=True), np.zeros((2, 3, 12), np.float32)
    call, mask = partial(jax.eval_shape, layer.apply, drawn(layer, x), x), np.ones((2, 3), bool)
    with pytest.raises(InputError, match=r"bool \(batch, source\) \(2, 3\).*got bool \(2, 4\)"):
        call(mask=np.ones((2, 4), bool))
    cache, positions = KeyValues.empty(2, 4, 2, 3), np.tile(np.arange(3), (2, 1))
    with pytest.raises(InputError, match=r"at most 2 tokens.*got 3"):
        call(cache=cache, positions=positions)
    with pytest.raises(UsageError, match="causal=True, and the positions"):
        call(cache=cache)
    some = {"cache": KeyValues.empty(2, 4, 3, 3), "positions": positions}
    for besides in ({"mask": mask}, {"context": x}):
        with pytest.raises(UsageError, match=r"leave out the context, .* position -1"):
            call(**some, **besides)
    with pytest.raises(InputError, match=r"4 heads of queries.*3 heads"):
        attention(draw(1, 4, 2, 2), draw(1, 3, 2, 2), draw(1, 3, 2, 2))
    assert causal_mask(3).sum() == 6
