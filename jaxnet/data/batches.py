"""Batches from an iterable: a PyTorch DataLoader, a generator, a tf.data dataset."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.data.arrays import checked_inputs, checked_labels
from jaxnet.data.columns import flat
from jaxnet.data.numeric import as_array, first, narrowed, place
from jaxnet.errors import InputError

PARTS = ("inputs", "labels", "weights")


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """A dataset that is an iterable of batches, whose order and batch size are its own.

    `Trainer.fit` makes it of a PyTorch `DataLoader`, a `tf.data.Dataset`, a function that returns
    an iterator (such as a generator function) or any other iterable. A batch is a pair
    `(inputs, labels)`, a triple with weights, a dict with these names, or inputs alone; arrays are
    of NumPy, JAX, PyTorch or TensorFlow, and inputs and labels may be dicts of them. A batch with
    fewer rows than the first one, usually the last, is padded and masked.

    One pass is an epoch. A function that takes `epoch` is called with its number, counted from 0,
    and an object with a method `set_epoch`, or a sampler that has one, is told it. A resumed run
    skips the batches that it has learnt from: the result is that of an uninterrupted run, bit for
    bit, where each pass, or each pass of that number, yields the same batches again. Of a shuffled
    `DataLoader` the order is lost with the process: the run resumes with another one.

    Where `steps` are given and the epoch decides nothing, each epoch takes the next ones, and a new
    pass begins where one ends: so a pass may be longer than an epoch, or endless. An iterator can't
    be restarted. It trains for one epoch, or for the steps that it has batches for.

    Attributes:
        batches: the iterable, or a function that returns an iterator.
        steps: batches per epoch; by default `len(batches)`, or else they are counted, in a pass
            before the first.
        inputs: where batches are dicts with other names: the column of the inputs, or several.
        labels: likewise.
        name: the name of the dataset in messages.

    Example:
        >>> def squares():
        ...     for start in (0.0, 2.0):
        ...         x = np.float32([[start], [start + 1]])
        ...         yield x, x[:, 0] ** 2
        >>> data = Batches(squares)
        >>> [columns["labels"].tolist() for columns in data.read(0)]
        [[0.0, 1.0], [4.0, 9.0]]
    """

    batches: Iterable[Any] | Callable[..., Any]
    steps: int | None = None
    inputs: str | Sequence[str] | None = None
    labels: str | Sequence[str] | None = None
    name: str = "batches"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"{self.name}: expected at least 1 step per epoch, got {self.steps}")

    @property
    def once(self) -> bool:
        """Whether this is an iterator, which can't be restarted."""
        return not callable(self.batches) and iter(self.batches) is self.batches

    @property
    def exact(self) -> bool:
        """Whether the epoch decides the batches, as far as the iterable lets know."""
        return self._takes_epoch or self._epoch_setter is not None

    def known_steps(self) -> int | None:
        """The batches per epoch, where they are known without reading."""
        if self.steps is not None:
            return self.steps
        try:
            return len(self.batches)  # pyright: ignore[reportArgumentType]
        except TypeError:  # also of a tf.data dataset whose length isn't known
            return None

    def fingerprint(self) -> dict[str, str]:
        """What identifies the data of a run: the number of batches. Nothing is read."""
        return {"batches": str(self.known_steps())}

    def read(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of one pass as flat columns (`jaxnet.data.columns`).

        Args:
            epoch: counted from 0.

        Raises:
            InputError: a batch isn't one, or holds what JAX has no type for.
        """
        if setter := self._epoch_setter:
            setter(epoch)
        if callable(self.batches):
            given = self.batches(epoch=epoch) if self._takes_epoch else self.batches()
        else:
            given = self.batches
        for number, batch in enumerate(given):
            yield self._columns(batch, f"{self.name}: batch {number + 1}")

    @property
    def _takes_epoch(self) -> bool:
        if not callable(self.batches):
            return False
        try:
            return "epoch" in inspect.signature(self.batches).parameters
        except ValueError:  # a function of C
            return False

    @property
    def _epoch_setter(self) -> Callable[[int], Any] | None:
        for owner in (self.batches, getattr(self.batches, "sampler", None)):
            if setter := getattr(owner, "set_epoch", None):
                return setter
        return None

    def _columns(self, batch: Any, where: str) -> dict[str, np.ndarray]:
        if isinstance(batch, list | tuple):
            if len(batch) not in (2, 3):
                raise InputError(
                    f"{where}: expected a pair (inputs, labels), with weights a triple, got "
                    f"{len(batch)} parts; name them: {{'inputs': ..., 'labels': ...}}"
                )
            batch = dict(zip(PARTS, batch, strict=False))
        elif not isinstance(batch, Mapping):
            batch = {"inputs": batch}
        elif self.inputs is not None:
            batch = chosen_columns(batch, self.inputs, self.labels, where)
        if "inputs" not in batch or (unknown := batch.keys() - set(PARTS)):
            others = "" if "inputs" not in batch else f", and nothing of {', '.join(unknown)}"
            raise InputError(
                f"{where}: expected inputs, labels and perhaps weights{others}; got "
                f"{', '.join(map(str, batch))}. Name the columns: "
                "jaxnet.data.Batches(batches, inputs='...', labels='...')"
            )
        parts = flat({part: _plain(values) for part, values in batch.items()})
        columns = {path: _array(path, values, where) for path, values in parts.items()}
        rows = {path: len(column) for path, column in columns.items()}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{path} {count}" for path, count in rows.items())
            raise InputError(f"{where}: expected as many rows in all columns, got {counts}")
        return columns


def chosen_columns(
    record: Mapping[str, Any],
    inputs: str | Sequence[str],
    labels: str | Sequence[str] | None,
    where: str,
) -> dict[str, Any]:
    """The inputs and labels of a record, or a batch, with columns of other names.

    Args:
        record: arrays by name.
        inputs: the column of the inputs; the columns, where there are several.
        labels: likewise, or None where there are none.
        where: the place, for the message.

    Raises:
        InputError: there is no such column; the message names those that there are.

    Example:
        >>> chosen_columns({"img": 1, "age": 2, "y": 3}, ("img", "age"), "y", "row 0")
        {'inputs': {'img': 1, 'age': 2}, 'labels': 3}
    """
    found: dict[str, Any] = {}
    for part, names in (("inputs", inputs), ("labels", labels)):
        if names is None:
            continue
        wanted = [names] if isinstance(names, str) else list(names)
        if missing := [name for name in wanted if name not in record]:
            raise InputError(
                f"{where}: expected columns {', '.join(wanted)} as {part}, got "
                f"{', '.join(map(str, record))}: {', '.join(missing)} isn't there"
            )
        several = {name: record[name] for name in wanted}
        found[part] = record[names] if isinstance(names, str) else several
    return found


def _plain(values: Any) -> Any:
    """A list of arrays, as PyTorch collates a tuple, as a tuple."""
    several = isinstance(values, list) and all(getattr(one, "shape", ()) for one in values)
    return tuple(values) if several and values else values


def _array(path: str, values: Any, where: str) -> np.ndarray:
    """A column of a batch in a type that JAX keeps, with the checks that `Arrays` makes."""
    part, where = path.partition("/")[0], f"{where}: {path}"
    if not np.ndim(values):
        raise InputError(
            f"{where}: expected an array with one row an example, got {values}. Iterables yield "
            "batches, which a DataLoader of PyTorch, or .batch(32), makes of examples"
        )
    if part != "weights":
        return (checked_labels if part == "labels" else checked_inputs)(values, where)
    weights = narrowed(as_array(values, where), where).astype(np.float32, copy=False)
    if weights.ndim != 1 or (weights < 0).any():
        at = f"{weights.min()} in {place(first(weights < 0))}" if weights.ndim == 1 else "that"
        raise InputError(
            f"{where}: expected a number of at least 0 for each row, got {at}, of shape "
            f"{weights.shape}"
        )
    return weights
