"""GPT-2 and Llama: what comes later, padding and the cache change nothing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import module_json
from jaxnet.errors import InputError
from jaxnet.models import GPT2, Llama, gpt2, llama
from tests.networks import applied, drawn

from .parity import close

VOCAB, TIME = 19, 6
MODELS = {
    "gpt2": GPT2(VOCAB, 12, 16, 2, 4),
    "llama": Llama(VOCAB, 16, 2, 4, 24, num_kv_heads=2),
    "experts": GPT2(VOCAB, 12, 16, 2, 4, num_experts=4),
}
every_model = pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, id=name, marks=pytest.mark.slow if name == "experts" else ())
        for name, model in MODELS.items()
    ],
)
TOKENS = np.random.default_rng(0).integers(1, VOCAB, (2, TIME)).astype(np.int32)


@functools.cache
def made(model):
    """Weights, and the model as a compiled function, with and without a cache."""
    return drawn(model, TOKENS), functools.partial(applied, model)


@pytest.mark.slow
@every_model
def test_a_later_token_never_changes_an_earlier_output(model):
    variables, _ = made(model)
    table = variables["params"]["embed"]["embedding"]
    at = jnp.asarray(np.arange(TIME)[None])  # each place has a row of the table to itself

    def outputs(rows):
        params = {**variables["params"], "embed": {"embedding": table.at[:TIME].set(rows)}}
        x = model.apply({"params": params}, at, capture_intermediates=True, mutable=True)[1]
        (states,) = x["intermediates"]["norm"]["__call__"]
        # A plain sum would be 0: the states are normalised.
        return states[0] @ np.cos(np.arange(16)).astype(np.float32)

    jacobian = jax.jit(jax.jacobian(outputs))(table[:TIME])
    reached = np.abs(np.asarray(jacobian)).max(axis=-1) > 1e-7
    np.testing.assert_array_equal(reached, np.tri(TIME, dtype=bool))


@pytest.mark.slow
@every_model
def test_padding_never_changes_a_result(model):
    variables, apply = made(model)
    whole = np.asarray(apply(variables, TOKENS))
    mask = np.array([[False] * 2 + [True] * 4, [True] * 6])
    padded = np.stack([np.where(mask[0], np.roll(TOKENS[0], 2), 7), TOKENS[1]])
    got = np.asarray(apply(variables, padded, mask))
    close(got[0, 2:], whole[0, :4], 1e-5)
    close(got[1], whole[1], 1e-5)


@pytest.mark.slow
@every_model
def test_with_a_cache_all_is_the_same(model):
    variables, apply = made(model)
    whole = np.asarray(apply(variables, TOKENS))
    mask = np.array([[False, True, True], [True, True, True]])
    prompt = np.stack([[0, *TOKENS[0, :2]], TOKENS[1, :3]]).astype(np.int32)
    cache = model.init_cache(2, TIME)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {2}
    logits, cache = apply(variables, prompt, mask, cache)
    logits = np.asarray(logits)
    close(logits[0, 1:], whole[0, :2], 1e-5)
    close(logits[1], whole[1, :3], 1e-5)
    assert cache["seen"].tolist() == [2, 3]
    for step in range(3):
        token = np.stack([TOKENS[0, 2 + step], TOKENS[1, 3 + step]])[:, None]
        logits, cache = apply(variables, token, None, cache)
        logits = np.asarray(logits)
        close(logits[0, 0], whole[0, 2 + step], 1e-5)
        close(logits[1, 0], whole[1, 3 + step], 1e-5)


@pytest.mark.slow
@every_model
def test_rows_of_a_cache_can_be_picked_out(model):
    variables, apply = made(model)
    _, cache = apply(variables, TOKENS[:, :3], None, model.init_cache(2, TIME))
    picked = jax.tree.map(lambda leaf: leaf[jnp.array([1, 1, 0])], cache)
    nexts = jnp.stack([TOKENS[1, 3], TOKENS[1, 3], TOKENS[0, 3]])[:, None]
    logits, _ = apply(variables, nexts, None, picked)
    whole = apply(variables, TOKENS[:, :4])
    close(logits[:, 0], whole[jnp.array([1, 1, 0]), 3], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "count"),
    [
        (GPT2(**gpt2.SIZES["medium"]), 354_823_168),
        (GPT2(**gpt2.SIZES["large"]), 774_030_080),
        (GPT2(**gpt2.SIZES["xl"]), 1_557_611_200),
        (Llama(**llama.SIZES["2-7B"]), 6_738_415_616),
        (Llama(**llama.SIZES["2-13B"]), 13_015_864_320),
    ],
)
def test_published_sizes(model, count):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


def test_a_sequence_longer_than_the_positions_is_refused():
    model = MODELS["gpt2"]
    with pytest.raises(InputError, match="13 tokens is longer than the 12 positions"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 13), np.int32))
    with pytest.raises(InputError, match="13 tokens is longer than the 12 positions"):
        model.init_cache(1, 13)


@every_model
def test_tokens_outside_the_vocabulary_are_refused(model):
    model.check_inputs(np.asarray(TOKENS))
    with pytest.raises(InputError, match=r"tokens from 0 to 18.*got 19 in row 0, position 1"):
        model.check_inputs(np.array([[1, 19]]))


@every_model
def test_it_can_be_written_down(model):
    assert module_json.from_json(module_json.to_json(model)) == model
