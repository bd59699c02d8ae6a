"""What a network's outputs say: probabilities, classes, and both in a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnet.data.tables.columns import needs_pandas
from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

Predicts = Literal["classes", "numbers"] | None


def is_single(shape: tuple[int, ...]) -> bool:
    """Whether outputs of this shape are one number per example."""
    return len(shape) == 1 or shape[1:] == (1,)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis of (n, ..., classes), or the sigmoid of (n,) or (n, 1)."""
    if is_single(logits.shape):
        return np.exp(-np.logaddexp(np.float32(0), -logits))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))


def most_probable(logits: np.ndarray, names: Any) -> np.ndarray:
    """The class of the largest logit: its name if classes have names, otherwise its index."""
    if not is_single(logits.shape):
        indices = logits.argmax(axis=-1)
    else:
        indices = (logits > 0).astype(np.int64).reshape(len(logits))
    return indices if names is None else np.array(names)[indices]


def frame_of(
    outputs: np.ndarray, kind: Predicts, names: Sequence[str] | None, index: Any, prefix: str = ""
) -> pd.DataFrame:
    """A data frame of one output of a network, with a row per example.

    Args:
        outputs: (n, classes) logits, (n,) or (n, 1) logits of class 1, or numbers (n,) or (n, k).
        kind: what they are.
        names: the names of the classes.
        index: the index of the frame.
        prefix: what the names of the columns begin with.

    Returns:
        Of classes `class` and a column `probability_NAME` for each; of numbers `prediction`, or
        `prediction_0`, `prediction_1`, ... where there are several.

    Raises:
        UsageError: it isn't known whether they are classes or numbers.
        InputError: an example has more than one class or vector of numbers.

    Example:
        >>> logits = np.log(np.array([[0.25, 0.75]], np.float32))
        >>> frame_of(logits, "classes", ("cat", "dog"), None).round(2).to_dict("records")
        [{'class': 'dog', 'probability_cat': 0.25, 'probability_dog': 0.75}]
    """
    if outputs.ndim > 2:
        raise InputError(
            f"expected one prediction per row of a data frame, got outputs of shape "
            f"{outputs.shape[1:]} for each example: take predict, predict_class or predict_proba"
        )
    if kind is None:
        raise UsageError(
            "it isn't known whether this network predicts classes or numbers: say so with "
            "dataclasses.replace(bundle, predicts='classes') or 'numbers'"
        )
    if kind == "classes":
        shares = probabilities(outputs)
        if is_single(outputs.shape):
            shares = np.stack([probabilities(-outputs).ravel(), shares.ravel()], axis=1)
        known = range(shares.shape[1]) if names is None else names
        columns = {f"{prefix}class": most_probable(outputs, names)}
        columns |= {f"{prefix}probability_{name}": shares[:, i] for i, name in enumerate(known)}
    elif is_single(outputs.shape):
        columns = {f"{prefix}prediction": outputs.reshape(len(outputs))}
    else:
        columns = {f"{prefix}prediction_{i}": column for i, column in enumerate(outputs.T)}
    return needs_pandas().DataFrame(columns, index=index)


def index_of(inputs: Any, rows: int) -> Any:
    """The index of a data frame that was given as inputs, so that predictions can be joined to it.

    None, for rows numbered from 0, where the inputs have none.
    """
    pandas = needs_pandas()
    known = isinstance(inputs, pandas.DataFrame | pandas.Series) and len(inputs) == rows
    return inputs.index if known else None
