"""How the values of a table are written: which words are gaps, what stands for a decimal point."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxnet.errors import UsageError

_TRUTH = {"true": "1", "false": "0"}
# What is written in place of a blank, and in place of an apostrophe, between groups of digits.
_SPACES = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'"})
_MINUS = "\u2212"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How raw values are read; a fitted encoder keeps it, so that later rows are read alike.

    Attributes:
        gaps: words that stand for a missing value, besides those that pandas knows in files (an
            empty field, NA, NaN, null, ...). A number among them counts in all its forms: `"-999"`
            is -999.0 too.
        decimal: what stands for the decimal point: `"."` or `","`.
        thousands: what stands between groups of digits, such as `","` in 10,251.
        units: signs and words beside numbers, such as `"$"`, `"%"` or `"kg"`, which are taken away:
            12% is read as 12.
        date_format: how dates are written, such as `"%d.%m.%Y"`, besides ISO 8601 (2024-05-31).
        encoding: that of files which aren't in UTF-8, such as `"cp1252"`. A byte order mark comes
            before it.

    Raises:
        UsageError: an option can't be.

    Example:
        >>> reading = Reading(decimal=",", thousands=".", units=("EUR",))
        >>> reading.number("1.234,50 EUR"), reading.number("1.5")
        (1234.5, None)
    """

    gaps: Sequence[str] = ()
    decimal: str = "."
    thousands: str | None = None
    units: Sequence[str] = ()
    date_format: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        for name in ("gaps", "units"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise UsageError(f"expected {name} such as ['?'], got {words!r}")
            object.__setattr__(self, name, tuple(str(word).strip() for word in words))
        if self.decimal not in (".", ","):
            raise UsageError(f"expected decimal '.' or ',', got {self.decimal!r}")
        if self.thousands is not None:
            if len(self.thousands) != 1 or self.thousands.isalnum() or self.thousands in "+-":
                raise UsageError(f"expected thousands such as ',' or '.', got {self.thousands!r}")
            if self.thousands == self.decimal:
                raise UsageError(
                    f"decimal and thousands are both {self.decimal!r}: say what stands for the "
                    "decimal point with decimal (--table.decimal)"
                )
        if not all(self.units):
            raise UsageError(f"expected units such as '$' or 'kg', got {self.units}")
        if self.date_format is not None and "%" not in self.date_format:
            raise UsageError(
                f"expected date_format such as '%d.%m.%Y', got {self.date_format!r}: %d is the "
                "day, %m the month, %Y the year"
            )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise UsageError(
                    f"unknown encoding {self.encoding!r}: expected utf-8, latin-1, cp1252, ..."
                ) from error

    def number(self, value: Any) -> float | None:
        """The number that a value is or that a text spells; None where it is none."""
        try:
            return float(self._plain(value) if isinstance(value, str) else value)
        except (TypeError, ValueError):
            return None

    def is_gap(self, value: Any) -> bool:
        """Whether a value is one of `gaps`."""
        text = str(value).strip()
        if text in self.gaps:
            return True
        if not self._gap_numbers or isinstance(value, bool) or text.lower() in _TRUTH:
            return False
        return self.number(value) in self._gap_numbers

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON knows them; `from_dict` is the way back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reading:
        """What `to_dict` wrote down, among other values; what isn't there is as by default."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: values[name] for name in names if name in values})

    @cached_property
    def _gap_numbers(self) -> frozenset[float]:
        numbers = (self.number(word) for word in self.gaps)
        return frozenset(number for number in numbers if number is not None)

    @cached_property
    def _grouped(self) -> re.Pattern[str] | None:
        """Digits in groups, of three at the end: 1,234,567.5, and 12,34,567.5 as in India."""
        if self.thousands is None:
            return None
        mark = re.escape(self.thousands)
        point = re.escape(self.decimal)
        return re.compile(
            rf"[+-]?\d{{1,3}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}(?:{point}\d*)?(?:[eE][+-]?\d+)?"
        )

    def _plain(self, text: str) -> str:
        """A text with what Python's `float` expects in it; `ValueError` where it is no number."""
        text = text.translate(_SPACES).strip()
        if text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        text = self._without_unit(text.replace(_MINUS, "-"))
        # pandas would take the sign out wherever it stands, and read 1,5 as 15 and 31.01.2020 as a
        # number.
        if self._grouped is not None and self._grouped.fullmatch(text):
            assert self.thousands is not None
            text = text.replace(self.thousands, "")
        if self.decimal != ".":
            if "." in text:
                raise ValueError(text)
            text = text.replace(self.decimal, ".")
        if "_" in text:  # 1_000 is a number to Python alone
            raise ValueError(text)
        return text

    def _without_unit(self, text: str) -> str:
        sign, body = (text[0], text[1:].lstrip()) if text[:1] in ("+", "-") else ("", text)
        for unit in self.units:
            if body.startswith(unit):
                return sign + body.removeprefix(unit).strip()
            if body.endswith(unit):
                return sign + body.removesuffix(unit).strip()
        return text
