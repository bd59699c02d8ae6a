"""What can be told of one column of a data frame, and its values as numbers, texts or dates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_TRUTH = {"true": 1.0, "false": 0.0}
_DAY = 86_400_000_000  # microseconds


def needs_pandas() -> Any:
    """The pandas package, which only tables need.

    Raises:
        UsageError: it isn't installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError("tables need pandas: pip install 'jaxnet[tables]'") from error
    return pandas


def is_truth(series: pd.Series) -> bool:
    """Whether a column is stored as truth values."""
    return needs_pandas().api.types.is_bool_dtype(series.dtype)


def is_number(series: pd.Series) -> bool:
    """Whether a column is stored as numbers or truth values."""
    return needs_pandas().api.types.is_numeric_dtype(series.dtype)


def is_date(series: pd.Series) -> bool:
    """Whether a column is stored as points in time."""
    return needs_pandas().api.types.is_datetime64_any_dtype(series.dtype)


def numbers(series: pd.Series, where: str | None = None) -> np.ndarray:
    """(n,) float64, NaN where there is a gap.

    Raises:
        InputError: a value is no number, or not finite. The message begins with `where`.
    """
    where = where or str(series.name)
    values = _parsed(series)
    bad = np.isnan(values) & ~series.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{where}: expected numbers, got {series.iloc[row]!r} in row {row}, and "
            f"{int(bad.sum())} such values in all"
        )
    if np.isinf(values).any():
        raise InputError(
            f"{where}: {np.isinf(values).sum()} values are infinite, the first in row "
            f"{int(np.isinf(values).argmax())}"
        )
    return values


def share_of_numbers(values: pd.Series) -> float:
    """The share of the values, none of them a gap, that are numbers or can be read as ones."""
    return float(np.mean(~np.isnan(_parsed(values))))


def first_no_number(series: pd.Series) -> tuple[int, Any]:
    """Row and value of the first that can't be read as a number."""
    row = int((np.isnan(_parsed(series)) & ~series.isna().to_numpy()).argmax())
    return row, series.iloc[row]


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
    try:
        number = float(text)
    except ValueError:
        return np.inf, text
    return (np.inf, text) if np.isnan(number) else (number, text)


def dates(series: pd.Series, where: str | None = None) -> np.ndarray:
    """(n, 5) float64 of points in time, NaN where there is a gap.

    Days since 1970 (UTC), then sine and cosine of the place in the year and in the week.

    Raises:
        InputError: a value is no date in the form of ISO 8601.
    """
    times = _times(series)
    bad = (times.isna() & ~series.isna()).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{where or series.name}: expected dates such as 2024-05-31 or 2024-05-31T12:00, got "
            f"{series.iloc[row]!r} in row {row}"
        )
    stamps = times.dt.tz_localize(None).to_numpy("datetime64[us]")
    days = np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / _DAY)
    year, week = 2 * np.pi * days / 365.2425, 2 * np.pi * days / 7
    return np.stack([days, np.sin(year), np.cos(year), np.sin(week), np.cos(week)], axis=1)


def are_dates(values: pd.Series) -> bool:
    """Whether all values, none of them a gap, can be read as dates."""
    return bool(_times(values).notna().all())


def _times(series: pd.Series) -> pd.Series:
    to_datetime = needs_pandas().to_datetime
    return to_datetime(series, format="ISO8601", errors="coerce", utc=True)


def _parsed(series: pd.Series) -> np.ndarray:
    """float64, NaN where there is a gap or something else than a number."""
    if not is_number(series):
        series = series.astype(object).map(lambda v: _TRUTH.get(str(v).strip().lower(), v))
    parsed = needs_pandas().to_numeric(series, errors="coerce")
    return parsed.to_numpy(np.float64, na_value=np.nan)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()
