"""Tables from CSV, Parquet, data frames and rows from a service.

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

from jaxnet.data.numeric import check_distinct
from jaxnet.data.tables import columns
from jaxnet.data.tables.column_kinds import Kind, check_values, explained, or_other_kind, recognised
from jaxnet.data.tables.reading import Reading
from jaxnet.data.tables.table import Table, as_frame, listed
from jaxnet.errors import InputError
from jaxnet.files import expanded
from jaxnet.names import lookup

if TYPE_CHECKING:
    import pandas as pd

TargetKind = Literal["auto", "class", "number"]

log = logging.getLogger("jaxnet")

# Whole numbers with more values than this are a quantity to predict, not a class.
_MAX_CLASSES = 20
# So many rows a class has at least, on average, where classes are numbers and there are many.
_ROWS_OF_A_CLASS = 5


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
    reading = Reading(gaps, decimal, thousands, units, date_format, encoding)
    name, frame = _with_target(source, target, reading)
    labels, class_names = _labels(frame[target], target_kind, reading, name)
    features = frame.drop(columns=target)
    used = _kinds(features, kinds or {}, reading, name)
    left_out = [column for column in features.columns if column not in used]
    return Table(
        features[list(used)],
        labels,
        used,
        class_names,
        reading,
        name,
        tuple(left_out),
        features[left_out],
        target,
    )


def read_table_like(source: Any, like: Table) -> Table:
    """Rows with the columns, classes and ways of writing of another table: a file of test data.

    Args:
        source: what `read_table` takes.
        like: the table whose rows are trained on.

    Raises:
        InputError: a column, or the target, isn't there or isn't what it is in `like`, or a row is
            of a class that `like` lacks.

    Example:
        >>> table = read_table({"x": [1.5, 2.5, 3.0], "y": ["b", "a", "b"]}, target="y")
        >>> test = read_table_like({"y": ["b"], "x": [9.0], "z": ["?"]}, table)
        >>> test.labels.tolist(), test.class_names, list(test.frame)
        ([1], ('a', 'b'), ['x'])
    """
    name, frame = _with_target(source, like.target, like.reading)
    if missing := [column for column in like.kinds if column not in frame.columns]:
        raise InputError(
            f"{name}: expected the columns of {like.name}, {listed(like.kinds)}, got "
            f"{listed(frame.columns)}: {listed(missing)} isn't there"
        )
    for column, kind in like.kinds.items():
        _check_kind(frame[column], kind, like.reading, f"{name}: {column}")
    target, where = frame[like.target], f"{name}: the target {like.target!r}"
    if like.class_names is None:
        labels = _numbers(target, like.reading, where).astype(np.float32)
    else:
        codes, values = columns.texts(target)
        place = {value: i for i, value in enumerate(like.class_names)}
        if unknown := [value for value in values if value not in place]:
            raise InputError(
                f"{where} has the class {listed(unknown)}, which {like.name} lacks: its classes "
                f"are {listed(like.class_names)}"
            )
        labels = np.array([place[value] for value in values], np.int32)[codes]
    rest = [column for column in frame.columns if column not in (*like.kinds, like.target)]
    return dataclasses.replace(
        like,
        frame=frame[list(like.kinds)],
        labels=labels,
        name=name,
        left_out=tuple(rest),
        others=frame[rest],
    )


def _with_target(source: Any, target: str, reading: Reading) -> tuple[str, Any]:
    """The name of a table, and its rows that have a target."""
    name = expanded(source).name if isinstance(source, str | Path) else "table"
    frame: Any = as_frame(source, reading)
    if len(frame) == 0:
        raise InputError(f"{name}: expected rows, got a table with none")
    if target not in frame.columns:
        raise InputError(
            f"{name}: expected a column {target!r} to predict, got {listed(frame.columns)}"
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
    if not len(frame):
        raise InputError(
            f"{name}: the target {target!r} is missing in all rows, so that there is nothing to "
            "learn"
        )
    return name, frame


def _labels(
    target: pd.Series, kind: TargetKind, reading: Reading, name: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The column to predict as classes and their names, or as numbers."""
    where = f"{name}: the target {target.name!r}"
    if kind not in get_args(TargetKind):
        raise InputError(f"{where}: expected {_choices(TargetKind)}, got {kind!r}")
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
        raise InputError(f"{name}: expected a column to learn from, got {listed(features.columns)}")
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


def _choices(literal: Any) -> str:
    return " or ".join(map(repr, get_args(literal)))
