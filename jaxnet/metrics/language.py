"""Metrics of text: perplexity on the device, BLEU on the host."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, no_type_check

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from jaxnet import losses
from jaxnet.errors import InputError
from jaxnet.metrics.accuracy import class_labels, spread
from jaxnet.metrics.sums import Mean, Score

Smoothing = Literal["none", "exp"]
Tokens = Sequence[Hashable]


def perplexity(
    outputs: Float[ArrayLike, " batch *_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Score:
    """E to the mean cross-entropy of a token: among how many the network is as good as guessing.

    The mean is over tokens, not over sequences. It becomes infinite where the mean is beyond what
    a float64 can hold.

    Args:
        outputs: logits (B, ..., V).
        labels: (B, ...) integers. A negative one is no token (padding) and left out; one of V or
            more makes the result NaN, as in `losses.cross_entropy`.
        weights: (B,).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> import jax
        >>> logits, labels = jnp.zeros((2, 3, 8)), jnp.array([[1, 2, 3], [7, -1, -1]])
        >>> round(jax.jit(perplexity)(logits, labels, jnp.ones(2)).compute(), 4)
        8.0
    """
    outputs, labels = class_labels("perplexity", outputs, labels)
    rows = spread("perplexity", weights, labels)
    labels = labels.reshape(-1)
    values = losses.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels)
    rows = jnp.where(labels >= 0, rows, 0)
    return Score(Mean.of(values, rows), _exponential, "min")


def _exponential(mean: Mean) -> float:
    return float(np.exp(np.float64(mean.compute())))


@no_type_check  # As `Mean`.
@flax.struct.dataclass
class BleuCounts:
    """What BLEU is made of, summed over sentences.

    Attributes:
        matches: (N,) for n = 1 ... N, the n-grams that a reference has too, each at most as often
            as in one reference.
        totals: (N,) all n-grams of the candidates.
        length: the tokens of the candidates.
        reference_length: the tokens of the references that are nearest in length.
    """

    matches: Float[np.ndarray, " orders"]
    totals: Float[np.ndarray, " orders"]
    length: np.floating | float
    reference_length: np.floating | float


def bleu(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    max_n: int = 4,
    smoothing: Smoothing = "none",
) -> Score:
    """Corpus BLEU of translations, from 0 to 1 (papers often print it times 100).

    Papineni et al. (2002), section 2.3: the geometric mean of the clipped n-gram precisions, times
    `exp(1 - r / c)` where the candidates (c tokens) are shorter than the references (r). The sums
    of parts of a corpus merge into those of the whole; a mean of sentences' BLEU is another thing.

    Args:
        candidates: a list of tokens each.
        references: for each candidate one or more lists of tokens. Of those equally near in length
            the shortest gives r.
        max_n: the longest n-grams that count.
        smoothing: "none" is the paper's: 0 where no n-gram of some length matches. "exp" takes
            1/2, 1/4, ... of a match instead, as NIST's mteval and sacrebleu do; meant for short
            texts.

    Raises:
        InputError: as many candidates as sets of references are expected, each with at least one
            reference; tokens, not strings; `max_n` of at least 1; a smoothing there is.

    Example:
        >>> candidate = "the cat sat on the mat".split()
        >>> references = ["the cat is on the mat".split(), "a cat sat on the mat".split()]
        >>> round(bleu([candidate], [references]).compute(), 4)
        0.8409
    """
    _check_texts(candidates, references)
    if max_n < 1 or smoothing not in ("none", "exp"):
        raise InputError(
            f"bleu expects max_n of at least 1 and as smoothing 'none' or 'exp'; got {max_n} and "
            f"{smoothing!r}"
        )
    reference_length = 0
    counts = np.zeros((max_n, 2))
    for candidate, alternatives in zip(candidates, references, strict=True):
        lengths = [len(reference) for reference in alternatives]
        reference_length += min(lengths, key=lambda n: (abs(n - len(candidate)), n))
        counts += [_matched(candidate, alternatives, n) for n in range(1, max_n + 1)]
    length = float(sum(map(len, candidates)))
    sums = BleuCounts(counts[:, 0], counts[:, 1], length, float(reference_length))
    return Score(sums, _Bleu(smoothing), "max")


def mteval_words(text: str) -> list[str]:
    """The words of a text in the way of NIST's mteval-v13a, by which BLEU is usually reported.

    Punctuation stands by itself, but for apostrophes, hyphens within words, and the points and
    commas of numbers. It is what sacrebleu does by default (Post 2018), so `100 * bleu(...)` with
    `smoothing="exp"` is its score.

    Args:
        text: one sentence.

    Example:
        >>> mteval_words("It's 3.5 m, (about) 4-year-old.")
        ["It's", '3.5', 'm', ',', '(', 'about', ')', '4', '-', 'year-old', '.']
    """
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, parts in _MTEVAL:
        text = pattern.sub(parts, text)
    return text.split()


_ENTITIES = {"<skipped>": "", "-\n": "", "&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
_ALONE = "".join(mark for mark in string.punctuation if mark not in "-.,'")
_MTEVAL = (
    (re.compile(f"([{re.escape(_ALONE)}])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
"""What is set apart: punctuation; points and commas that aren't within a number; a hyphen after a
digit."""


def _matched(candidate: Tokens, references: Sequence[Tokens], n: int) -> tuple[int, int]:
    """The clipped matches among the candidate's n-grams, and how many n-grams it has."""
    most: Counter[Tokens] = Counter()
    for reference in references:
        most |= _ngrams(reference, n)  # the larger count of each
    counts = _ngrams(candidate, n)
    return (counts & most).total(), counts.total()


def _ngrams(tokens: Tokens, n: int) -> Counter[Tokens]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


@dataclass(frozen=True)
class _Bleu:
    """The formula of BLEU."""

    smoothing: Smoothing

    def __call__(self, counts: BleuCounts) -> float:
        if not counts.length and not counts.reference_length:
            return math.nan
        precisions, missing = [], 0
        for matches, total in zip(counts.matches, counts.totals, strict=True):
            if not matches and total and self.smoothing == "exp":
                missing += 1
                matches = 0.5**missing
            precisions.append(matches / total if total else 0.0)
        if not all(precisions):
            return 0.0
        brevity = min(0.0, 1 - float(counts.reference_length) / float(counts.length))
        return math.exp(brevity + float(np.mean(np.log(precisions))))


def _check_texts(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(candidates) != len(references):
        raise InputError(
            f"bleu expects a list of references for each candidate; got {len(candidates)} "
            f"candidates and {len(references)} lists of references"
        )
    for row, (candidate, alternatives) in enumerate(zip(candidates, references, strict=True)):
        texts = [candidate, alternatives, *([] if isinstance(alternatives, str) else alternatives)]
        if any(isinstance(text, str) for text in texts):
            raise InputError(
                f"bleu expects lists of tokens, and for each candidate a list of such lists; "
                f"sentence {row} has a string in their place. Split it, with text.split() say"
            )
        if not alternatives:
            raise InputError(f"bleu expects at least one reference; sentence {row} has none")
