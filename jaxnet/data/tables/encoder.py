"""From the columns of a table to the numbers a network takes: fitted once, kept as plain data."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.tables import columns
from jaxnet.data.tables.reading import Reading
from jaxnet.data.tables.table import Table, as_frame
from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("jaxnet")

MISSING = "(missing)"
OTHER = "(other)"

_TINY = float(np.finfo(np.float32).tiny)
_DATE_PARTS = ("days", "year sine", "year cosine", "week sine", "week cosine")


def _as_one_number(series: pd.Series, reading: Reading) -> np.ndarray:
    return columns.numbers(series, reading)[:, None]


class _Source(NamedTuple):
    """How a kind of column becomes numbers, and what these are called after its name."""

    read: Callable[[Any, Reading], np.ndarray]
    parts: tuple[str, ...]


_SOURCES: Mapping[str, _Source] = {
    "number": _Source(_as_one_number, ("",)),
    "date": _Source(columns.dates, tuple(f" {part}" for part in _DATE_PARTS)),
}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A column of numbers or dates: gaps filled, then `(value - shift) * scale`.

    Attributes:
        name: the column.
        kind: `"number"`, or `"date"`, of which five numbers are made (`columns.dates`).
        fill: what stands for a gap, one for each number that is made of a value.
        shift: likewise.
        scale: likewise.
        gaps: whether a last feature tells where there was a gap.
    """

    name: str
    kind: Literal["number", "date"]
    fill: tuple[float, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    gaps: bool

    @property
    def features(self) -> tuple[str, ...]:
        """What the features are called."""
        parts = [self.name + part for part in _SOURCES[self.kind].parts]
        return (*parts, *([f"{self.name} {MISSING}"] if self.gaps else []))

    def encode(self, series: pd.Series, reading: Reading) -> np.ndarray:
        """The features (n, len(features)), float64."""
        values = _SOURCES[self.kind].read(series, reading)
        gaps = np.isnan(values)
        scaled = (np.where(gaps, self.fill, values) - self.shift) * self.scale
        return np.concatenate([scaled, gaps[:, :1]], axis=1) if self.gaps else scaled


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of categories: one feature for each, 1 where the value is that one.

    A value that the training part didn't have is `"(other)"` if that is among the values, and no
    category (all zeros) if it isn't.

    Attributes:
        name: the column.
        values: the categories, perhaps `"(missing)"` and `"(other)"` among them.
        gap: the one that stands for a gap; None makes it no category.
    """

    name: str
    values: tuple[str, ...]
    gap: str | None

    @property
    def features(self) -> tuple[str, ...]:
        """What the features are called."""
        return tuple(f"{self.name}={value}" for value in self.values)

    def encode(self, series: pd.Series, reading: Reading) -> np.ndarray:
        """The features (n, len(features)), float64."""
        codes, texts = columns.texts(series)
        place = {value: i for i, value in enumerate(self.values)}
        none = len(self.values)
        other = place.get(OTHER, none)
        places = [place.get(self._known(text), other) for text in texts]
        gap = none if self.gap is None else place[self.gap]
        # The code of a gap is -1. The place behind the last category is cut off.
        return np.eye(none + 1, none)[np.array([*places, gap])[codes]]

    def _known(self, text: str) -> str:
        """The category that a text spells, perhaps as another number: 1 is 01 where 1 is none."""
        if text in self.values:
            return text
        number = columns.AS_WRITTEN.number(text)
        return self._by_number.get(number, text) if number is not None else text

    @cached_property
    def _by_number(self) -> Mapping[float, str]:
        """The categories that are numbers no other one is: a file of digits alone is read as such.

        Whether 01 is a word or a number hangs on the other rows of a CSV file.
        """
        spelt = [(columns.AS_WRITTEN.number(value), value) for value in self.values]
        counts = Counter(number for number, _ in spelt)
        return {n: value for n, value in spelt if n is not None and counts[n] == 1}


@dataclasses.dataclass(frozen=True)
class Presence:
    """A column of which only counts whether there is a value."""

    name: str

    @property
    def features(self) -> tuple[str, ...]:
        """What the feature is called."""
        return (f"{self.name} (present)",)

    def encode(self, series: pd.Series, reading: Reading) -> np.ndarray:
        """1 where there is a value, (n, 1) float64."""
        return series.notna().to_numpy(np.float64)[:, None]


Column = Numbers | Category | Presence
_COLUMNS: Mapping[str, type[Any]] = {
    "numbers": Numbers,
    "category": Category,
    "presence": Presence,
}


@dataclasses.dataclass(frozen=True)
class TableEncoder:
    """The pure function from raw rows to the inputs of a network, made by `fit_table`.

    It is plain data: it can be hashed and written as JSON, and a `Bundle` keeps it, so that the
    trained network takes raw tables.

    Attributes:
        columns: how each column is encoded; all others are ignored.
        reading: how raw values are written.
    """

    columns: tuple[Column, ...]
    reading: Reading = Reading()

    @property
    def features(self) -> tuple[str, ...]:
        """What the inputs are called, in order: `"Age"`, `"Age (missing)"`, `"Sex=male"`, ..."""
        return tuple(feature for column in self.columns for feature in column.features)

    @property
    def shape(self) -> tuple[int]:
        """The shape of one row's inputs."""
        return (len(self.features),)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The range [start, stop) of the inputs that each categorical column became."""
        ends = np.cumsum([len(column.features) for column in self.columns]).tolist()
        return tuple(
            (end - len(column.features), end)
            for column, end in zip(self.columns, ends, strict=True)
            if isinstance(column, Category)
        )

    def __call__(self, rows: Any) -> np.ndarray:
        """The inputs of raw rows, float32 (n, len(features)), without a gap.

        Args:
            rows: whatever `read_table` takes as its source, with or without the target.

        Raises:
            InputError: a column is missing, or a value isn't what its column was fitted on.
        """
        frame: Any = as_frame(rows, self.reading)
        if missing := [column.name for column in self.columns if column.name not in frame.columns]:
            raise InputError(
                f"the table lacks {', '.join(missing)}; expected the columns "
                f"{', '.join(column.name for column in self.columns)}"
            )
        if len(frame) == 0:
            raise InputError("expected rows, got a table with none")
        encoded = [column.encode(frame[column.name], self.reading) for column in self.columns]
        return np.concatenate(encoded, axis=1).astype(np.float32)

    def arrays(self, table: Table) -> Arrays:
        """The inputs and labels of a table's rows."""
        return Arrays(self(table.frame), table.labels, None, table.class_names, table.name)

    def to_dict(self) -> dict[str, Any]:
        """The fitted numbers as JSON knows them; `from_dict` is the way back."""
        kinds = {kind: name for name, kind in _COLUMNS.items()}
        described = [
            {"encoding": kinds[type(column)], **dataclasses.asdict(column)}
            for column in self.columns
        ]
        return {"columns": described, **self.reading.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableEncoder:
        """The encoder that `to_dict` wrote down.

        Raises:
            InputError: these are not the values of an encoder.
        """
        try:
            described = [dict(column) for column in values["columns"]]
            made = [_COLUMNS[column.pop("encoding")](**_tuples(column)) for column in described]
            # Earlier bundles know gaps alone.
            return cls(tuple(made), Reading.from_dict(values))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these values describe no TableEncoder: {error!r}") from error


def fit_table(
    train: Table,
    *,
    number_gaps: Literal["median", "mean"] = "median",
    category_gaps: Literal["own", "most_frequent"] = "own",
    indicate_gaps: bool = True,
    max_categories: int = 100,
) -> TableEncoder:
    """How to encode a table's columns, fitted on its training part.

    Numbers and dates are brought to mean 0 and standard deviation 1, gaps in them filled, with a
    further feature that tells where they were. A category becomes one feature for each of its
    values. A column in which all rows of the training part are the same is left out, with a
    message.

    Args:
        train: the training part and nothing else: what other rows look like is not known when a
            network is trained.
        number_gaps: what fills a gap among numbers and dates.
        category_gaps: whether gaps are a category of their own, or the most frequent one.
        indicate_gaps: whether to tell where numbers were missing.
        max_categories: the most frequent values of a column that are told apart; the others
            become one.

    Raises:
        InputError: a column isn't of its kind, or none is left.
        UsageError: an option is none of these.

    Example:
        >>> from jaxnet.data import read_table
        >>> rows = [{"x": 1.0, "c": "a", "y": 0}, {"x": None, "c": "b", "y": 1},
        ...         {"x": 3.0, "c": "b", "y": 1}]
        >>> encoder = fit_table(read_table(rows, "y"))
        >>> encoder.features
        ('x', 'x (missing)', 'c=a', 'c=b')
        >>> encoder([{"x": None, "c": "never seen"}]).tolist()
        [[0.0, 1.0, 0.0, 0.0]]
    """
    _check_options(number_gaps, category_gaps, max_categories)
    fitted: list[Column] = []
    for name, kind in train.kinds.items():
        series: Any = train.frame[name]
        if kind == "category":
            column = _fit_category(series, name, category_gaps, max_categories)
        elif kind == "presence":
            column = Presence(name)
        else:
            values = _SOURCES[kind].read(series, train.reading)
            column = _fit_numbers(values, name, kind, number_gaps, indicate_gaps)
        if _varies(column, series, train.reading):
            fitted.append(column)
        else:
            log.warning(
                "%s: %s: the same in all rows of the training part; left out", train.name, name
            )
    if not fitted:
        raise InputError(
            f"{train.name}: every column is the same in all rows of the training part, so that "
            "there is nothing to learn from"
        )
    return TableEncoder(tuple(fitted), train.reading)


def _fit_numbers(
    values: np.ndarray, name: str, kind: Any, number_gaps: str, indicate_gaps: bool
) -> Column:
    gaps = np.isnan(values[:, 0])
    indicated = bool(indicate_gaps and gaps.any())
    present = np.zeros_like(values[:1]) if gaps.all() else values[~gaps]
    if indicated and not np.ptp(present, axis=0).any():
        return Presence(name)  # one value or none
    fill = np.median(present, axis=0) if number_gaps == "median" else present.mean(axis=0)
    # With the gaps filled, as scikit-learn's SimpleImputer and StandardScaler in a row.
    filled = np.where(gaps[:, None], fill, values)
    constant = np.ptp(filled, axis=0) == 0
    shift = np.where(constant, fill, filled.mean(axis=0))
    scale = 1 / np.where(constant, 1.0, np.maximum(filled.std(axis=0), _TINY))
    return Numbers(
        name, kind, tuple(fill.tolist()), tuple(shift.tolist()), tuple(scale.tolist()), indicated
    )


def _fit_category(
    series: pd.Series, name: str, category_gaps: str, max_categories: int
) -> Category:
    codes, texts = columns.texts(series)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    # The most frequent first; of equally frequent ones that which is first in order.
    ranked = sorted(range(len(texts)), key=lambda i: (-counts[i], columns.in_order(texts[i])))
    kept = [texts[i] for i in ranked[:max_categories]]
    values = sorted(kept, key=columns.in_order)
    if len(ranked) > max_categories:
        values.append(OTHER)
    gap = kept[0] if category_gaps == "most_frequent" and kept else None
    if category_gaps == "own" and (codes < 0).any():
        gap = MISSING
        values.append(MISSING)
    return Category(name, tuple(values), gap)


def _varies(column: Column, series: pd.Series, reading: Reading) -> bool:
    """Whether a column's features tell any of the rows they were fitted on apart."""
    return bool(np.ptp(column.encode(series, reading), axis=0).any())


def _check_options(number_gaps: str, category_gaps: str, max_categories: int) -> None:
    for option, value, known in (
        ("number_gaps", number_gaps, ("median", "mean")),
        ("category_gaps", category_gaps, ("own", "most_frequent")),
    ):
        if value not in known:
            raise UsageError(f"expected {option} {' or '.join(map(repr, known))}, got {value!r}")
    if max_categories < 1:
        raise UsageError(f"expected max_categories of at least 1, got {max_categories}")


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
