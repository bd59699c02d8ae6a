"""Texts with their translations: from files, and from what Babel knows of languages."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.errors import InputError
from jaxnet.files import expanded, read_text

_PARTS = {"training": ("train",), "validation": ("val", "valid", "dev"), "test": ("test",)}
_FIRST_DAY, _DAYS = datetime.date(1900, 1, 1), 73049  # to the end of 2099


@dataclasses.dataclass(frozen=True, eq=False)
class ParallelTexts:
    """Texts in one language with their translations into another; `split` cuts it into parts.

    Attributes:
        source: n strings, none of them empty.
        target: n strings, none of them empty.
        name: what messages call this dataset.

    Raises:
        InputError: there aren't as many of the one as of the other, there are none, or one is
            empty.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    name: str = "texts"
    class_names: None = None

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target) or not self.source:
            raise InputError(
                f"{self.name}: expected as many texts as translations, and at least one, got "
                f"{len(self.source)} and {len(self.target)}"
            )
        for row, pair in enumerate(zip(self.source, self.target, strict=True)):
            if not all(pair):
                raise InputError(f"{self.name}: row {row} lacks a text: {pair}")

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.source)

    @property
    def labels(self) -> np.ndarray:
        """(n,) the translations."""
        return np.array(self.target)

    def take(self, indices: np.ndarray) -> ParallelTexts:
        """The pairs at `indices`, in that order."""
        return dataclasses.replace(
            self,
            source=tuple(self.source[index] for index in indices),
            target=tuple(self.target[index] for index in indices),
        )


def read_parallel(source: Path | str, target: Path | str) -> ParallelTexts:
    """Texts from two files whose lines belong together; pairs that lack a text are left out.

    Args:
        source: a UTF-8 file, perhaps compressed (`.gz`).
        target: its translation, line by line.

    Raises:
        InputError: a file can't be read, or they don't have equally many lines.
    """
    paths = expanded(source), expanded(target)
    lines = [_lines(path) for path in paths]
    if len(lines[0]) != len(lines[1]):
        raise InputError(
            f"expected files whose lines belong together, got {len(lines[0])} lines in {paths[0]} "
            f"and {len(lines[1])} in {paths[1]}"
        )
    pairs = [pair for pair in zip(*lines, strict=True) if all(pair)]
    if not pairs:
        raise InputError(f"{paths[0]} and {paths[1]} hold no text")
    return ParallelTexts(*(tuple(side) for side in zip(*pairs, strict=True)), name=paths[0].name)


def parallel_folder(
    folder: Path | str, languages: tuple[str, str] = ("en", "de")
) -> tuple[ParallelTexts, ParallelTexts, ParallelTexts]:
    """Training, validation and test texts from a folder, as Multi30k is stored.

    Args:
        folder: where `train.en` and `train.de` lie, `val.*` (or `valid.*`, `dev.*`) and `test*.*`;
            each may be compressed (`.gz`).
        languages: from which to which.

    Raises:
        InputError: a file is missing, there is more than one candidate for it, or they don't fit.
    """
    folder = expanded(folder)
    return tuple(  # pyright: ignore[reportReturnType]
        read_parallel(*(_only(folder, part, starts, language) for language in languages))
        for part, starts in _PARTS.items()
    )


def load_cldr(
    count: int = 8000, seed: int = 0, languages: tuple[str, str] = ("en", "de")
) -> ParallelTexts:
    """Dates, amounts of money and of time, and names of countries, written out in two languages.

    They are what the package `babel` makes of the Unicode Common Locale Data Repository (licence:
    Unicode License v3): "Saturday, November 21, 2026" is "Samstag, 21. November 2026" and "7.00
    Norwegian kroner" are "7,00 Norwegische Kronen". Small real data for a first try.

    Args:
        count: how many pairs to draw; those that were drawn before are left out.
        seed: of the draws.
        languages: from which to which, by their codes: en, de, fr, ...

    Raises:
        InputError: there is no such language, or babel isn't installed.

    Example:
        >>> texts = load_cldr(1000)
        >>> row = next(row for row, text in enumerate(texts.source) if text.startswith("March 3"))
        >>> texts.source[row], texts.target[row]
        ('March 3, 1969', '3. März 1969')
    """
    locales = tuple(_locale(language) for language in languages)
    draw = np.random.default_rng(seed)
    pairs = dict.fromkeys(_written_out(locales, draw, count))
    source, target = zip(*pairs, strict=True)
    return ParallelTexts(source, target, name="cldr")


def _written_out(locales: Any, draw: np.random.Generator, count: int) -> Iterator[tuple[str, ...]]:
    from babel import dates, numbers, units

    currencies = sorted(set.intersection(*(set(locale.currencies) for locale in locales)))
    territories = sorted(set.intersection(*(set(locale.territories) for locale in locales)))
    spans = ("day", "hour", "minute", "week", "month", "year")
    for _ in range(count):
        kind, amount = draw.random(), int(draw.integers(1, 100))
        day = _FIRST_DAY + datetime.timedelta(int(draw.integers(_DAYS)))
        style = str(draw.choice(["full", "long", "medium"]))
        currency, territory = str(draw.choice(currencies)), str(draw.choice(territories))
        span = f"duration-{draw.choice(spans)}"
        if kind < 0.5:
            yield tuple(dates.format_date(day, style, locale=locale) for locale in locales)
        elif kind < 0.9:
            yield tuple(
                numbers.format_currency(amount, currency, locale=locale, format_type="name")
                for locale in locales
            )
        elif kind < 0.95:
            yield tuple(
                units.format_unit(amount, span, "long", locale=locale) for locale in locales
            )
        else:
            yield tuple(locale.territories[territory] for locale in locales)


def _locale(language: str) -> Any:
    try:
        from babel import Locale, UnknownLocaleError
    except ImportError as error:
        raise InputError("this data needs the package babel: pip install babel") from error
    try:
        return Locale.parse(language)
    except (UnknownLocaleError, ValueError) as error:
        raise InputError(
            f"expected the code of a language, such as de, got {language!r}"
        ) from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).removesuffix("\n").split("\n")]


def _only(folder: Path, part: str, starts: tuple[str, ...], language: str) -> Path:
    found = [
        path
        for start in starts
        for ending in (language, f"{language}.gz")
        for path in sorted(folder.glob(f"{start}*.{ending}"))
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{folder}: expected one file of {part} texts {starts[0]}*.{language} (perhaps .gz), "
            f"got {names}"
        )
    return found[0]
