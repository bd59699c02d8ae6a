"""What a column is taken for; and where it looks like numbers or dates, which option reads it."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxnet.data.tables import columns
from jaxnet.data.tables.reading import Reading
from jaxnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "category", "date", "presence", "drop"]

# A guess at how a column is written looks at no more of its values than this.
_LOOKED_AT = 2000
# How decimal points and thousands are written, the most usual first.
_STYLES = ((".", None), (",", None), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))
_DAYS = (
    *("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%Y"),
    *("%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"),
    *("%d-%b-%Y", "%d-%b-%y", "%d. %B %Y"),
)
_TIMES = (" %H:%M", " %H:%M:%S")
_DIGIT = re.compile(r"\d")
_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR", "CAD", "AUD", "SEK", "NOK", "PLN")
# What may stand beside a number: letters before it would make names such as A12 numbers.
_BEFORE = re.compile(r"[+-]?\s*([^\d\s.,+()'-]{1,4})\s*[+-]?[.,]?\d")
_AFTER = re.compile(r"[+-]?[.,]?\d[\d.,' ]*?\s*([^\d\s.,+()'-][^\d\s]{0,11})")


def recognised(series: pd.Series, reading: Reading, where: str) -> tuple[Kind, str]:
    """What a column is taken for, and the reason where it isn't used as it is.

    Args:
        series: the column.
        reading: how its values are written.
        where: what messages call it.

    Raises:
        InputError: more than half of its values look like numbers or dates, but they can't be read
            as such; the message has an example and the option that reads it.
    """
    values = series.dropna()
    if not len(values):
        return "drop", "it has no value at all"
    if columns.is_date(series):
        return "date", ""
    check_values(values, where)
    if not np.isnan(columns.parsed(values, reading)).any():
        return ("drop", "it numbers the rows") if _numbers_rows(series, reading) else ("number", "")
    if columns.times_of(values, reading).notna().all():
        return "date", ""
    if asked := explained(series, reading):
        raise InputError(f"{where}: {asked}. {or_other_kind(str(series.name))}")
    _, different = columns.texts(values)
    if len(different) > max(10, len(values) / 2) or np.mean([len(v) for v in different]) > 50:
        reason = (
            f"free text or an identifier, {len(different)} different values in {len(values)} rows"
        )
        return ("presence" if len(values) < len(series) else "drop"), reason
    return "category", ""


def check_values(values: pd.Series, where: str) -> None:
    """Raise `InputError` where a column holds what no feature can be made of, such as lists."""
    if values.dtype.kind == "c":
        raise InputError(
            f"{where}: expected numbers or words, got complex numbers: make two columns of them"
        )
    for value in values if values.dtype == object else ():
        if isinstance(value, list | tuple | dict | set | np.ndarray):
            raise InputError(
                f"{where}: expected one value in a row, got {columns.shown(value)}: make columns "
                "of its parts, or leave it out"
            )


def or_other_kind(column: str) -> str:
    """What else can be done with a column that isn't read."""
    name = shlex.quote(column)
    return (
        "Or make it a category, or leave it out: kinds={"
        f"{column!r}: 'category'}} (--table.categories {name}, --table.drop {name})"
    )


def explained(series: pd.Series, reading: Reading) -> str | None:
    """How to read a column of which more than half looks like numbers or dates, but not all is.

    Args:
        series: the column, as texts.
        reading: how its values were said to be written.

    Returns:
        What to tell the user; None where it looks like neither.
    """
    values = series.dropna()
    if columns.is_number(values) or columns.is_date(values):
        return None
    values = values.iloc[:: -(-len(values) // _LOOKED_AT)]
    texts = [str(value).strip() for value in values]
    if sum(bool(_DIGIT.search(text)) and len(text) < 40 for text in texts) <= len(texts) / 2:
        return None
    guesses = [*_as_numbers(texts, reading), *_as_dates(texts, reading)]
    if not guesses or _is_code(texts, guesses[0], reading):
        return None
    best = max(guess.share for guess in guesses)
    return _question(series, [guess for guess in guesses if guess.share == best], reading)


class _Guess(NamedTuple):
    """A way to read more than half of a column's values.

    Attributes:
        what: a number or a date.
        reading: the way.
        read: what each value is then; None where it is neither.
    """

    what: Literal["number", "date"]
    reading: Reading
    read: Sequence[Any]

    @property
    def share(self) -> float:
        """How many of the values are read, 1 for all."""
        return sum(value is not None for value in self.read) / len(self.read)


def _as_numbers(texts: Sequence[str], reading: Reading) -> Iterator[_Guess]:
    """The ways in which more than half of the texts are numbers, each with another result."""
    seen: list[Any] = []
    for units in (reading.units, *((*reading.units, unit) for unit in _units(texts))):
        for decimal, thousands in _STYLES:
            if reading.decimal == "," != decimal or reading.thousands not in (None, thousands):
                continue
            way = replace(reading, units=units, decimal=decimal, thousands=thousands)
            guess = _Guess("number", way, [way.number(text) for text in texts])
            if guess.share > 0.5 and guess.read not in seen:
                seen.append(guess.read)
                yield guess


def _units(texts: Sequence[str]) -> list[str]:
    """The sign or word that stands beside more than half of the numbers, if there is one."""
    ((unit, count),) = Counter(map(_unit, texts)).most_common(1)
    return [unit] if unit is not None and count > len(texts) / 2 else []


def _unit(text: str) -> str | None:
    if (after := _AFTER.fullmatch(text)) is not None:
        return after[1]
    before = _BEFORE.match(text)
    if before is None:
        return None
    money = before[1] in _CURRENCIES or any(unicodedata.category(c) == "Sc" for c in before[1])
    return before[1] if money else None


def _as_dates(texts: Sequence[str], reading: Reading) -> Iterator[_Guess]:
    """The ways in which more than half of the texts are dates."""
    series = columns.needs_pandas().Series(list(texts))
    timed = sum(":" in text for text in texts) > len(texts) / 2
    forms = [f"{day}{time}" for day in _DAYS for time in (_TIMES if timed else ("",))]
    for form in [reading.date_format, *forms]:
        way = replace(reading, date_format=form)
        times = columns.times_of(series, way)
        guess = _Guess("date", way, [time if known else None for time, known in
                                     zip(times, times.notna(), strict=True)])  # fmt: skip
        if guess.share > 0.5:
            yield guess


def _is_code(texts: Sequence[str], guess: _Guess, reading: Reading) -> bool:
    """Whether these are names of which some are digits alone, such as 17599 and PC 17599."""
    others = [text for text, value in zip(texts, guess.read, strict=True) if value is None]
    return (
        guess.what == "number"
        and guess.reading == reading
        and all(value is None or float(value).is_integer() for value in guess.read)
        and len(set(texts)) > len(texts) / 2
        and len(set(others)) > len(others) / 2
        and sum(bool(_DIGIT.search(text)) for text in others) > len(others) / 2
    )


def _question(series: pd.Series, guesses: Sequence[_Guess], reading: Reading) -> str:
    """What to say where these ways of reading are open, all of them as good."""
    what, way, _ = guesses[0]
    known, before = _read(series, what, way), _read(series, what, reading)
    unread = series[~known & series.notna().to_numpy()]
    share = known.sum() / series.notna().sum()
    words = [str(word).strip() for word in Counter(unread)]
    gaps = replace(reading, gaps=(*reading.gaps, *words[: 3 if len(words) <= 3 else 1]))
    if way == reading:
        row = int(np.argmax(~known & series.notna().to_numpy()))
        more = f", and {len(words) - 1} other words" if len(words) > 1 else ""
        return (
            f"expected {what}s as in {share:.0%} of the rows, got {words[0]!r} in row {row}{more}. "
            f"Say {_options(reading, gaps)} if it stands for a missing value"
        )
    row = int(np.argmax(known & ~before))
    example = str(series.iloc[row])
    ways = [
        f"{_options(reading, guess.reading)} reads {_shown(series.iloc[[row]], guess)}"
        for guess in guesses[:3]
    ]
    rest = f", and {words[0]!r} doesn't: {_options(reading, gaps)} is for gaps" if words else ""
    return (
        f"{example!r} in row {row} looks like a {what}, as {share:.0%} of the rows do{rest}. Say "
        f"how it is written: {', or '.join(ways)}"
    )


def _read(series: pd.Series, what: str, reading: Reading) -> np.ndarray:
    """(n,) whether a value is read as what it is said to be."""
    if what == "number":
        return ~np.isnan(columns.parsed(series, reading))
    return columns.times_of(series, reading).notna().to_numpy()


def _shown(value: pd.Series, guess: _Guess) -> str:
    """What one value is, as a message shows it."""
    if guess.what == "number":
        return f"{columns.parsed(value, guess.reading)[0]:.10g}"
    return columns.times_of(value, guess.reading).iloc[0].strftime("%-d %B %Y")


def _options(old: Reading, new: Reading) -> str:
    """The options by which two ways of reading differ, for a caller and for a command."""
    changed = {
        field.name: getattr(new, field.name)
        for field in fields(Reading)
        if getattr(new, field.name) != getattr(old, field.name)
    }
    called, typed = [], []
    for name, value in changed.items():
        values = value if isinstance(value, tuple) else (value,)
        called.append(f"{name}={list(value) if isinstance(value, tuple) else value!r}")
        typed.append(f"--table.{name.replace('_', '-')} {shlex.join(map(str, values))}")
    return f"{', '.join(called)} ({' '.join(typed)})"


def _numbers_rows(series: pd.Series, reading: Reading) -> bool:
    """Whether these are 1, 2, 3, ... in some order: an identifier, which says nothing."""
    if columns.is_truth(series) or series.isna().any() or len(series) <= 10:
        return False
    values = np.sort(columns.numbers(series, reading))
    return bool((np.diff(values) == 1).all())
