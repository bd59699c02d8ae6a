from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import fit_tokenizer
from jaxnet.errors import InputError, UsageError
from jaxnet.generation import beam_search, decoding, generate, generate_texts, temperature
from tests.generation.helpers import Chain, tiny_model

PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8], [9]]
# 0 -> 1 -> 2 -> 3 -> 4 -> 4
NEXT = jnp.where(jnp.eye(5, k=1) + jnp.zeros((5, 5)).at[4, 4].set(1) > 0, 9.0, 0.0)


@pytest.mark.slow
def test_cached_as_without_a_cache():
    model, variables = tiny_model(10)
    made = generate(model, variables, PROMPTS[:1], 8)
    whole, apply = PROMPTS[0], jax.jit(model.apply)
    for _ in range(8):
        padded = np.zeros((1, 14), np.int32)  # what follows changes nothing
        padded[0, : len(whole)] = whole
        whole = [*whole, int(apply(variables, padded)[0, len(whole) - 1].argmax())]
    assert made.tokens[0].tolist() == whole[6:]
    assert len(set(whole[6:])) > 2


@pytest.mark.slow
@pytest.mark.parametrize("cell", [pytest.param("lstm", marks=pytest.mark.slow), "gru"])
def test_prompts_of_different_lengths_as_each_by_itself(cell):
    model, variables = tiny_model(10, cell)
    together = generate(model, variables, PROMPTS, 6, pad=3)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, variables, [prompt], 6)
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])


def test_a_row_ends_with_the_end_token():
    made = generate(Chain(), NEXT, [[3], [0], [2]], 8, end=4)
    assert made.tokens.tolist() == [
        [4, 0, 0, 0, 0, 0, 0, 0],
        [1, 2, 3, 4, 0, 0, 0, 0],
        [3, 4, 0, 0, 0, 0, 0, 0],
    ]
    assert made.lengths.tolist() == [1, 4, 2]
    assert [row.tolist() for row in made.texts()] == [[4], [1, 2, 3, 4], [3, 4]]
    assert generate(Chain(), NEXT, [[3]], 3).tokens.tolist() == [[4, 4, 4]]


@pytest.mark.slow
def test_a_model_that_gives_nan_is_refused_and_a_row_that_has_ended_is_not_asked():
    """NaN logits wrote token 0."""
    broken = NEXT.at[3].set(jnp.nan)
    with pytest.raises(InputError, match=r"NaN in place of logits for row 1.*aren't finite"):
        generate(Chain(), broken, [[4], [1]], 8, end=4)
    for search in (beam_search, generate):
        with pytest.raises(InputError, match="NaN in place of logits for row 0"):
            search(Chain(), NEXT * jnp.nan, [[0]], 3)
    ended = NEXT.at[4].set(jnp.nan)
    assert generate(Chain(), ended, [[3], [2]], 5, end=4).lengths.tolist() == [1, 2]


@pytest.mark.slow
def test_it_is_over_when_all_rows_have_ended():
    taken = []

    class Counted(Chain):
        def __call__(self, variables, tokens, mask, cache):
            jax.debug.callback(lambda: taken.append(1))
            return super().__call__(variables, tokens, mask, cache)

    generate(Counted(), 100 * NEXT, [[3], [1]], 50, filters=(), end=4)
    jax.effects_barrier()
    assert len(taken) == 3


@pytest.mark.slow
def test_a_seed_gives_the_same_draws_whatever_else_is_in_the_batch():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(10, 10)).astype(np.float32))
    one, again, other = (
        generate(Chain(), table, [[5]] * rows, 12, filters=(), seed=seed).tokens
        for rows, seed in ((1, 0), (3, 0), (3, 1))
    )
    np.testing.assert_array_equal(one[0], again[0])
    assert (again[0] != again[1]).any()
    assert (again != other).any()


@pytest.mark.slow
def test_one_compile_for_each_shape():
    traced = []

    def counting(logits):
        traced.append(logits.shape)
        return logits

    for seed in range(3):
        generate(Chain(), NEXT, [[1, 2], [3, 4]], 4, filters=(counting,), seed=seed)
        generate(Chain(), 2 * NEXT, [[0, 1], [3, 4]], 4, filters=[counting], seed=seed)
    assert traced == [(2, 5)] * 2  # the prompts' place, and the loop
    generate(Chain(), NEXT, [[1, 2, 3], [3, 4, 3]], 4, filters=(counting,))
    assert len(traced) == 4


def test_an_equal_model_is_the_same_program():
    model, variables = tiny_model(10)
    generate(model, variables, PROMPTS[:1], 8)
    before = decoding._program.cache_info().misses
    generate(model.clone(), variables, PROMPTS[:1], 8)
    assert decoding._program.cache_info().misses == before


@pytest.mark.slow
def test_equal_filters_are_one_program():
    model = Chain()
    generate(model, NEXT, [[1]], 2, filters=(temperature(0.5),))
    before = decoding._program.cache_info().misses
    generate(Chain(), NEXT, [[1]], 2, filters=[temperature(0.5)])
    assert decoding._program.cache_info().misses == before


def test_from_text_to_text():
    tokenizer = fit_tokenizer("abcde", "character")
    ids = [tokenizer.encode(letter)[0] for letter in "abcde"]
    table = np.zeros((9, 9), np.float32)
    table[ids[:-1], ids[1:]] = 9.0
    assert generate_texts(Chain(), jnp.array(table), tokenizer, ["ab", "c"], 2) == ["abcd", "cde"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one prompt"),
        ([[1], []], "prompt 1: expected integer tokens .* an empty one"),
        ([[0.5]], r"prompt 0: expected integer tokens \(n,\), got float64 \(1,\)"),
        ([[[1]]], r"int64 \(1, 1\)"),
        ([[1], [12]], "tokens from 0 to 9"),
    ],
)
def test_prompts_that_are_refused(prompts, message):
    model, variables = tiny_model(10)
    with pytest.raises(InputError, match=message):
        generate(model, variables, prompts, 3)


def test_what_else_is_refused():
    with pytest.raises(UsageError, match="new_tokens of at least 1, got 0"):
        generate(Chain(), NEXT, [[1]], 0)
    with pytest.raises(UsageError, match="needs a cache"):
        generate(lambda *_: None, NEXT, [[1]], 1)  # type: ignore[arg-type]
