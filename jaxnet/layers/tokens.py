"""What every network that reads tokens checks."""

from __future__ import annotations

import numpy as np

from jaxnet.errors import InputError


def check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    """Check that an embedding table of `vocab_size` rows has a row for every token.

    Within a compiled program a token outside the table gives NaN, or another token's row. A model
    calls this in its method `check_inputs`, which sees data before anything is compiled.

    Args:
        tokens: integers of any shape, with the example as leading axis.
        vocab_size: the number of different tokens.

    Raises:
        InputError: tokens aren't integers, or one lies outside [0, vocab_size).

    Example:
        >>> check_tokens(np.array([[5, 2, 0], [1, 5, 7]]), vocab_size=8)
    """
    if tokens.dtype.kind not in "ui":
        raise InputError(f"expected integer tokens, got {tokens.dtype}: encode the texts first")
    wrong = (tokens < 0) | (tokens >= vocab_size)
    if wrong.any():
        row, *place = (int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        where = f"row {row}, position {place[-1]}" if place else f"row {row}"
        raise InputError(
            f"expected tokens from 0 to {vocab_size - 1}, because the vocabulary has {vocab_size}; "
            f"got {tokens[(row, *place)]} in {where}. Encode the texts with the tokenizer that the "
            "network was made for, or give the network a larger vocab_size."
        )
