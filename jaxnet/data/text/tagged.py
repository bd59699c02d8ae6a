"""Texts whose words have tags, such as names of persons and places."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.text.corpora import load_python_reference
from jaxnet.data.text.tokenizer import Tokenizer
from jaxnet.digests import json_digest
from jaxnet.errors import InputError
from jaxnet.files import expanded, read_text
from jaxnet.losses import position_counts

OUTSIDE = "O"
IGNORED = -1
"""The label of tokens that have no tag: padding, and all but the first token of a word."""

# What a word is where a text has to be taken apart: letters and digits, or one sign.
_WORD = re.compile(r"\w+|[^\w\s]")
# A piece of code within a sentence of the reference.
_CODE = re.compile(r'"([^"\n]{1,60})"')
_FEWEST = 4


@dataclasses.dataclass(frozen=True, eq=False)
class TaggedTexts:
    """Sentences of words, each with a tag; `split` cuts it into parts.

    Attributes:
        words: n sentences, none of them empty.
        tags: as many tags as words, for each sentence.
        class_names: all tags; the number of one is its place here.
        name: what messages call this dataset.
    """

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...]
    class_names: tuple[str, ...]
    name: str = "tagged"

    def __len__(self) -> int:
        """The number of sentences."""
        return len(self.words)

    @property
    def labels(self) -> np.ndarray:
        """(n,) 0: sentences have no class of their own."""
        return np.zeros(len(self), np.float32)

    @property
    def texts(self) -> tuple[str, ...]:
        """The sentences as texts, with a blank between two words."""
        return tuple(map(" ".join, self.words))

    @property
    def bio(self) -> bool:
        """Whether tags are `O`, and `B-` and `I-` with a type, for spans of words."""
        return all(tag == OUTSIDE or tag[:2] in ("B-", "I-") for tag in self.class_names)

    def fingerprint(self) -> dict[str, str]:
        """What identifies these texts; see `jaxnet.data.fingerprints`."""
        return {
            "texts": json_digest([list(row) for row in self.words]),
            "labels": json_digest([list(row) for row in self.tags]),
            "class names": json_digest(list(self.class_names)),
        }

    def take(self, indices: np.ndarray) -> TaggedTexts:
        """The sentences at `indices`, in that order."""
        words, tags = (
            tuple(rows[int(index)] for index in indices) for rows in (self.words, self.tags)
        )
        return dataclasses.replace(self, words=words, tags=tags)

    def arrays(self, tokenizer: Tokenizer, length: int) -> Arrays:
        """Tokens and labels (n, length) int32, in which each tag counts alike.

        The first token of a word has the number of its tag, all others `IGNORED` (Devlin et al.
        2019, section 5.3). What is longer is cut off.

        Args:
            tokenizer: what makes tokens of `texts`.
            length: the tokens of a sentence.

        Raises:
            InputError: no tag is left in a sentence.
        """
        numbers = {tag: number for number, tag in enumerate(self.class_names)}
        labels = np.full((len(self), length), IGNORED, np.int32)
        for row, (text, words, tags) in enumerate(
            zip(self.texts, self.words, self.tags, strict=True)
        ):
            for token, word in first_tokens(tokenizer, text, words):
                if token < length:
                    labels[row, token] = numbers[tags[word]]
        tokens = tokenizer.encode_batch(self.texts, length)
        return Arrays(tokens, labels, position_counts(labels, IGNORED), name=self.name)


def first_tokens(
    tokenizer: Tokenizer, text: str, words: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Of each word that has tokens: the place of its first one, and that of the word.

    Args:
        tokenizer: what makes tokens of the text.
        text: the words with a blank between two of them.
        words: what it is made of.
    """
    ends = np.cumsum([len(word) + 1 for word in words])
    seen = -1
    for token, (begin, end) in enumerate(tokenizer.backend.encode(text).offsets):
        # A token may begin with the blank before its word.
        word = int(np.searchsorted(ends, max(begin, end - 1), side="right"))
        if word > seen:
            yield token, word
            seen = word


def read_conll(path: Path | str) -> TaggedTexts:
    r"""Tagged sentences from a file in columns, as those of CoNLL's shared tasks.

    On each line stands a word, and in the last column its tag; columns are parted by blanks or a
    tab. An empty line ends a sentence. Lines that begin with `-DOCSTART-` are left out.

    Args:
        path: a UTF-8 file.

    Raises:
        InputError: the file can't be read, a line has one column only (the message names it), or
            there is one tag only.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "names.conll"
        >>> _ = path.write_text("Ada B-PER\nLovelace I-PER\nwrote O\n\nin O\nLondon B-LOC\n")
        >>> names = read_conll(path)
        >>> names.texts, names.class_names
        (('Ada Lovelace wrote', 'in London'), ('O', 'B-LOC', 'B-PER', 'I-PER'))
    """
    path = expanded(path)
    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(read_text(path).split("\n"), 1):
        columns = line.split()
        if not columns:
            sentences.append([])
        elif columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise InputError(
                    f"{path}, line {number}: expected a word and its tag, got {line[:60]!r}"
                )
            sentences[-1].append((columns[0], columns[-1]))
    return _tagged(sentences, path.name)


def load_code_mentions() -> TaggedTexts:
    """Sentences of the Python language reference, and which of their words are code.

    The reference puts pieces of code within a sentence in quotes, such as "yield" or "__init__()".
    These quotes are taken away, and the words in them are tagged `B-code` and `I-code`, so that a
    network has to tell by the words and what stands around them. The text is that behind Python's
    `help()` (PSF licence); other versions of Python have other sentences.

    Raises:
        InputError: this Python came without it.
    """
    sentences: dict[tuple[tuple[str, str], ...], None] = {}
    for paragraph in re.split(r"\n\s*\n", load_python_reference()):
        lines = paragraph.split("\n")
        # Examples, grammar and tables are set off, and no sentences.
        if any(re.match(r"\s{3,}\S|.*(::=|==|--)", line) for line in lines):
            continue
        for sentence in re.split(r"(?<=[.:;])\s+(?=[A-Z\"])", " ".join(paragraph.split())):
            pairs = tuple(_code_tags(sentence))
            if len(pairs) >= _FEWEST:
                sentences[pairs] = None
    return _tagged(list(sentences), "python")


def _code_tags(sentence: str) -> Iterator[tuple[str, str]]:
    """The words of a sentence, and whether quotes stood around them."""
    for place, part in enumerate(_CODE.split(sentence)):
        for number, word in enumerate(_WORD.findall(part)):
            yield word, (("I-code" if number else "B-code") if place % 2 else OUTSIDE)


def _tagged(sentences: Sequence[Sequence[tuple[str, str]]], name: str) -> TaggedTexts:
    kept = [sentence for sentence in sentences if sentence]
    found = {tag for sentence in kept for _, tag in sentence}
    if len(found) < 2:
        raise InputError(f"{name}: expected at least two tags, got {', '.join(found) or 'none'}")
    names = tuple(sorted(found, key=lambda tag: (tag != OUTSIDE, tag)))
    words = tuple(tuple(word for word, _ in sentence) for sentence in kept)
    return TaggedTexts(
        words, tuple(tuple(tag for _, tag in sentence) for sentence in kept), names, name
    )
