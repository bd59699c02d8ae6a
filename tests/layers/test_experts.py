"""Mixtures of experts against a loop over tokens in float64, and what holds for all of them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import UsageError
from jaxnet.layers import ExpertFeedForward, FeedForward, GatedFeedForward, route

FEATURES = 6


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def filled(layer, x):
    """Parameters, drawn without compiling an initialisation."""
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert set(variables) == {"params"}
    return jax.tree.map(lambda p: draw(*p.shape, seed=p.size), variables)


def in_float64(params, x, top_k, capacity):
    """One example after the other: first choices in the order of the tokens, then second ones."""
    out = np.zeros(x.shape)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    up, down = p["experts"]["up"], p["experts"]["down"]
    for row in range(len(x)):
        logits = np.asarray(x[row], np.float64) @ p["router"]["kernel"]
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        choices = np.argsort(-shares, axis=-1)[:, :top_k]
        taken = np.zeros(shares.shape[-1], int)
        for rank in range(top_k):
            for token, expert in enumerate(choices[:, rank]):
                taken[expert] += 1
                if taken[expert] > capacity:
                    continue
                hidden = np.asarray(x[row, token], np.float64) @ up["kernel"][expert]
                hidden = np.maximum(hidden + up["bias"][expert], 0)
                y = hidden @ down["kernel"][expert] + down["bias"][expert]
                chosen = shares[token, choices[token]]
                weight = chosen[rank] / (chosen.sum() if top_k > 1 else 1)
                out[row, token] += weight * y
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("top_k", "factor"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_equals_a_loop_over_tokens(top_k, factor):
    expert = partial(FeedForward, 5, jax.nn.relu)
    layer = ExpertFeedForward(expert, 4, top_k=top_k, capacity_factor=factor)
    x = draw(3, 8, FEATURES)
    variables = filled(layer, x)
    for train, capacity in ((True, layer.capacity(8)), (False, 8)):
        got = jax.jit(lambda v, x, train=train: layer.apply(v, x, train))(variables, x)
        wanted = in_float64(variables["params"], x, top_k, capacity)
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_experts_start_apart_each_as_it_would_alone():
    layer = ExpertFeedForward(partial(FeedForward, 64), 4)
    params = jax.jit(layer.init)(jax.random.key(0), draw(1, 2, 32))["params"]
    kernel = np.asarray(params["experts"]["up"]["kernel"])
    assert kernel.shape == (4, 32, 64)
    assert len({tuple(each.ravel()) for each in kernel}) == 4
    # Glorot's uniform distribution for 32 and 64 channels, whatever the number of experts.
    np.testing.assert_allclose(kernel.std(axis=(1, 2)), (2 / 96) ** 0.5, rtol=0.1)


@pytest.mark.slow
def test_an_example_does_not_depend_on_others():
    layer = ExpertFeedForward(partial(GatedFeedForward, 8), 4, capacity_factor=0.5)
    x = draw(4, 8, FEATURES)
    variables = filled(layer, x)
    apply = jax.jit(lambda v, x: layer.apply(v, x, True))
    whole = apply(variables, x)
    for row in (0, 3):
        alone = apply(variables, x[row : row + 1])[0]
        np.testing.assert_allclose(whole[row], alone, atol=1e-6 * np.abs(whole).max())


@pytest.mark.slow
def test_tokens_without_a_slot_pass_by_and_later_ones_never_push_earlier_ones_out():
    logits = jnp.zeros((1, 6, 3)).at[..., 1].set(2.0)
    place = jax.jit(route, static_argnums=(1, 2))
    routing = place(logits, 1, 2)
    assert routing.dispatch.sum(axis=(0, 2, 3)).tolist() == [1, 1, 0, 0, 0, 0]
    # No slot holds two tokens.
    routing = place(draw(5, 16, 4), 2, 3)
    assert routing.dispatch.sum(axis=1).max() == 1
    assert set(np.unique(routing.dispatch)) == {0.0, 1.0}


@pytest.mark.parametrize("causal", [True, False])
def test_only_causal_routing_is_blind_to_later_tokens(causal):
    layer = ExpertFeedForward(partial(FeedForward, 5), 4, capacity_factor=0.5, causal=causal)
    x, other = draw(8, 8, FEATURES), draw(8, 8, FEATURES, seed=1)
    variables = filled(layer, x)
    apply = jax.jit(lambda v, x: layer.apply(v, x, True))
    whole, changed = apply(variables, x), apply(variables, x.at[:, 4:].set(other[:, 4:]))
    assert bool((whole[:, :4] == changed[:, :4]).all()) == causal


def test_the_balance_is_least_where_shares_are_equal():
    even = jnp.log(jnp.full((1, 4, 4), 0.1) + 0.6 * jnp.eye(4)[None])
    one = jnp.zeros((1, 4, 4)).at[..., 0].set(50.0)
    balance = jax.jit(lambda logits: route(logits, 1, 4).balance)
    assert balance(jnp.concatenate([even, one])) == pytest.approx([1, 4])


@pytest.mark.slow
def test_its_gradient_evens_the_shares_out():
    x = draw(1, 32, FEATURES) + 1
    layer = ExpertFeedForward(partial(FeedForward, 4), 4, balance=1.0)
    params = filled(layer, x)["params"]

    @jax.jit
    def balance(params):
        _, sown = layer.apply({"params": params}, x, True, mutable=["losses"])
        return sown["losses"]["balance"][0].sum()

    def step(_, params):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(balance)(params))

    trained = jax.jit(lambda p: jax.lax.fori_loop(0, 200, step, p))(params)
    assert float(balance(trained)) < 1.1 < float(balance(params))


@pytest.mark.slow
def test_tokens_may_stand_alone():
    layer = ExpertFeedForward(partial(FeedForward, 4), 4)
    x = draw(5, FEATURES)
    variables = filled(layer, x)
    train = jax.jit(lambda v, x: layer.apply(v, x, True, mutable=["losses"]))
    y, sown = train(variables, x)
    together, _ = train(variables, x[:, None])
    np.testing.assert_allclose(y, together[:, 0], atol=1e-6)
    assert sown["losses"]["balance"][0].shape == (5,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k from 1 to num_experts=4, got 5"),
        ({"capacity_factor": 0.0}, "positive capacity_factor"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ExpertFeedForward(partial(FeedForward, 4), 4, **options).init(
            jax.random.key(0), draw(1, 2, 3)
        )
