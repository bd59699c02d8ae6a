"""Texts with gaps, as a network fills them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnet.data.augmentation.tokens import IGNORED
from jaxnet.data.text.tokenizer import Tokenizer
from jaxnet.files import write_atomically

PRINTED = 3


def filled_in(
    tokenizer: Tokenizer, tokens: np.ndarray, labels: np.ndarray, guesses: np.ndarray
) -> str:
    """A text, with [guess] or [guess|truth] where a token was hidden.

    Args:
        tokenizer: what made the tokens.
        tokens: (time,) what the network read.
        labels: (time,) what stood where a token was hidden, `IGNORED` elsewhere.
        guesses: (time,) the network's.
    """
    parts = []
    for token, label, guess in zip(tokens, labels, guesses, strict=True):
        if label == IGNORED:
            parts.append(tokenizer.decode([token]))
            continue
        said, true = tokenizer.decode([guess]), tokenizer.decode([label])
        parts.append(f"[{said}]" if guess == label else f"[{said}|{true}]")
    return " ".join("".join(parts).split())


def write_filled(path: Path, texts: Sequence[str]) -> None:
    """Write texts that were filled in, and print the first ones."""
    with write_atomically(path) as file:
        file.write("\n\n".join(texts) + "\n")
    print("Filled in; where it was wrong, what stood there follows the bar:\n")
    print("\n\n".join(texts[:PRINTED]) + "\n")
