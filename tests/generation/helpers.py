"""Small models to generate from, and what they would say if asked for all sequences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.models import RecurrentLM


@dataclass(frozen=True)
class Chain:
    """A step whose logits depend on the last token alone: a table (vocab_size, vocab_size)."""

    def init_cache(self, batch_size: int, length: int):
        return {"seen": jnp.zeros(batch_size, jnp.int32)}

    def __call__(self, variables, tokens, mask, cache):
        return variables[tokens], {"seen": cache["seen"] + tokens.shape[1]}


def tiny_model(vocab_size: int, cell: str = "gru", seed: int = 5):
    model = RecurrentLM(vocab_size, cell, embedding=8, features=8)
    variables = jax.jit(model.init)(jax.random.key(seed), np.zeros((1, 1), np.int32))
    # Larger weights, so that what comes next is neither certain nor a matter of indifference.
    return model, jax.tree.map(lambda leaf: 3 * leaf, variables)


def all_sequences(vocab_size: int, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocab_size), repeat=length)), np.int32)


def log_probabilities(apply, variables, prompt, sequences) -> np.ndarray:
    """(n, length): the log-probability of each token of sequences (n, length), without a cache."""
    prompts = np.tile(np.asarray(prompt, np.int32), (len(sequences), 1))
    whole = np.concatenate([prompts, sequences], axis=1)
    logits = apply(variables, whole)
    logp = np.asarray(jax.nn.log_softmax(logits))[:, len(prompt) - 1 : -1]
    return np.take_along_axis(logp, sequences[..., None], axis=2)[..., 0]
