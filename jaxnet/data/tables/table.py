"""Tables of mixed columns with gaps: their rows, and data frames of whatever holds rows."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.data.tables import columns
from jaxnet.data.tables.column_kinds import Kind
from jaxnet.data.tables.columns import needs_pandas
from jaxnet.data.tables.files import read_file
from jaxnet.data.tables.reading import Reading
from jaxnet.digests import array_digest, json_digest
from jaxnet.errors import InputError
from jaxnet.files import expanded
from jaxnet.names import lookup

if TYPE_CHECKING:
    import pandas as pd

# What messages call a column of a kind, and several of them.
_WORDS: Mapping[Kind, tuple[str, ...]] = {
    "number": ("number", "numbers"),
    "category": ("category", "categories"),
    "date": ("date", "dates"),
    "presence": ("of which only counts whether there is a value",) * 2,
}

log = logging.getLogger("jaxnet")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The columns to learn from, as they were read, and what to learn.

    Attributes:
        frame: a data frame of n rows, with every column of `kinds`.
        labels: (n,) int32 classes or float32 numbers.
        kinds: what each column that is used is taken for, by name.
        class_names: what class 0, 1, ... is called; None where the target is a number.
        reading: how the values are written.
        name: what messages call this table.
        left_out: the columns that aren't used.
        others: a data frame of those columns: `split_by_time` and `split_by_group` take them too.
        target: the column that was to be predicted.
    """

    frame: pd.DataFrame
    labels: np.ndarray
    kinds: Mapping[str, Kind]
    class_names: tuple[str, ...] | None = None
    reading: Reading = Reading()
    name: str = "table"
    left_out: tuple[str, ...] = ()
    others: pd.DataFrame | None = None
    target: str = ""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def describe(self) -> str:
        """What became of the columns, in a line.

        Example:
            >>> from jaxnet.data import read_table
            >>> rows = {"x": [1.5, 2.0], "y": ["a", "b"], "z": [None, None]}
            >>> read_table(rows, "y").describe()
            'table: 1 column: 1 number; left out: z'
        """
        counts = Counter(self.kinds.values())
        used = [_counted(counts[kind], *_WORDS[kind]) for kind in _WORDS if counts[kind]]
        left = f"; left out: {listed(self.left_out)}" if self.left_out else ""
        columns = _counted(len(self.kinds), "column", "columns")
        return f"{self.name}: {columns}: {', '.join(used)}{left}"

    def fingerprint(self) -> dict[str, str]:
        """What identifies this table; see `jaxnet.data.fingerprints`."""
        from pandas.util import hash_pandas_object

        frame: Any = self.frame
        hashes: Any = hash_pandas_object
        columns = {
            f"column {name!r}": array_digest(hashes(column, index=False).to_numpy())
            for name, column in frame.items()
        }
        return {
            **columns,
            "column order": json_digest([str(name) for name in frame]),
            "kinds of columns": json_digest([dict(self.kinds), dataclasses.asdict(self.reading)]),
            "labels": array_digest(self.labels),
            "class names": json_digest(self.class_names),
        }

    def take(self, indices: np.ndarray) -> Table:
        """The rows at `indices`, in that order."""
        others = None if self.others is None else self.others.iloc[indices]
        return dataclasses.replace(
            self, frame=self.frame.iloc[indices], labels=self.labels[indices], others=others
        )

    def without(self, column: str) -> Table:
        """The table with a column that isn't an input any more.

        Raises:
            InputError: no other is left to learn from.
        """
        if column not in self.kinds:
            return self
        kinds = {name: kind for name, kind in self.kinds.items() if name != column}
        if not kinds:
            raise InputError(
                f"{self.name}: expected a column to learn from besides {column}, got none"
            )
        log.info("%s: %s is left out of the inputs", self.name, column)
        others = self.frame[[column]]
        if self.others is not None:
            others = others.join(self.others)
        left_out = (*self.left_out, column)
        frame: Any = self.frame[list(kinds)]
        return dataclasses.replace(self, frame=frame, kinds=kinds, left_out=left_out, others=others)

    def times(self, column: str) -> np.ndarray:
        """A column as (n,) float64 by which rows can be ordered in time: numbers, or days.

        Raises:
            InputError: there is no such column, a value is missing, or is neither number nor date.
        """
        series, where = self._complete(column), f"{self.name}: {column}"
        numbers = columns.parsed(series, self.reading)
        if columns.is_date(series) or np.isnan(numbers).any():
            return columns.dates(series, self.reading, where)[:, 0]
        return numbers

    def groups(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A column as (n,) numbers of its different values, and these values.

        Raises:
            InputError: there is no such column, or a value is missing.
        """
        return columns.texts(self._complete(column))

    def _complete(self, column: str) -> pd.Series:
        """A column, used or not, in which every row has a value."""
        known: dict[Any, Any] = dict(self.frame.items())
        if self.others is not None:
            known |= dict(self.others.items())
        series = lookup(column, known, f"column of {self.name}")
        gaps = series.isna().to_numpy()
        if gaps.any():
            raise InputError(
                f"{self.name}: {column}: {int(gaps.sum())} of {len(gaps)} rows have no value, the "
                f"first is row {int(gaps.argmax())}: fill them, or leave out those rows"
            )
        return series


def as_frame(source: Any, reading: Reading = Reading()) -> pd.DataFrame:  # noqa: B008
    """A data frame of a file, of rows or of columns, with rows numbered from 0.

    Args:
        source: the path of a CSV or Parquet file, a data frame (pandas, or anything with
            `to_pandas`), a list of dicts, one dict of values, or a dict of columns.
        reading: how values are written; what it says of gaps is done here, and what it says of
            numbers and dates is for who reads these from the columns.

    Raises:
        InputError: it is none of these, the file can't be read, or two columns have one name.

    Example:
        >>> as_frame([{"a": 1, "b": "x"}, {"a": -9, "b": "y"}], Reading(gaps=("-9",)))["a"].tolist()
        [1.0, nan]
    """
    pandas = needs_pandas()
    if isinstance(source, str | Path):
        frame = read_file(expanded(source), reading)
    elif isinstance(source, pandas.DataFrame):
        frame = source
    elif hasattr(source, "to_pandas"):
        frame = source.to_pandas()
    else:
        frame = _from_python(source)
    names = [str(column).strip() for column in frame.columns]
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise InputError(f"expected columns of different names, got {twice!r} more than once")
    frame = frame.reset_index(drop=True).set_axis(names, axis=1)
    plain = {name: _plain(column, reading) for name, column in frame.items()}
    return pandas.DataFrame(plain, index=frame.index)


def _plain(series: Any, reading: Reading) -> pd.Series:
    """A column with its categories written out, and nothing where there is a word for a gap."""
    types = needs_pandas().api.types
    if isinstance(series.dtype, needs_pandas().CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    if not reading.gaps or types.is_bool_dtype(series.dtype):
        return series
    try:
        codes, different = needs_pandas().factorize(series)
    except TypeError:  # lists, which can't be told apart
        return series
    gaps = np.array([*map(reading.is_gap, different), False])
    return series.mask(gaps[codes]) if gaps.any() else series


def _from_python(source: Any) -> pd.DataFrame:
    pandas = needs_pandas()
    if isinstance(source, Mapping) and not any(np.ndim(value) for value in source.values()):
        source = [source]
    rows = isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source)
    if not rows and not isinstance(source, Mapping):
        raise InputError(
            "expected a file, a data frame, a list of dicts or a dict of columns, got "
            f"{type(source).__name__}"
        )
    try:
        return pandas.DataFrame(source)
    except ValueError as error:
        raise InputError(f"the columns make no table: {error}") from error


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def listed(names: Any) -> str:
    """Names as a message shows them, the first 20 of many."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
