from __future__ import annotations

import math

import numpy as np
import pytest

from jaxnet import losses, metrics
from jaxnet.errors import InputError
from tests.programs import measured

RNG = np.random.default_rng(0)


def words(text: str) -> list[str]:
    return text.lower().split()


# Papineni et al. (2002), examples 1 and 2 and the references they share.
REFERENCES = [
    words(
        "It is a guide to action that ensures that the military will forever heed Party commands"
    ),
    words(
        "It is the guiding principle which guarantees the military forces "
        "always being under the command of the Party"
    ),
    words("It is the practical guide for the army always to heed the directions of the party"),
]
GOOD = words(
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
BAD = words("It is to insure the troops forever hearing the activity guidebook that party direct")


@pytest.mark.parametrize(
    ("candidate", "order", "matches", "total"),
    [(GOOD, 1, 17, 18), (GOOD, 2, 10, 17), (BAD, 1, 8, 14), (BAD, 2, 1, 13)],
)
def test_precisions_are_those_of_the_paper(candidate, order, matches, total):
    """Section 2.1.1: 17/18 and 8/14; section 2.1.2: bigrams 10/17 and 1/13."""
    counts = metrics.bleu([candidate], [REFERENCES]).sums
    assert (counts.matches[order - 1], counts.totals[order - 1]) == (matches, total)


def test_matches_are_clipped_as_in_the_paper():
    """Section 2.1.1, example 2: "the" seven times has a modified precision of 2/7."""
    references = [words("the cat is on the mat"), words("there is a cat on the mat")]
    counts = metrics.bleu([["the"] * 7], [references]).sums
    assert (counts.matches[0], counts.totals[0]) == (2, 7)


def test_bleu_is_the_geometric_mean_under_a_brevity_penalty():
    candidate, reference = words("a b c d e"), words("a b c d e f")
    got = metrics.bleu([candidate], [[reference]]).compute()
    assert got == pytest.approx(math.exp(1 - 6 / 5))
    got = metrics.bleu([words("a b c d x")], [[words("a b c d e")]]).compute()
    assert got == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_of_references_equally_near_the_shorter_counts():
    references = [words("a b c d e f"), words("a b c d")]
    counts = metrics.bleu([words("a b c d e")], [references]).sums
    assert counts.reference_length == 4


def corpus(sentences: int = 30):
    """Random texts of a few words, with up to three references each."""

    def text() -> list[int]:
        return RNG.integers(0, 4, RNG.integers(1, 15)).tolist()

    references = [[text() for _ in range(RNG.integers(1, 4))] for _ in range(sentences)]
    return [text() for _ in range(sentences)], references


def test_parts_of_a_corpus_merge_into_the_whole():
    candidates, references = corpus()
    parts = [metrics.bleu(candidates[p], references[p]) for p in (slice(0, 7), slice(7, 30))]
    whole = metrics.bleu(candidates, references).compute()
    assert metrics.merge(*parts).compute() == whole
    assert 0 < whole < 1
    assert np.mean([p.compute() for p in parts]) != whole


@pytest.mark.parametrize("smoothing", ["none", "exp"])
@pytest.mark.parametrize("sentences", [1, 2, 30])
def test_bleu_equals_sacrebleu(smoothing, sentences):
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs sacrebleu, of the extra [parity]")
    for _ in range(5):
        candidates, references = corpus(sentences)
        deepest = max(map(len, references))
        columns = [
            [" ".join(map(str, r[i] if i < len(r) else r[0])) for r in references]
            for i in range(deepest)
        ]
        theirs = sacrebleu.metrics.BLEU(
            tokenize="none", smooth_method=smoothing, effective_order=False, force=True
        )
        texts = [" ".join(map(str, candidate)) for candidate in candidates]
        expected = theirs.corpus_score(texts, columns).score / 100
        got = metrics.bleu(candidates, references, smoothing=smoothing).compute()
        assert got == pytest.approx(expected, rel=1e-9)


def test_bleu_without_a_match_is_zero_and_of_nothing_nan():
    assert metrics.bleu([words("a b c d")], [[words("e f g h")]]).compute() == 0.0
    assert metrics.bleu([[]], [[words("a b")]]).compute() == 0.0
    assert np.isnan(metrics.bleu([], []).compute())


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([["a"]], [], "1 candidates and 0 lists"),
        (["a b"], [[["a"]]], "sentence 0 has a string"),
        ([["a"]], [["a b"]], "sentence 0 has a string"),
        ([["a"]], ["ab"], "sentence 0 has a string"),
        ([["a"], ["b"]], [[["a"]], []], "sentence 1 has none"),
    ],
)
def test_bleu_refuses_what_is_no_corpus(candidates, references, message):
    with pytest.raises(InputError, match=message):
        metrics.bleu(candidates, references)


def test_perplexity_is_the_exponential_of_the_loss():
    logits = RNG.normal(size=(6, 8, 11)).astype(np.float32)
    labels = RNG.integers(0, 11, (6, 8))
    weights = RNG.uniform(size=6).astype(np.float32)
    got = measured(metrics.perplexity, logits, labels, weights).compute()
    loss = np.asarray(measured(losses.cross_entropy, logits, labels), np.float64)
    assert got == pytest.approx(np.exp(np.average(loss, weights=weights)), rel=1e-5)


def test_perplexity_is_over_tokens_and_leaves_padding_out():
    logits = RNG.normal(size=(2, 5, 11)).astype(np.float32)
    labels = np.array([[1, 2, 3, 4, 5], [6, -1, -1, -100, -1]])
    got = measured(metrics.perplexity, logits, labels, np.ones(2, np.float32)).compute()
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    kept = [log_p[0, i, labels[0, i]] for i in range(5)] + [log_p[1, 0, 6]]
    assert got == pytest.approx(np.exp(-np.mean(kept)), rel=1e-5)


def test_perplexity_of_an_impossible_token_is_nan_and_of_hopeless_text_infinite():
    logits, ones = np.zeros((1, 2, 3), np.float32), np.ones(1, np.float32)
    assert np.isnan(measured(metrics.perplexity, logits, np.array([[1, 3]]), ones).compute())
    logits[..., 0] = 1e4
    assert measured(metrics.perplexity, logits, np.array([[1, 1]]), ones).compute() == np.inf
    assert np.isnan(measured(metrics.perplexity, logits, np.array([[1, 1]]), 0 * ones).compute())


def test_words_and_scores_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra [parity]")
    texts = [
        "It's 3.5 m, (about) 4-year-old.",
        'He said: "1,000.5 & more" - e.g. A/B [x] {y} <z> 5-6 €.',
        "&quot;Hm&quot;, 3. ,5 a.b a,b 7-",
        "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    ]
    words = [metrics.mteval_words(text) for text in texts]
    for text, got in zip(texts, words, strict=True):
        tokenize = sacrebleu.metrics.BLEU().tokenizer
        assert got == tokenize(text).split()
    candidates = [" ".join(text.split()[:-1]) for text in texts]
    want = sacrebleu.corpus_bleu(candidates, [texts]).score
    got = metrics.bleu(
        [metrics.mteval_words(text) for text in candidates],
        [[one] for one in words],
        smoothing="exp",
    )
    assert 100 * got.compute() == pytest.approx(want)
