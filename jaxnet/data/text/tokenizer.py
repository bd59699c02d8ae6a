"""Tokens of texts: what a network reads in place of letters. The work is done by `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded, write_atomically
from jaxnet.names import lookup

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Level = Literal["character", "word", "bpe"]

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[START]", "[END]", "[MASK]"
_SPECIAL = (PAD, UNKNOWN, START, END)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Texts to integers and back; `fit_tokenizer` makes one, `load` reads one.

    The tokens with a meaning of their own come first: padding 0, unknown 1, start 2, end 3 and,
    where it was asked for, mask 4. A text that spells one of them out, such as `"[PAD]"`, is text.

    Attributes:
        backend: the tokenizer of the `tokenizers` library; its padding has id 0.

    Raises:
        InputError: the backend's padding isn't 0.
    """

    backend: Backend

    def __post_init__(self) -> None:
        if self.backend.token_to_id(PAD) != 0:
            raise InputError(
                f"expected a tokenizer whose token 0 is {PAD}, as `fit_tokenizer` makes them; got "
                f"{self.backend.id_to_token(0)!r} there"
            )
        # Not a part of the library's file, so set whenever one is made.
        self.backend.encode_special_tokens = True

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.backend.get_vocab_size()

    def id_of(self, token: str) -> int:
        """The id of a token, such as `tokens.END`.

        Raises:
            InputError: there is no such token.
        """
        index = self.backend.token_to_id(token)
        if index is None:
            raise InputError(f"this tokenizer of {self.vocab_size} tokens has no {token!r}")
        return index

    def encode(self, text: str) -> np.ndarray:
        """The tokens of one text, (n,) int32.

        Raises:
            InputError: the text is empty.
        """
        if not text:
            raise InputError("expected a text, got an empty one")
        return np.array(self.backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(
        self,
        texts: Sequence[str],
        length: int | None = None,
        *,
        start: bool = False,
        end: bool = False,
    ) -> np.ndarray:
        """The tokens of several texts, padded with 0 on the right: (len(texts), length) int32.

        Args:
            texts: what to encode.
            length: the most tokens of a text, `start` and `end` among them; longer ones are cut
                off. By default the longest text decides.
            start: whether each begins with the token `[START]`.
            end: whether each ends with the token `[END]`, also where it was cut off.

        Raises:
            InputError: there are no texts, or one of them is empty.
            UsageError: no text fits into `length`.
        """
        texts = _checked_texts(texts)
        opening = [self.id_of(START)] if start else []
        closing = [self.id_of(END)] if end else []
        around = start + end
        if length is not None and length <= around:
            raise UsageError(f"expected a length of at least {around + 1}, got {length}")
        most = None if length is None else length - around
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        rows = [opening + one.ids[:most] + closing for one in encoded]
        tokens = np.zeros((len(rows), length or max(map(len, rows))), np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return tokens

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens (n,), without those that have a meaning of their own.

        At levels `character` and `bpe` it is the very text that was encoded; words come in the
        form in which they were counted, with a blank between them.
        """
        return self.backend.decode([int(token) for token in tokens], skip_special_tokens=True)

    def join(self, text: str, tokens: Sequence[int] | np.ndarray) -> str:
        """A text and what tokens (n,) add to it, with a blank between where there is one in words.

        Example:
            >>> words = fit_tokenizer("to be or not", "word")
            >>> words.join("to", words.encode("be or"))
            'to be or'
        """
        added = self.decode(tokens)
        # Without a decoder of its own the library puts a blank between any two tokens.
        apart = self.backend.decoder is None and added and text and not text[-1].isspace()
        return f"{text} {added}" if apart else text + added

    def decode_batch(self, tokens: np.ndarray) -> list[str]:
        """The texts of the rows of (n, length) tokens."""
        return self.backend.decode_batch(np.asarray(tokens).tolist(), skip_special_tokens=True)

    def to_json(self) -> str:
        """What `save` writes."""
        return self.backend.to_str()

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """The tokenizer of what `to_json` gave.

        Raises:
            InputError: the text isn't such.
        """
        try:
            backend = _library().Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more special
            raise InputError(f"not the JSON of a tokenizer: {error}") from error
        return Tokenizer(backend)

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json`, the file that `tokenizers` and `transformers` read too."""
        with write_atomically(Path(path)) as file:
            file.write(self.to_json())

    @staticmethod
    def load(path: Path | str) -> Tokenizer:
        """The tokenizer in a file that `save` wrote.

        Raises:
            InputError: the file can't be read, or holds none.
        """
        path = expanded(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        try:
            return Tokenizer.from_json(text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def fit_tokenizer(
    texts: str | Iterable[str],
    level: Level = "bpe",
    vocab_size: int = 8192,
    *,
    lowercase: bool = False,
    min_count: int = 1,
    mask: bool = False,
) -> Tokenizer:
    """The tokenizer that these texts suggest.

    Args:
        texts: one text or several.
        level: `"character"`: each character is a token. `"word"`: words, numbers and runs of
            punctuation are. `"bpe"`: byte-level pair encoding (Radford et al. 2019, section 2.2),
            which begins with the 256 bytes, so that nothing is unknown, and joins the most frequent
            pair of tokens to a new one again and again.
        vocab_size: the most tokens there may be, the special ones included. Of characters and words
            the most frequent ones stay.
        lowercase: whether capitals are made small first; they don't come back in `decode`.
        min_count: how often a character, word or pair has to occur to become a token.
        mask: whether there is a token `[MASK]`.

    Raises:
        InputError: there is no text, or tokenizers isn't installed.
        UsageError: the level isn't one of these, or the vocabulary is too small for it.

    Example:
        >>> tokenizer = fit_tokenizer("to be or not to be", "character")
        >>> tokenizer.vocab_size, tokenizer.decode(tokenizer.encode("bet"))
        (11, 'bet')
        >>> words = fit_tokenizer(["To be, or", "not to be"], "word", lowercase=True)
        >>> words.encode_batch(["be or be?", "not"], start=True).tolist()
        [[2, 4, 8, 4, 1], [2, 7, 0, 0, 0]]
    """
    make = lookup(level, {"character": _characters, "word": _words, "bpe": _pairs}, "level")
    special = [*_SPECIAL, *([MASK] if mask else [])]
    least = len(special) + (256 if level == "bpe" else 1)
    if vocab_size < least:
        raise UsageError(
            f"level {level!r} needs a vocab_size of at least {least}, got {vocab_size}"
        )
    texts = _checked_texts([texts] if isinstance(texts, str) else texts)
    library = _library()
    backend, trainer = make(library)
    if lowercase:
        backend.normalizer = library.normalizers.Lowercase()
    backend.train_from_iterator(
        texts,
        trainer(
            vocab_size=vocab_size,
            min_frequency=min_count,
            special_tokens=special,
            show_progress=False,
        ),
    )
    return Tokenizer(backend)


def token_windows(tokens: np.ndarray, length: int, stride: int | None = None) -> Arrays:
    """A long text cut into pieces, for a model that predicts each token from those before.

    Args:
        tokens: (n,) integers.
        length: the tokens of a piece.
        stride: how far one piece begins after the other; by default `length`, so that each token
            but the first is predicted once. What is left at the end and fills no piece is dropped.

    Returns:
        Inputs (pieces, length) int32, and as labels the token after each of them, of the same
        shape.

    Raises:
        InputError: the text has no more than `length` tokens.
        UsageError: `length` or `stride` is below 1.

    Example:
        >>> pieces = token_windows(np.arange(8), 3)
        >>> pieces.inputs.tolist(), pieces.labels.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise UsageError(f"expected length and stride of at least 1, got {length} and {stride}")
    tokens = np.asarray(tokens, np.int32)
    if tokens.ndim != 1 or len(tokens) <= length:
        raise InputError(
            f"expected more than {length} tokens (n,), for pieces of {length} and the token after "
            f"each; got {tokens.shape}: choose shorter pieces, or bring more text"
        )
    pieces = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::stride]
    return Arrays(np.ascontiguousarray(pieces[:, :-1]), pieces[:, 1:].copy(), name="text")


def token_pieces(
    tokens: np.ndarray, length: int, start: int | None = None, end: int | None = None
) -> np.ndarray:
    """A long text cut into pieces of one length, (pieces, length) int32, for an encoder.

    Args:
        tokens: (n,) integers.
        length: the tokens of a piece, `start` and `end` among them.
        start: a token that each piece begins with, if there is to be one.
        end: a token that each piece ends with.

    Raises:
        InputError: the text doesn't fill one piece. What fills no piece at its end is dropped.
        UsageError: no token of the text fits into `length`.

    Example:
        >>> token_pieces(np.arange(10, 17), 5, start=2, end=3).tolist()
        [[2, 10, 11, 12, 3], [2, 13, 14, 15, 3]]
    """
    opening = [] if start is None else [start]
    closing = [] if end is None else [end]
    own = length - len(opening) - len(closing)
    if own < 1:
        raise UsageError(f"expected a length of at least {length - own + 1}, got {length}")
    tokens = np.asarray(tokens, np.int32)
    count = len(tokens) // own if tokens.ndim == 1 else 0
    if count < 1:
        raise InputError(
            f"expected at least {own} tokens (n,), for one piece; got {tokens.shape}: choose "
            "shorter pieces, or bring more text"
        )
    body = tokens[: count * own].reshape(count, own)
    edges = [np.full((count, len(side)), side, np.int32) for side in (opening, closing)]
    return np.concatenate([edges[0], body, edges[1]], axis=1)


def _characters(library: Any) -> tuple[Backend, Any]:
    backend = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
    every = library.Regex(r"[\s\S]")
    backend.pre_tokenizer = library.pre_tokenizers.Split(every, "isolated")
    backend.decoder = library.decoders.Fuse()
    return backend, library.trainers.WordLevelTrainer


def _words(library: Any) -> tuple[Backend, Any]:
    backend = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
    backend.pre_tokenizer = library.pre_tokenizers.Whitespace()
    return backend, library.trainers.WordLevelTrainer


def _pairs(library: Any) -> tuple[Backend, Any]:
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()

    def trainer(**options: Any) -> Any:
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        return library.trainers.BpeTrainer(initial_alphabet=alphabet, **options)

    return backend, trainer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError("texts need the package tokenizers: pip install tokenizers") from error
    return tokenizers


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("expected several texts, got one: put it into a list")
    texts = list(texts)
    if not texts:
        raise InputError("expected at least one text, got none")
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise InputError(
                f"expected a text in row {row}, got {'an empty one' if text == '' else repr(text)}"
            )
    return texts
