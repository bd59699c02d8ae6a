"""Records with random access, such as Grain's, as a source of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from jaxnet.data.batches import PARTS, chosen_columns
from jaxnet.data.columns import flat, is_input
from jaxnet.data.numeric import as_array, check_distinct, device_dtype, to_dtype
from jaxnet.errors import InputError


class RandomAccess(Protocol):
    """A length, and records by number: Grain's sources and `MapDataset`, a list, an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A source over records with random access; only what a batch needs is ever read.

    Takes what Grain calls a random-access data source (`ArrayRecordDataSource`, ...) and a
    `grain.MapDataset` with its transformations, a map-style dataset of PyTorch, or anything else
    with `len(records)` and `records[row]`. The threads that read call it at once.

    jaxnet chooses the order and puts batches together, so leave out `shuffle`, `repeat` and
    `batch`; a resumed run reads nothing twice. `random_map` of a `MapDataset` samples again in
    every epoch, and the same again when an epoch is resumed.

    Attributes:
        records: each record is a dict with `inputs` and perhaps `labels` and `weights`, or a pair
            `(inputs, labels)`, or a triple with weights, and all have the same shapes. Inputs and
            labels may be dicts, or tuples of arrays, where there are several.
        rows: (n,) integers, which records to take; by default all.
        labels: (n,) int32 classes, where they are known without reading: `split` stratifies by
            them, and labels that the network has no output for are found before training. Or the
            name of the column of the labels, or several.
        class_names: what class 0, 1, ... is called.
        name: what messages call this dataset.
        inputs: where records are dicts with other names, such as a dataset of Hugging Face's: the
            column of the inputs, or several.
        targets: the column of the labels, or several, where `labels` are known besides.

    Raises:
        InputError: there are no records, or not as many labels.

    Example:
        >>> squares = Records([(np.float32([i]), np.float32(i * i)) for i in range(5)])
        >>> squares.read(np.array([3, 1]), epoch=0)["labels"].tolist()
        [9.0, 1.0]
    """

    records: RandomAccess
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "records"
    inputs: str | Sequence[str] | None = None
    targets: str | Sequence[str] | None = None

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            records: Any,
            rows: np.ndarray | None = None,
            labels: np.ndarray | str | Sequence[str] | None = None,
            class_names: tuple[str, ...] | None = None,
            name: str = "records",
            inputs: str | Sequence[str] | None = None,
            targets: str | Sequence[str] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if _are_names(self.labels):
            object.__setattr__(self, "targets", self.labels)
            object.__setattr__(self, "labels", None)
        if self.targets is not None and self.inputs is None:
            raise InputError(
                f"{self.name}: labels={self.targets!r} names a column: name the inputs' too, "
                "inputs='...'"
            )
        if self.class_names is None and isinstance(self.targets, str):
            # Hugging Face's datasets know what their classes are called.
            features = getattr(self.records, "features", None)
            known = features.get(self.targets) if isinstance(features, Mapping) else None
            names = getattr(known, "names", None)
            object.__setattr__(self, "class_names", tuple(names) if names else None)
        if not len(self):
            raise InputError(f"{self.name}: expected at least one record, got none")
        if self.labels is not None and len(self.labels) != len(self):
            raise InputError(
                f"{self.name}: expected a label for each of {len(self)} records, "
                f"got {len(self.labels)}"
            )

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.records) if self.rows is None else len(self.rows)

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one example."""
        return self._spec

    def read(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """The examples at `rows`, with the example as leading axis.

        Raises:
            InputError: a record isn't like the first one, or float32, which they are cast to, can't
                tell the values of these examples apart.
        """
        chosen = rows if self.rows is None else self.rows[rows]
        records = self._fetch([int(row) for row in chosen], epoch)
        columns = [
            _columns(self._named(record, row), self.name, row)
            for record, row in zip(records, chosen, strict=True)
        ]
        return {name: self._stack(name, columns, chosen) for name in columns[0]}

    def take(self, indices: np.ndarray) -> Records:
        """The records at `indices`, integers (m,), in that order; nothing is read."""
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        labels = None if self.labels is None else self.labels[indices]
        return dataclasses.replace(self, rows=rows, labels=labels)

    @cached_property
    def _spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(column.shape[1:], column.dtype)
            for name, column in self.read(np.array([0]), epoch=0).items()
        }

    def _fetch(self, rows: list[int], epoch: int) -> Sequence[Any]:
        at_once = getattr(self.records, "__getitems__", None)
        if at_once is not None:
            return at_once(rows)
        # A MapDataset goes on after its end with the same records and fresh random numbers.
        offset = epoch * len(self.records) if _is_map_dataset(self.records) else 0
        return [self.records[offset + row] for row in rows]

    def _named(self, record: Any, row: int) -> Any:
        """The record with its columns as inputs and labels, where they have other names."""
        if self.inputs is None or not isinstance(record, Mapping):
            return record
        where = f"{self.name}: record {row}"
        return chosen_columns(record, self.inputs, self.targets, where)

    def _stack(
        self, name: str, columns: Sequence[Mapping[str, np.ndarray]], rows: np.ndarray
    ) -> np.ndarray:
        expected = _spec_of(columns[0][name])
        for values, row in zip(columns, rows, strict=True):
            got = _spec_of(values[name]) if name in values else None
            if got != expected:
                has = "nothing" if got is None else f"{got.dtype} {got.shape}"
                raise InputError(
                    f"{self.name}: expected {name} of {expected.dtype} {expected.shape} in every "
                    f"record, as in record {rows[0]}, got {has} in record {row}. Bring all to "
                    "one shape and type, for instance with a map over the dataset."
                )
        where = f"{self.name}: {name}"
        stacked = np.stack([values[name] for values in columns])
        cast = to_dtype(stacked, expected.dtype, where)
        if cast.dtype != stacked.dtype and cast.dtype.kind == "f":
            check_distinct(
                stacked, where, "subtract a fixed number from them where the records are read"
            )
        return cast


def _are_names(labels: Any) -> bool:
    return isinstance(labels, str) or (
        isinstance(labels, list | tuple) and all(isinstance(name, str) for name in labels)
    )


def _is_map_dataset(records: Any) -> bool:
    # Told by what it can do, so that Grain is imported by nobody but those who use it.
    return hasattr(records, "random_map") and hasattr(records, "to_iter_dataset")


def _columns(record: Any, name: str, row: int) -> dict[str, np.ndarray]:
    """A record as arrays of the types that they have."""
    if isinstance(record, tuple) and len(record) in (2, 3):
        record = dict(zip(PARTS, record, strict=False))
    record = flat(record) if isinstance(record, Mapping) else record
    if not isinstance(record, Mapping) or not any(map(is_input, record)):
        got = f"keys {', '.join(record)}" if isinstance(record, Mapping) else type(record).__name__
        raise InputError(
            f"{name}: expected a record to be a dict with inputs and labels, or a pair of them, "
            f"got {got} in record {row}; name the columns, "
            "jaxnet.data.Records(records, inputs='...', labels='...'), or map the records first"
        )
    return {key: _array(value, f"{name}: {key} of record {row}") for key, value in record.items()}


def _spec_of(array: np.ndarray) -> jax.ShapeDtypeStruct:
    """Shape and type on the device."""
    return jax.ShapeDtypeStruct(array.shape, device_dtype(array.dtype))


def _array(value: Any, where: str) -> np.ndarray:
    values = as_array(value, where)
    # A label is often one uint8 or a plain int: all of them become int32, as in `Arrays`.
    if values.dtype.kind in "ui" and values.ndim == 0:
        return to_dtype(values, np.dtype(np.int32), where)
    return values
