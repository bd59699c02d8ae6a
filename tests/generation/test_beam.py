from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import UsageError
from jaxnet.generation import beam_search, generate
from tests.generation.helpers import Chain, all_sequences, log_probabilities, tiny_model

VOCAB, LENGTH, END = 4, 4, 2


def brute_force(apply, variables, prompt, penalty, end):
    """The best sequence of all, cut off after its end token, and its score."""
    sequences = all_sequences(VOCAB, LENGTH)
    logp = log_probabilities(apply, variables, prompt, sequences)
    lengths = np.full(len(sequences), LENGTH)
    if end is not None:
        ended = sequences == end
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, LENGTH)
    counted = np.arange(LENGTH)[None] < lengths[:, None]
    scores = np.where(counted, logp, 0).sum(axis=1) / lengths**penalty
    best = scores.argmax()
    return sequences[best][: lengths[best]].tolist(), scores[best]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("penalty", "end"),
    [
        (1.0, END),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in ((0.0, None), (0.0, END), (2.5, END))
        ),
    ],
)
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty, end):
    model, variables = tiny_model(VOCAB, seed=1)
    prompts = np.array(list(itertools.product(range(VOCAB), repeat=2)))
    made = beam_search(
        model, variables, prompts, LENGTH, beams=VOCAB**LENGTH, length_penalty=penalty, end=end
    )
    apply = jax.jit(model.apply)
    for row, prompt in enumerate(prompts):
        best, score = brute_force(apply, variables, prompt, penalty, end)
        assert made.texts()[row].tolist() == best
        np.testing.assert_allclose(made.scores[row], score, rtol=1e-5)


@pytest.mark.slow
def test_one_beam_is_the_greedy_choice():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(10, 10)).astype(np.float32))
    prompts = [[1, 2, 3], [4, 5, 6]]
    beam = beam_search(Chain(), table, prompts, 6, beams=1)
    np.testing.assert_array_equal(beam.tokens, generate(Chain(), table, prompts, 6).tokens)


@pytest.mark.slow
def test_two_beams_see_what_greed_misses():
    # First 0.6 then 0.5 at best, or first 0.4 then 1.
    shares = np.full((4, 4), 1e-9)
    shares[0] = [1e-9, 0.6, 0.4, 1e-9]
    shares[1] = [1e-9, 0.5, 0.5, 1e-9]
    shares[2] = [1e-9, 1e-9, 1e-9, 1.0]
    table = jnp.log(jnp.array(shares, jnp.float32))
    assert generate(Chain(), table, [[0]], 2).tokens[0, 0] == 1
    made = beam_search(Chain(), table, [[0]], 2, beams=2)
    assert made.tokens.tolist() == [[2, 3]]
    np.testing.assert_allclose(made.scores, np.log(0.4) / 2, rtol=1e-4)


def test_refused():
    with pytest.raises(UsageError, match="beams of at least 1, got 0"):
        beam_search(Chain(), jnp.zeros((4, 4)), [[1]], 2, beams=0)
