"""Translations in batches, and what the network looks at."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import fit_tokenizer
from jaxnet.data.text.tokenizer import END, START
from jaxnet.generation import (
    Generated,
    ModuleStep,
    beam_search,
    translate,
    translation_attention,
)
from jaxnet.generation import translation as its_module
from jaxnet.models import Transformer
from jaxnet.report.attention import plot_attention
from tests.networks import drawn

TEXTS = ["a red hat", "two men", "a dog runs over the green grass and barks", "a hat"]
TOKENIZER = fit_tokenizer(TEXTS, "bpe", 280)


@pytest.fixture(scope="module")
def made():
    model = Transformer(TOKENIZER.vocab_size, 16, 1, 2, 32, pre_norm=True)
    tokens = np.zeros((1, 2), np.int32)
    return model, drawn(model, tokens, tokens)


@pytest.mark.slow
def test_each_text_is_translated_as_if_it_were_alone(made):
    model, variables = made
    got = translate(model, variables, TOKENIZER, TEXTS, 6, beams=2)
    for text, translation in zip(TEXTS[:2], got, strict=False):
        source = TOKENIZER.encode_batch([text], end=True)
        start = np.array([[TOKENIZER.id_of(START)]], np.int32)
        cache = model.apply(variables, jnp.asarray(source), 7, method="start")
        want = beam_search(
            ModuleStep(model, "decode"),
            variables,
            start,
            6,
            beams=2,
            end=TOKENIZER.id_of(END),
            cache=cache,
        )
        assert translation == TOKENIZER.decode(want.texts()[0]).strip()


@pytest.mark.parametrize(
    ("count", "batches"), [(1, [1]), (3, [4]), (4, [4]), (64, [64]), (70, [64, 64])]
)
def test_a_few_texts_take_few_rows(count, batches, monkeypatch):
    seen = []

    def first_tokens(model, variables, prompts, new_tokens, *, end, cache, **options):
        seen.append(len(prompts))
        assert cache.any(axis=1).all()  # no row without a text
        tokens = np.stack([cache[:, 0], np.full(len(cache), end)], axis=1)
        return Generated(tokens, np.full(len(cache), 2))

    monkeypatch.setattr(its_module, "beam_search", first_tokens)
    monkeypatch.setattr(its_module, "_start", lambda *_: lambda variables, rows: rows)
    texts = [f"{chr(97 + number % 26)} {'hat ' * (number // 26)}" for number in range(count)]
    assert translate(None, None, TOKENIZER, texts) == [text[0] for text in texts]  # type: ignore[arg-type]
    assert seen == batches


@pytest.mark.slow
def test_what_the_decoder_looks_at_is_drawn(made, tmp_path):
    model, variables = made
    weights, rows, columns = translation_attention(model, variables, TOKENIZER, *TEXTS[:2])
    assert weights.shape == (1, 2, len(rows), len(columns))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert rows[-1] == columns[-1] == "[END]"
    plot_attention(weights, rows, tmp_path / "attention.png", sources=columns)
    assert (tmp_path / "attention.png").stat().st_size > 1000
