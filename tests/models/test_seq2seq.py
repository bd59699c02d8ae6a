"""The encoder-decoder: causality, padding, the cache, and generation by it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Bundle, module_json
from jaxnet.compute import training_shapes
from jaxnet.errors import InputError, UsageError
from jaxnet.generation import ModuleStep, beam_search, generate
from jaxnet.models import Transformer
from jaxnet.summary import summary
from tests.networks import applied, drawn

from .parity import close

VOCAB = 19
draw = np.random.default_rng(0).integers
SOURCE = draw(1, VOCAB, (2, 7)).astype(np.int32)
TARGET = draw(1, VOCAB, (2, 5)).astype(np.int32)
norms = pytest.mark.parametrize(
    "pre_norm", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["before", "after"]
)


@functools.cache
def made(pre_norm=True):
    model = Transformer(VOCAB, 16, 2, 4, 24, pre_norm=pre_norm)
    return model, drawn(model, SOURCE, TARGET), functools.partial(applied, model)


@pytest.mark.slow
def test_a_later_token_never_changes_an_earlier_output():
    _, variables, apply = made()
    whole = np.asarray(apply(variables, SOURCE, TARGET))
    for t in range(5):
        changed = TARGET.copy()
        changed[:, t] = (TARGET[:, t] + 1) % VOCAB
        got = np.asarray(apply(variables, SOURCE, changed))
        np.testing.assert_array_equal(got[:, :t], whole[:, :t])
        assert np.abs(got - whole)[:, t:].max(axis=(0, 2)).min() > 1e-6


@pytest.mark.slow
def test_padding_never_changes_a_result():
    _, variables, apply = made()
    whole = apply(variables, SOURCE, TARGET)
    padded = np.pad(SOURCE, ((0, 0), (0, 3)))
    close(apply(variables, padded, TARGET), whole, 1e-5)
    junk = np.where(np.arange(10) < 7, padded, 5)
    masked = apply(variables, junk, TARGET, padded != 0)
    close(masked, whole, 1e-5)
    later = np.pad(TARGET, ((0, 0), (0, 2)))
    close(apply(variables, SOURCE, later)[:, :5], whole, 1e-5)


@pytest.mark.slow
@norms
def test_with_a_cache_all_is_the_same(pre_norm):
    model, variables, apply = made(pre_norm)
    source = SOURCE.copy()
    source[1, 4:] = 0
    whole = np.asarray(apply(variables, source, TARGET))
    start = jax.jit(lambda v, source: model.apply(v, source, 6, method="start"))
    step = jax.jit(lambda *a: model.apply(*a, method="decode"))
    cache = start(variables, source)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {2}
    for t in range(5):
        logits, cache = step(variables, TARGET[:, t : t + 1], None, cache)
        close(np.asarray(logits)[:, 0], whole[:, t], 1e-5)
    assert cache["seen"].tolist() == [5, 5]


@pytest.mark.slow
def test_generation_writes_what_the_plain_call_finds_most_probable():
    model, variables, apply = made()
    cache = model.apply(variables, jnp.asarray(SOURCE), 6, method="start")
    step, prompts = ModuleStep(model, "decode"), np.full((2, 1), 2)
    got = generate(step, variables, prompts, 5, cache=cache).tokens
    written = jnp.full((2, 6), 0, jnp.int32).at[:, 0].set(2)
    for t in range(5):
        best = apply(variables, SOURCE, written)[:, t].argmax(axis=-1)
        written = written.at[:, t + 1].set(best.astype(jnp.int32))
    np.testing.assert_array_equal(got, written[:, 1:])
    single = beam_search(step, variables, prompts, 5, beams=1, cache=cache).tokens
    np.testing.assert_array_equal(single, got)


def test_what_cannot_be_is_refused():
    model = Transformer(VOCAB, 16, 1, 4, 24)
    with pytest.raises(InputError, match="as many target texts as source texts, got 2 and 3"):
        jax.eval_shape(model.init, jax.random.key(0), SOURCE, np.zeros((3, 5), np.int32))
    with pytest.raises(InputError, match=r"tokens from 0 to 18.*got 19"):
        model.check_inputs(np.array([[1, 19]]))
    for sizes in ({"features": 0}, {"num_layers": 0}, {"num_heads": 0}):
        (name,) = sizes
        with pytest.raises(UsageError, match=f"{name} of at least 1, got 0"):
            jax.eval_shape(model.clone(**sizes).init, jax.random.key(0), SOURCE, TARGET)


@pytest.mark.slow
def test_a_source_alone_gets_no_answer():
    model = Transformer(VOCAB, 16, 1, 2, 24)
    variables = drawn(model, SOURCE)
    bundle = Bundle(model, variables, jax.ShapeDtypeStruct((7,), np.int32))
    with pytest.raises(
        UsageError, match=r"jaxnet\.generation\.translate.* jaxnet\.translate --run-dir"
    ):
        bundle.predict(SOURCE)
    # Where only shapes and costs matter, it stands for the target.
    assert summary(model, SOURCE).parameters == summary(model, SOURCE, TARGET).parameters
    assert training_shapes(model, SOURCE)[1]


def test_it_can_be_written_down():
    model = Transformer(VOCAB, 16, 1, 4, 24, pre_norm=True)
    assert module_json.from_json(module_json.to_json(model)) == model
