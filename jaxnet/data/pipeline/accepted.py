"""The data that users give, as the datasets that it stands for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.batches import Batches
from jaxnet.data.named_arrays import NamedArrays, is_named
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.data.records import Records
from jaxnet.data.sources import Source
from jaxnet.errors import InputError

log = logging.getLogger("jaxnet")


def checked(data: Any) -> Arrays | NamedArrays | Batches | Source | Pipeline:
    """The dataset that some data stands for.

    Args:
        data: a pair `(inputs, labels)`, each an array or a data frame, or a dict or a tuple of
            them; a sequence of records, such as a PyTorch `Dataset`; an iterable of batches, such
            as a PyTorch `DataLoader`, or a function that returns an iterator of them. `Arrays`, a
            `Source`, or a `Pipeline` is returned as it is.

    Raises:
        InputError: it is something else, or arrays that can't be trained on.
    """
    if isinstance(data, Arrays | NamedArrays | Batches | Source) or hasattr(data, "chunks"):
        return data
    name = getattr(data, "__name__", type(data).__name__)
    if isinstance(data, tuple) and len(data) == 2:
        _check_rows_alike(*data)
        return (NamedArrays if any(map(is_named, data)) else Arrays)(*data)
    if _has_records(data):
        _warn_of_batches(data, name)
        return Records(data, name=name)
    if isinstance(data, list) and all(hasattr(one, "__array__") for one in data):
        raise InputError(
            f"got a list of {len(data)} arrays, which may be a pair or batches of inputs: a pair "
            "is a tuple (inputs, labels), and so is each of several batches"
        )
    if callable(data) or (isinstance(data, Iterable) and not _is_array(data)):
        return Batches(data, name=name)
    got = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
    raise InputError(
        f"expected a pair (inputs, labels), Arrays, a sequence of records, an iterable of batches, "
        f"a Source or a Pipeline, got {got}. "
        "Weights of examples go into Arrays(inputs, labels, weights)."
    )


def _has_records(data: Any) -> bool:
    """Whether this is a sequence of records, such as a map-style dataset of PyTorch."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return False
    if _is_array(data) or not len(data):
        return False
    first = data[0]
    return isinstance(first, Mapping) or (isinstance(first, tuple) and len(first) in (2, 3))


def _check_rows_alike(inputs: Any, labels: Any) -> None:
    """Refuse columns of pandas whose rows have other names: they are paired by their places."""
    if not (hasattr(inputs, "isna") and hasattr(labels, "isna")) or len(inputs) != len(labels):
        return
    if not inputs.index.equals(labels.index):
        row = int(np.argmax(inputs.index.to_numpy() != labels.index.to_numpy()))
        raise InputError(
            f"inputs and labels: expected rows of the same index, got {inputs.index[row]!r} and "
            f"{labels.index[row]!r} in row {row}: bring them into one order, labels = "
            "labels.loc[inputs.index], or drop both indices, .reset_index(drop=True)"
        )


def _warn_of_batches(data: Any, name: str) -> None:
    """Say where what is taken for an example looks like a batch."""
    first = data[0]
    shapes = [np.shape(part) for part in first] if isinstance(first, tuple) else []
    if len(shapes) < 2 or not shapes[1] or len(shapes[0]) <= len(shapes[1]):
        return
    if shapes[0][0] == shapes[1][0]:
        log.warning(
            "%s: each element is taken for an example, with inputs %s and labels %s. If they are "
            "batches, say so: jaxnet.data.Batches(...)",
            name,
            *shapes[:2],
        )


def _is_array(data: Any) -> bool:
    many = isinstance(data, str | bytes | Mapping | tuple)
    return many or hasattr(data, "__array__") or hasattr(data, "shape")


def inputs_of(data: Any) -> Any:
    """What to predict: `Batches` and `Records` for iterables and sequences; arrays as they are.

    Lists are rows of numbers here.
    """
    # What has a shape is an array, if perhaps a sparse one, which is refused by name.
    known = isinstance(data, Mapping | list | tuple | str | Source)
    if known or hasattr(data, "__array__") or hasattr(data, "shape"):
        return data
    name = getattr(data, "__name__", type(data).__name__)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Records(data, name=name)
    if callable(data) or isinstance(data, Iterable):
        return Batches(data, steps=1, name=name)  # how many there are isn't asked
    return data
