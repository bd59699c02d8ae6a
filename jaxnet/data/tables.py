"""Tables of mixed columns with gaps: CSV, Parquet, data frames and rows from a service.

A table is read as it is. What its columns are (numbers, categories, dates) is recognised here, or
said by the user; how they become numbers is fitted on the training part (`fit_table`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jaxnet.data import columns
from jaxnet.data.columns import needs_pandas
from jaxnet.errors import InputError
from jaxnet.files import expanded
from jaxnet.names import lookup

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "category", "date", "presence", "drop"]
TargetKind = Literal["auto", "class", "number"]

log = logging.getLogger("jaxnet")

# Whole numbers with more values than this are a quantity to predict, not a class.
_MAX_CLASSES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The columns to learn from, as they were read, and what to learn.

    Attributes:
        frame: a data frame of n rows, with every column of `kinds`.
        labels: (n,) int32 classes or float32 numbers.
        kinds: what each column that is used is taken for, by name.
        class_names: what class 0, 1, ... is called; None where the target is a number.
        gaps: words that stand for a missing value.
        name: what messages call this table.
    """

    frame: pd.DataFrame
    labels: np.ndarray
    kinds: Mapping[str, Kind]
    class_names: tuple[str, ...] | None = None
    gaps: tuple[str, ...] = ()
    name: str = "table"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

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
) -> Table:
    """A table with the column to predict, ready for `split`, `k_fold` and `fit_table`.

    Each column is taken for a number (truth values too), a category (text of which there are few),
    a date (ISO 8601), or, where nothing else can be made of it, for its presence: whether there is
    a value. Identifiers and free text are dropped. A message tells what became of which column, and
    `kinds` decides otherwise. Rows without a target are dropped, with a message.

    Args:
        source: a CSV or Parquet file (its ending decides), a data frame, a list of dicts, or a
            dict of columns.
        target: the column to predict.
        kinds: what to take some columns for: `"number"`, `"category"`, `"date"`, `"presence"` or
            `"drop"`.
        target_kind: `"class"` or `"number"`; `"auto"` takes text, truth values and up to 20
            different whole numbers for classes.
        gaps: words that stand for a missing value, besides those that pandas knows (an empty
            field, NA, NaN, null, ...).

    Raises:
        InputError: the file can't be read or holds no row, a column is not there or not what
            `kinds` says, or all targets are the same.

    Example:
        >>> rows = [
        ...     {"height": 1.6, "colour": "red", "ripe": "yes"},
        ...     {"height": None, "colour": "green", "ripe": "no"},
        ... ]
        >>> table = read_table(rows, target="ripe")
        >>> table.kinds, table.class_names, table.labels.tolist()
        ({'height': 'number', 'colour': 'category'}, ('no', 'yes'), [1, 0])
    """
    name = expanded(source).name if isinstance(source, str | Path) else "table"
    frame: Any = as_frame(source, gaps)
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
    labels, class_names = _labels(frame[target], target_kind, name)
    features = frame.drop(columns=target)
    used = _kinds(features, kinds or {}, name)
    return Table(features[list(used)], labels, used, class_names, tuple(gaps), name)


def as_frame(source: Any, gaps: Sequence[str] = ()) -> pd.DataFrame:
    """A data frame of a file, of rows or of columns, with rows numbered from 0.

    Args:
        source: the path of a CSV or Parquet file, a data frame (pandas, or anything with
            `to_pandas`), a list of dicts, one dict of values, or a dict of columns.
        gaps: words that stand for a missing value.

    Raises:
        InputError: it is none of these, or the file can't be read.

    Example:
        >>> as_frame([{"a": 1, "b": "x"}, {"a": 2}], gaps=["x"])["b"].isna().tolist()
        [True, True]
    """
    pandas = needs_pandas()
    if isinstance(source, str | Path):
        frame = _read_file(expanded(source))
    elif isinstance(source, pandas.DataFrame):
        frame = source.reset_index(drop=True)
    elif hasattr(source, "to_pandas"):
        frame = source.to_pandas()
    else:
        frame = _from_python(source)
    names = [str(column) for column in frame.columns]
    frame.columns = names
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise InputError(f"expected columns of different names, got {twice!r} more than once")
    return frame.mask(frame.isin(list(gaps))) if gaps else frame


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


def _read_file(path: Path) -> pd.DataFrame:
    pandas = needs_pandas()
    try:
        if path.suffix in (".parquet", ".pq"):
            return pandas.read_parquet(path)
        return _read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'jaxnet[tables]'") from error
    except (ValueError, UnicodeError) as error:  # pandas' and pyarrow's own are ValueErrors
        raise InputError(
            f"{path}: this can't be read as {path.suffix.lstrip('.') or 'CSV'}: {error}"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    pandas = needs_pandas()
    frame = pandas.read_csv(path, skipinitialspace=True, low_memory=False)
    if len(frame.columns) == 1:
        # No comma, so that other separators may be tried.
        header = str(frame.columns[0])
        separator = max(";\t|", key=header.count)
        if separator in header:
            return pandas.read_csv(path, sep=separator, skipinitialspace=True, low_memory=False)
    return frame


def _labels(
    target: pd.Series, kind: TargetKind, name: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The column to predict as classes and their names, or as numbers."""
    where = f"{name}: the target {target.name!r}"
    if kind not in get_args(TargetKind):
        raise InputError(f"{where}: expected {_choices(TargetKind)}, got {kind!r}")
    if len(target) == 0:
        raise InputError(f"{where} is missing in all rows, so that there is nothing to learn")
    if kind == "number" or (kind == "auto" and _is_quantity(target)):
        numbers, labels = columns.numbers(target, where), None
        if not np.ptp(numbers):
            raise InputError(f"{where} is {numbers[0]:g} in all rows: there is nothing to learn")
        return numbers.astype(np.float32), labels
    codes, values = columns.texts(target)
    order = sorted(range(len(values)), key=lambda i: columns.in_order(values[i]))
    if len(values) < 2:
        raise InputError(f"{where} is {values[0]!r} in all rows: there is nothing to learn")
    return np.argsort(order)[codes].astype(np.int32), tuple(values[i] for i in order)


def _is_quantity(target: pd.Series) -> bool:
    if not columns.is_number(target) or columns.is_truth(target):
        return False
    values = np.unique(columns.numbers(target))
    return len(values) > _MAX_CLASSES or not np.equal(values, np.round(values)).all()


def _kinds(features: Any, given: Mapping[str, Kind], name: str) -> dict[str, Kind]:
    """The kind of each column that is used; messages about the others."""
    for column, kind in given.items():
        lookup(column, dict.fromkeys(features.columns), f"column of {name}")
        if kind not in get_args(Kind):
            raise InputError(f"{name}: {column}: expected {_choices(Kind)}, got {kind!r}")
    used: dict[str, Kind] = {}
    for column in features.columns:
        if column in given:
            kind, reason = given[column], ""
        else:
            kind, reason = _recognised(features[column], f"{name}: {column}")
        if reason:
            fate = "left out" if kind == "drop" else "only whether there is a value is used"
            log.warning("%s: %s: %s; %s", name, column, reason, fate)
        if kind != "drop":
            used[column] = kind
    if not used:
        raise InputError(
            f"{name}: expected a column to learn from, got {_listed(features.columns)}"
        )
    return used


def _recognised(series: pd.Series, where: str) -> tuple[Kind, str]:
    """What a column is taken for, and the reason where it isn't used as it is."""
    values = series.dropna()
    if not len(values):
        return "drop", "it has no value at all"
    if columns.is_date(series):
        return "date", ""
    if columns.is_number(series):
        return ("drop", "it numbers the rows") if _numbers_rows(series) else ("number", "")
    numeric = columns.share_of_numbers(values)
    if numeric == 1:
        return "number", ""
    if numeric > 0.95:
        bad = columns.first_no_number(series)
        raise InputError(
            f"{where}: expected numbers as in {numeric:.0%} of the rows, got {bad[1]!r} in row "
            f"{bad[0]}. Say gaps=[{bad[1]!r}] if it stands for a missing value, or give this "
            "column another kind."
        )
    if columns.are_dates(values):
        return "date", ""
    _, different = columns.texts(values)
    if len(different) > max(10, len(values) / 2) or np.mean([len(v) for v in different]) > 50:
        reason = (
            f"free text or an identifier, {len(different)} different values in {len(values)} rows"
        )
        return ("presence" if len(values) < len(series) else "drop"), reason
    return "category", ""


def _numbers_rows(series: pd.Series) -> bool:
    """Whether these are 1, 2, 3, ... in some order: an identifier, which says nothing."""
    if columns.is_truth(series) or series.isna().any() or len(series) <= 10:
        return False
    values = np.sort(columns.numbers(series))
    return bool((np.diff(values) == 1).all())


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")


def _choices(literal: Any) -> str:
    return " or ".join(map(repr, get_args(literal)))
