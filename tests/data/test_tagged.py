"""Tagged texts: the tag of a word stands at its first token, and nowhere else."""

from __future__ import annotations

import numpy as np

from jaxnet.data import fit_tokenizer, split
from jaxnet.data.text.tagged import IGNORED, TaggedTexts, load_code_mentions

TEXTS = TaggedTexts(
    words=(("Ada", "Lovelace", "wrote"), ("in", "London"), ("Lovelace",)),
    tags=(("B-PER", "I-PER", "O"), ("O", "B-LOC"), ("B-PER",)),
    class_names=("O", "B-LOC", "B-PER", "I-PER"),
)


def test_labels_stand_at_the_first_token_of_each_word():
    for level in ("word", "bpe", "character"):
        tokenizer = fit_tokenizer(TEXTS.texts, level, 300)
        data = TEXTS.arrays(tokenizer, 32)
        for row, (words, tags) in enumerate(zip(TEXTS.words, TEXTS.tags, strict=True)):
            begins = np.flatnonzero(data.labels[row] != IGNORED)
            assert [TEXTS.class_names[n] for n in data.labels[row, begins]] == list(tags), level
            # Up to where a word begins stand the tokens of those before it.
            for word, begin in enumerate(begins):
                before = " ".join(words[:word])
                got = tokenizer.decode(data.inputs[row, :begin])
                assert got.strip() == before, level


def test_what_is_longer_is_cut_and_each_tag_counts_alike():
    data = TEXTS.arrays(fit_tokenizer(TEXTS.texts, "word", 60), 2)
    assert (data.labels != IGNORED).sum(axis=1).tolist() == [2, 2, 1]
    assert data.weights is not None
    np.testing.assert_allclose(data.weights / data.weights[2], [2, 2, 1])


def test_sentences_keep_their_tags_in_the_parts_of_a_split():
    parts = split(TEXTS, (0.34, 0.33, 0.33), seed=1, stratify=False)
    pairs = {pair for part in parts for pair in zip(part.words, part.tags, strict=True)}
    assert pairs == set(zip(TEXTS.words, TEXTS.tags, strict=True))


def test_the_reference_has_code_within_its_sentences():
    texts = load_code_mentions()
    assert texts.class_names == ("O", "B-code", "I-code") and texts.bio
    assert len(texts) > 1000
    share = np.mean([tag != "O" for row in texts.tags for tag in row])
    assert 0.02 < share < 0.3
