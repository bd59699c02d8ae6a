"""From texts to the tokens a network takes: fitted once, kept with the trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.text.texts import Texts
from jaxnet.data.text.tokenizer import Level, Tokenizer, fit_tokenizer
from jaxnet.errors import InputError


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """The pure function from texts to the inputs of a network, made by `fit_texts`.

    Attributes:
        tokenizer: what makes tokens.
        length: the tokens of a text: longer ones are cut off, shorter ones padded with 0.
        start: whether each begins with the token `[START]`, which stands for the whole text in an
            encoder such as BERT.
        end: whether each ends with the token `[END]`, as an encoder-decoder reads them.
    """

    tokenizer: Tokenizer
    length: int
    start: bool = False
    end: bool = False

    @property
    def shape(self) -> tuple[int]:
        """The shape of one text's inputs."""
        return (self.length,)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The tokens of texts, int32 (n, length).

        Raises:
            InputError: these aren't texts, or one of them is empty.
        """
        if isinstance(texts, np.ndarray):
            texts = texts.tolist()
        return self.tokenizer.encode_batch(texts, self.length, start=self.start, end=self.end)

    def arrays(self, texts: Texts) -> Arrays:
        """The tokens and classes of labelled texts."""
        return Arrays(self(texts.texts), texts.labels, None, texts.class_names, texts.name)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it of again."""
        return {
            "tokenizer": self.tokenizer.to_json(),
            "length": self.length,
            "start": self.start,
            "end": self.end,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextEncoder:
        """The encoder that `to_dict` wrote down.

        Raises:
            InputError: these are not the values of an encoder.
        """
        try:
            tokenizer = Tokenizer.from_json(values["tokenizer"])
            # Earlier bundles say nothing of an end.
            edges = bool(values["start"]), bool(values.get("end", False))
            return cls(tokenizer, int(values["length"]), *edges)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these values describe no TextEncoder: {error}") from error


def fit_texts(
    train: Texts | Sequence[str],
    level: Level = "word",
    vocab_size: int = 8192,
    length: int = 64,
    *,
    lowercase: bool = True,
    min_count: int = 1,
    start: bool = False,
) -> TextEncoder:
    """The encoder that the training part suggests.

    Args:
        train: the training part and nothing else.
        level: see `fit_tokenizer`, and so for `vocab_size`, `lowercase` and `min_count`.
        vocab_size: the most tokens there may be.
        length: the tokens of a text, see `TextEncoder`.
        lowercase: whether capitals count as small letters.
        min_count: how often a word has to occur to be known.
        start: see `TextEncoder`.

    Raises:
        InputError: there is no text, or tokenizers isn't installed.
        UsageError: an option can't be.

    Example:
        >>> encoder = fit_texts(["Good film", "A good, good cast"], length=4)
        >>> encoder(["Good cast", "a film unseen"]).tolist()
        [[4, 7, 0, 0], [6, 8, 1, 0]]
    """
    texts = train.texts if isinstance(train, Texts) else train
    tokenizer = fit_tokenizer(texts, level, vocab_size, lowercase=lowercase, min_count=min_count)
    return TextEncoder(tokenizer, length, start)
