"""GPT-2 with the weights of a `transformers` model writes what that writes."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.generation import beam_search, generate
from jaxnet.models import GPT2
from tests.models import parity

VOCAB, LENGTH, NEW = 23, 20, 9
PROMPTS = [[5, 9, 4, 17, 8], [11, 6], [7, 7, 12]]


@pytest.fixture(scope="module")
def both():
    library = parity.transformers()
    import torch

    config = library.GPT2Config(
        vocab_size=VOCAB,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    theirs = parity.randomized(library.GPT2LMHeadModel(config))
    with torch.no_grad():  # a little wilder, or it writes the same token again and again
        torch.manual_seed(3)
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.35)
        theirs.transformer.wpe.weight.mul_(4)
    ours = GPT2(VOCAB, LENGTH, 16, 2, 4)
    return ours, parity.variables(parity.gpt2(parity.arrays(theirs), 2)), theirs


def written(theirs, **options) -> np.ndarray:
    """What `transformers` adds to the prompts, (batch, up to NEW)."""
    import torch

    longest = max(map(len, PROMPTS))
    padded = [[0] * (longest - len(prompt)) + prompt for prompt in PROMPTS]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]
    tokens = theirs.generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return tokens[:, longest:].numpy()


def ended(tokens: np.ndarray, end: int | None) -> np.ndarray:
    """Filled up to NEW, with 0 after the end token: a beam search of theirs repeats that."""
    tokens = np.pad(tokens, ((0, 0), (0, NEW - tokens.shape[1])))
    over = np.cumsum(tokens == end, axis=1) - (tokens == end) > 0
    return np.where(over, 0, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("end", [None, 13])
def test_greedy(end, both):
    ours, variables, theirs = both
    made = generate(ours, variables, PROMPTS, NEW, end=end)
    np.testing.assert_array_equal(made.tokens, ended(written(theirs, eos_token_id=end), end))


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "penalty", "end"), [(3, 1.0, 13), (5, 0.0, 7), (4, 2.0, 11)])
def test_beams(beams, penalty, end, both):
    ours, variables, theirs = both
    made = beam_search(ours, variables, PROMPTS, NEW, beams=beams, length_penalty=penalty, end=end)
    expected = written(
        theirs,
        num_beams=beams,
        length_penalty=penalty,
        eos_token_id=end,
        early_stopping="never",
    )
    np.testing.assert_array_equal(made.tokens, ended(expected, end))


def test_more_than_the_positions_is_refused():
    model = GPT2(VOCAB, LENGTH, 16, 1, 2)
    with pytest.raises(InputError, match=f"{LENGTH}"):
        generate(model, {}, PROMPTS, LENGTH - 4)
