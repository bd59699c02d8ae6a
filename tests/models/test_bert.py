"""BERT: padding, segments and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import module_json
from jaxnet.errors import InputError, UsageError
from jaxnet.models import BERT, BERTClassifier, BERTMaskedLM, bert
from tests.networks import applied, drawn

from .parity import close

VOCAB = 19
ENCODER = BERT(VOCAB, length=8, features=16, num_layers=1, num_heads=4, hidden=24)
TOKENS = np.random.default_rng(0).integers(1, VOCAB, (2, 6)).astype(np.int32)


@pytest.mark.slow
def test_padding_never_changes_a_result():
    model = BERTMaskedLM(ENCODER)
    variables = drawn(model, TOKENS)
    padded = np.pad(TOKENS, ((0, 0), (0, 2)))
    junk = np.where(padded == 0, 5, padded)
    plain = applied(model, variables, TOKENS)
    together = applied(model, variables, np.concatenate([padded, junk]))
    ends, looked_at = np.split(np.asarray(together)[:, :6], 2)
    close(ends, plain, 1e-5)
    masked = np.asarray(applied(model, variables, junk, padded != 0))
    close(masked[:, :6], plain, 1e-5)
    assert not np.allclose(looked_at, masked[:, :6], atol=1e-4)


@pytest.mark.slow
def test_segments_are_told_apart_and_the_first_is_the_default():
    variables = jax.jit(ENCODER.init)(jax.random.key(0), TOKENS)
    apply = jax.jit(ENCODER.apply)
    zeros = np.zeros_like(TOKENS)
    plain = apply(variables, TOKENS)
    close(apply(variables, TOKENS, None, zeros), plain, 1e-5)
    assert not np.allclose(apply(variables, TOKENS, None, zeros + 1), plain, atol=1e-3)


@pytest.mark.slow
def test_published_size():
    init = jax.tree_util.Partial(BERT(**bert.SIZES["large"]).init, method="pooled")
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 335_141_888


def test_what_cannot_be_is_refused():
    model = BERTClassifier(ENCODER)
    with pytest.raises(InputError, match="9 tokens is longer than the 8 positions"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 9), np.int32))
    with pytest.raises(InputError, match=r"tokens from 0 to 18.*got -1 in row 0, position 0"):
        model.check_inputs(np.array([[-1, 1]]))
    for sizes in ({"features": 0}, {"num_layers": 0}, {"num_heads": 0}):
        (name,) = sizes
        with pytest.raises(UsageError, match=f"{name} of at least 1, got 0"):
            jax.eval_shape(ENCODER.clone(**sizes).init, jax.random.key(0), TOKENS)


def test_it_can_be_written_down():
    model = BERTClassifier(ENCODER, num_classes=3)
    assert module_json.from_json(module_json.to_json(model)) == model


@pytest.mark.slow
def test_weights_start_as_wide_as_they_should():
    model = BERT(
        vocab_size=500,
        length=16,
        features=64,
        num_layers=1,
        num_heads=2,
        hidden=128,
        init_std=0.125,
    )
    params = jax.jit(model.init)(jax.random.key(0), np.ones((1, 4), np.int32))["params"]
    block = params["stack"]["blocks_0"]
    for leaf in (
        params["embed"]["embedding"],
        block["mlp"]["up"]["kernel"],
        block["self_attention"]["query"]["kernel"],
    ):
        assert np.asarray(leaf).std() == pytest.approx(0.125, rel=0.1)
