from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import pytest
from jaxnet.models.gan import DCGANGenerator

from jaxnet.errors import UsageError
from jaxnet.models import BERT, GPT2, MLP
from jaxnet.plan.networks import inputs, network


class TwoTexts(nn.Module):
    vocab_size: int = 100

    def __call__(self, question, answer, train=False):
        return question, answer


class Auxiliary(nn.Module):
    """With a head that is there in training alone, as GoogLeNet's are."""

    @nn.compact
    def __call__(self, inputs, train=False):
        logits, head = nn.Dense(3)(inputs), nn.Dense(3)(inputs)
        return (logits, head) if train else logits


class Three(nn.Module):
    def __call__(self, inputs, train=False):
        return inputs, inputs, inputs


def test_networks_by_the_name_of_their_file():
    assert network("gpt2", None, {}) == GPT2()
    medium = network("gpt2", "medium", {"dropout": "0.0"})
    assert medium == GPT2(features=1024, num_layers=24, num_heads=16, dropout=0.0)
    assert network("mlp", None, {"hidden": "(512, 256)"}) == MLP(hidden=(512, 256))
    assert isinstance(network("bert", None, {}), BERT)  # of the four in the file
    assert isinstance(network("gan:DCGANGenerator", None, {}), DCGANGenerator)
    assert network("flax.linen:Dense", None, {"features": "3"}).features == 3


@pytest.mark.parametrize(
    "name, size, options, words",
    [
        ("gtp2", None, {}, "there is no network 'gtp2'"),
        ("gpt2", "mediun", {}, "did you mean 'medium'"),
        ("gpt2:GTP2", None, {}, "did you mean 'GPT2'"),
        ("gan", None, {}, "several networks: say which, as gan:CLASS with one of "),
        ("gpt2", None, {"feature": "3"}, "did you mean 'features'"),
        ("gpt2", None, {"features": "three"}, "as Python writes it"),
        ("flax.linen:Dense", None, {}, "give it by --options NAME VALUE"),
    ],
)
def test_what_there_is_not(name, size, options, words):
    with pytest.raises(UsageError, match=words):
        network(name, size, options)


def test_inputs():
    (tokens,) = inputs(GPT2(length=512), 8, None, ())
    assert (tokens.shape, tokens.dtype) == ((8, 512), jnp.int32)
    assert inputs(GPT2(), 8, 64, ())[0].shape == (8, 64)
    (images,) = inputs(MLP(), 8, None, (28, 28, 1))
    assert (images.shape, images.dtype) == ((8, 28, 28, 1), jnp.float32)
    ranked = inputs(TwoTexts(), 8, 16, ())
    assert [each.shape for each in ranked] == [(8, 16)] * 2
    with pytest.raises(UsageError, match="--example 224 224 3"):
        inputs(MLP(), 8, None, ())
