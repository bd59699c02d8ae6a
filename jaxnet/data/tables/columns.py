"""What can be told of one column of a data frame, and its values as numbers, texts or dates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.data.tables.reading import Reading
from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

AS_WRITTEN = Reading()
_EXACT = 2.0**53  # whole numbers above this have gaps between them in float64
_DAY = 86_400_000_000  # microseconds


def needs_pandas() -> Any:
    """The pandas package, which only tables need.

    Raises:
        UsageError: it isn't installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError("tables need pandas: pip install pandas") from error
    return pandas


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def is_truth(series: pd.Series) -> bool:
    """Whether a column is stored as truth values."""
    return needs_pandas().api.types.is_bool_dtype(series.dtype)


def is_number(series: pd.Series) -> bool:
    """Whether a column is stored as numbers, truth values or lengths of time."""
    return needs_pandas().api.types.is_numeric_dtype(series.dtype) or is_duration(series)


def is_duration(series: pd.Series) -> bool:
    """Whether a column is stored as lengths of time."""
    return needs_pandas().api.types.is_timedelta64_dtype(series.dtype)


def is_date(series: pd.Series) -> bool:
    """Whether a column is stored as points in time."""
    return needs_pandas().api.types.is_datetime64_any_dtype(series.dtype)


def parsed(series: pd.Series, reading: Reading = AS_WRITTEN) -> np.ndarray:
    """(n,) float64: numbers, seconds, 1 and 0 for truth; NaN where there is a gap or no number."""
    if is_duration(series):
        return series.dt.total_seconds().to_numpy(np.float64)
    if is_number(series):
        return series.to_numpy(np.float64, na_value=np.nan)
    codes, different = needs_pandas().factorize(series)
    values = [reading.number(value) for value in different]
    # The last is for the gaps, whose code is -1.
    return np.array([*values, None], np.float64)[codes]


def numbers(
    series: pd.Series, reading: Reading = AS_WRITTEN, where: str | None = None
) -> np.ndarray:
    """(n,) float64, NaN where there is a gap.

    Args:
        series: the column.
        reading: how its numbers are written.
        where: what the message begins with; by default the column's name.

    Raises:
        InputError: a value is no number, or not finite.
    """
    where = where or str(series.name)
    values = parsed(series, reading)
    bad = np.isnan(values) & ~series.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{where}: expected numbers, got {shown(series.iloc[row])} in row {row}, and "
            f"{int(bad.sum())} such values in all"
        )
    if np.isinf(values).any():
        raise InputError(
            f"{where}: {np.isinf(values).sum()} values are infinite, the first in row "
            f"{int(np.isinf(values).argmax())}"
        )
    if np.nanmax(np.abs(values), initial=0) > _EXACT:
        known = values[~np.isnan(values)]
        left, different = len(np.unique(known)), series.nunique()
        if left < different:
            raise InputError(
                f"{where}: of {different} different numbers up to {np.abs(known).max():.0f} "
                f"float64 can tell {left} apart: make it a category, or leave it out"
            )
    return values


def texts(series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """A column as (n,) numbers of its different texts, -1 where there is a gap, and those texts.

    A number that is whole is written as one, whatever the type of its column: `1`, not `1.0`.
    """
    codes, different = needs_pandas().factorize(series)
    written = [_text(value) for value in different]
    merged = {text: i for i, text in enumerate(dict.fromkeys(written))}
    # The last is for the gaps, whose code is -1.
    renumbered = np.array([*(merged[text] for text in written), -1], np.int64)
    return renumbered[codes], list(merged)


def in_order(text: str) -> tuple[float, str]:
    """A key that sorts texts of numbers as numbers, before all other texts."""
    number = AS_WRITTEN.number(text)
    return (np.inf, text) if number is None or np.isnan(number) else (number, text)


def dates(series: pd.Series, reading: Reading = AS_WRITTEN, where: str | None = None) -> np.ndarray:
    """(n, 5) float64 of points in time, NaN where there is a gap.

    Days since 1970 (UTC), then sine and cosine of the place in the year and in the week.

    Args:
        series: the column.
        reading: how its dates are written; ISO 8601 is always understood.
        where: what the message begins with; by default the column's name.

    Raises:
        InputError: a value is no date in one of these forms.
    """
    times = times_of(series, reading)
    bad = (times.isna() & ~series.isna()).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        forms = "2024-05-31 or 2024-05-31T12:00"
        if reading.date_format is not None:
            forms += f" or {reading.date_format}"
        raise InputError(
            f"{where or series.name}: expected dates such as {forms}, got "
            f"{shown(series.iloc[row])} in row {row}"
        )
    stamps = times.dt.tz_localize(None).to_numpy("datetime64[us]")
    days = np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / _DAY)
    year, week = 2 * np.pi * days / 365.2425, 2 * np.pi * days / 7
    return np.stack([days, np.sin(year), np.cos(year), np.sin(week), np.cos(week)], axis=1)


def times_of(series: pd.Series, reading: Reading = AS_WRITTEN) -> pd.Series:
    """The points in time of a column (UTC), `NaT` where there is a gap or no date."""
    to_datetime = needs_pandas().to_datetime
    if is_number(series):
        # As digits, such as 2024 or 20240531: pandas takes numbers for nanoseconds since 1970.
        series = series.astype(object).map(_text, na_action="ignore")
    times = to_datetime(series, format="ISO8601", errors="coerce", utc=True)
    if reading.date_format is None:
        return times
    own = to_datetime(series, format=reading.date_format, errors="coerce", utc=True)
    return own.fillna(times)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()
