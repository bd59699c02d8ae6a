"""Tables of mixed columns with gaps: CSV, Parquet, data frames and rows from a service.

A table is read as it is. What its columns are (numbers, categories, dates) is recognised here, or
said by the user; how they become numbers is fitted on the training part (`fit_table`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jaxnet.data.numeric import check_distinct
from jaxnet.data.tables import columns
from jaxnet.data.tables.column_kinds import Kind, check_values, explained, or_other_kind, recognised
from jaxnet.data.tables.columns import needs_pandas
from jaxnet.data.tables.files import read_file
from jaxnet.data.tables.reading import Reading
from jaxnet.digests import array_digest, json_digest
from jaxnet.errors import InputError
from jaxnet.files import expanded
from jaxnet.names import lookup

if TYPE_CHECKING:
    import pandas as pd

TargetKind = Literal["auto", "class", "number"]

# What messages call a column of a kind, and several of them.
_WORDS: Mapping[Kind, tuple[str, ...]] = {
    "number": ("number", "numbers"),
    "category": ("category", "categories"),
    "date": ("date", "dates"),
    "presence": ("of which only counts whether there is a value",) * 2,
}

log = logging.getLogger("jaxnet")

# Whole numbers with more values than this are a quantity to predict, not a class.
_MAX_CLASSES = 20
# So many rows a class has at least, on average, where classes are numbers and there are many.
_ROWS_OF_A_CLASS = 5


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
    """

    frame: pd.DataFrame
    labels: np.ndarray
    kinds: Mapping[str, Kind]
    class_names: tuple[str, ...] | None = None
    reading: Reading = Reading()
    name: str = "table"
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def describe(self) -> str:
        """What became of the columns, in a line.

        Example:
            >>> rows = {"x": [1.5, 2.0], "y": ["a", "b"], "z": [None, None]}
            >>> read_table(rows, "y").describe()
            'table: 1 column: 1 number; left out: z'
        """
        counts = Counter(self.kinds.values())
        used = [_counted(counts[kind], *_WORDS[kind]) for kind in _WORDS if counts[kind]]
        left = f"; left out: {_listed(self.left_out)}" if self.left_out else ""
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
        return dataclasses.replace(
            self, frame=self.frame.iloc[indices], labels=self.labels[indices]
        )


def read_table(
    source: Any,
    target: str,
    *,
    kinds: Mapping[str, Kind] | None = None,
    target_kind: TargetKind = "auto",
    gaps: Sequence[str] = (),
    decimal: str = ".",
    thousands: str | None = None,
    units: Sequence[str] = (),
    date_format: str | None = None,
    encoding: str | None = None,
) -> Table:
    """A table with the column to predict, ready for `split`, `k_fold` and `fit_table`.

    Each column is taken for a number (truth values too), a category (text of which there are few),
    a date, or, where nothing else can be made of it, for its presence: whether there is a value.
    Identifiers and free text are left out. A message tells what became of which column, and `kinds`
    decides otherwise. Where more than half of a column looks like numbers or dates that can't be
    read as they are, an error asks how they are written. Rows without a target are left out, with a
    message.

    Args:
        source: a CSV or Parquet file (its ending decides), a data frame, a list of dicts, or a
            dict of columns.
        target: the column to predict.
        kinds: what to take some columns for: `"number"`, `"category"`, `"date"`, `"presence"` or
            `"drop"`.
        target_kind: `"class"` or `"number"`; `"auto"` takes text, truth values and up to 20
            different whole numbers for classes.
        gaps: words that stand for a missing value, besides those that pandas knows in files.
        decimal: what stands for the decimal point.
        thousands: what stands between groups of digits, such as `","` in 10,251.
        units: signs and words beside numbers that are taken away, such as `"$"`, `"%"` or `"kg"`.
        date_format: how dates are written, such as `"%d.%m.%Y"`, besides ISO 8601.
        encoding: that of a file which isn't in UTF-8, such as `"cp1252"`.

    Raises:
        InputError: the file can't be read or holds no row, a column is not there, there twice or
            not what `kinds` says, or all targets are the same.
        UsageError: an option of how values are written can't be; see `Reading`.

    Example:
        >>> rows = [
        ...     {"height": "1,6", "colour": "red", "ripe": "yes"},
        ...     {"height": "?", "colour": "green", "ripe": "no"},
        ... ]
        >>> table = read_table(rows, target="ripe", decimal=",", gaps=["?"])
        >>> table.kinds, table.class_names, table.labels.tolist()
        ({'height': 'number', 'colour': 'category'}, ('no', 'yes'), [1, 0])
    """
    name = expanded(source).name if isinstance(source, str | Path) else "table"
    reading = Reading(gaps, decimal, thousands, units, date_format, encoding)
    frame: Any = as_frame(source, reading)
    if len(frame) == 0:
        raise InputError(f"{name}: expected rows, got a table with none")
    if target not in frame.columns:
        raise InputError(
            f"{name}: expected a column {target!r} to predict, got {_listed(frame.columns)}"
        )
    known = ~frame[target].isna()
    if not known.all():
        log.warning(
            "%s: %d of %d rows have no %s and are left out",
            name,
            int((~known).sum()),
            len(known),
            target,
        )
        frame = frame[known].reset_index(drop=True)
    labels, class_names = _labels(frame[target], target_kind, reading, name)
    features = frame.drop(columns=target)
    used = _kinds(features, kinds or {}, reading, name)
    left_out = tuple(column for column in features.columns if column not in used)
    return Table(features[list(used)], labels, used, class_names, reading, name, left_out)


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


def _labels(
    target: pd.Series, kind: TargetKind, reading: Reading, name: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The column to predict as classes and their names, or as numbers."""
    where = f"{name}: the target {target.name!r}"
    if kind not in get_args(TargetKind):
        raise InputError(f"{where}: expected {_choices(TargetKind)}, got {kind!r}")
    if len(target) == 0:
        raise InputError(f"{where} is missing in all rows, so that there is nothing to learn")
    check_values(target, where)
    if kind == "number" or (kind == "auto" and _is_quantity(target)):
        numbers, labels = _numbers(target, reading, where), None
        if not np.ptp(numbers):
            raise InputError(f"{where} is {numbers[0]:g} in all rows: there is nothing to learn")
        advice = "subtract a fixed number from the column, and predict the difference"
        check_distinct(numbers, where, advice)
        return numbers.astype(np.float32), labels
    if kind == "class":
        _check_classes(target, where)
    codes, values = columns.texts(target)
    if kind == "auto" and len(values) > _MAX_CLASSES and (asked := explained(target, reading)):
        raise InputError(f"{where}: {asked}")
    order = sorted(range(len(values)), key=lambda i: columns.in_order(values[i]))
    if len(values) < 2:
        raise InputError(f"{where} is {values[0]!r} in all rows: there is nothing to learn")
    return np.argsort(order)[codes].astype(np.int32), tuple(values[i] for i in order)


def _is_quantity(target: pd.Series) -> bool:
    if not columns.is_number(target) or columns.is_truth(target):
        return False
    values = np.unique(columns.numbers(target))
    return len(values) > _MAX_CLASSES or not np.equal(values, np.round(values)).all()


def _check_classes(target: pd.Series, where: str) -> None:
    """Refuse a quantity, whose values are hardly ever the same."""
    if not _is_quantity(target):
        return
    values = np.unique(columns.numbers(target))
    if len(values) > _MAX_CLASSES and len(values) * _ROWS_OF_A_CLASS > len(target):
        raise InputError(
            f"{where} has {len(values)} different numbers in {len(target)} rows, such as "
            f"{values[0]:g}: that is a number to predict, not a class; train.regress predicts "
            'numbers (target_kind="number"). If they are names of classes, make them text'
        )


def _numbers(series: pd.Series, reading: Reading, where: str) -> np.ndarray:
    """The numbers of a column that was said to hold some; the error tells how to read it."""
    try:
        return columns.numbers(series, reading, where)
    except InputError:
        if asked := explained(series, reading):
            raise InputError(f"{where}: {asked}") from None
        raise


def _kinds(
    features: Any, given: Mapping[str, Kind], reading: Reading, name: str
) -> dict[str, Kind]:
    """The kind of each column that is used; messages about the others."""
    for column, kind in given.items():
        lookup(column, dict.fromkeys(features.columns), f"column of {name}")
        if kind not in get_args(Kind):
            raise InputError(f"{name}: {column}: expected {_choices(Kind)}, got {kind!r}")
    used: dict[str, Kind] = {}
    for column in features.columns:
        series, where = features[column], f"{name}: {column}"
        if column in given:
            kind, reason = given[column], ""
            _check_kind(series, kind, reading, where)
        else:
            kind, reason = recognised(series, reading, where)
        if reason:
            fate = "left out" if kind == "drop" else "only whether there is a value is used"
            log.warning("%s: %s; %s", where, reason, fate)
        if kind != "drop":
            used[column] = kind
    if not used:
        raise InputError(
            f"{name}: expected a column to learn from, got {_listed(features.columns)}"
        )
    return used


def _check_kind(series: pd.Series, kind: Kind, reading: Reading, where: str) -> None:
    """Raise `InputError` where a column isn't what it was said to be."""
    if kind == "category":
        check_values(series.dropna(), where)
    elif kind == "number":
        try:
            _numbers(series, reading, where)
        except InputError as error:
            raise InputError(f"{error}. {or_other_kind(str(series.name))}") from None
    elif kind == "date":
        columns.dates(series, reading, where)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")


def _choices(literal: Any) -> str:
    return " or ".join(map(repr, get_args(literal)))
