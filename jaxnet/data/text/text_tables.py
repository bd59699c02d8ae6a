"""Labelled texts from CSV and TSV files whose header names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxnet.data.text.texts import ENCODING_ADVICE, Texts, classified
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded, read_text

_SEPARATORS = ",\t;|"
# Python's own limit of a field, 131,072 characters, is less than a long text.
_LONGEST = 2**31 - 1


def read_text_table(
    path: Path | str,
    text: str,
    label: str,
    *,
    separator: str | None = None,
    encoding: str | None = None,
) -> Texts:
    r"""Texts from the columns of a CSV or TSV file with a header.

    A text in quotes may hold separators, and go over several lines.

    Args:
        path: the file; one that ends in `.gz` is unpacked.
        text: the column of the texts.
        label: the column of the classes; numbers are names of classes too.
        separator: what stands between fields; by default comma, tab, semicolon or bar, whichever
            separates both columns in the header.
        encoding: that of a file which isn't in UTF-8, such as `"cp1252"`.

    Returns:
        The texts in the file's order; classes are in alphabetical order.

    Raises:
        InputError: the file can't be read, lacks a column, a row has another number of fields than
            the header, no text or no class (the message names its line), or there is one class
            only.
        UsageError: text and label are the same column, or the separator isn't one character.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mails.csv"
        >>> _ = path.write_text('id,kind,body\n1,spam,"Win, now"\n2,ham,See you at nine\n')
        >>> mails = read_text_table(path, text="body", label="kind")
        >>> mails.texts, mails.class_names, mails.labels.tolist()
        (('Win, now', 'See you at nine'), ('ham', 'spam'), [1, 0])
    """
    path = expanded(path)
    if text == label:
        raise UsageError(f"{path}: expected two columns, got {text!r} for the text and its class")
    if separator is not None and len(separator) != 1:
        raise UsageError(f"{path}: expected a separator such as ',', got {separator!r}")
    lines = read_text(path, encoding, ENCODING_ADVICE).split("\n")
    separator = separator or _separator(path, lines, (text, label))
    limit = csv.field_size_limit(_LONGEST)
    try:
        rows = _rows(path, lines, separator)
        _, names = next(rows, (0, []))
        places = _places(path, names, (text, label))
        found = [_fields(path, line, row, names, places) for line, row in rows]
    finally:
        csv.field_size_limit(limit)
    if not found:
        raise InputError(f"{path}: expected rows below the header, got none")
    return classified([label for _, label in found], [text for text, _ in found], path.name)


def _separator(path: Path, lines: Sequence[str], wanted: Sequence[str]) -> str:
    """What separates the wanted columns in the header; else what makes most columns of it."""
    headers = {
        separator: next(_rows(path, lines, separator), (0, []))[1] for separator in _SEPARATORS
    }
    return max(
        _SEPARATORS,
        key=lambda one: (set(wanted) <= set(headers[one]), len(headers[one])),
    )


def _rows(path: Path, lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that aren't empty, each with the number of its last line."""
    reader = csv.reader(
        (f"{line}\n" for line in lines), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield min(reader.line_num, len(lines)), [field.strip() for field in row]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {min(reader.line_num, len(lines))}: {error}: a text with a quotation "
            "mark or a separator has to be in quotes, and a mark within it doubled"
        ) from error


def _places(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if missing := [name for name in wanted if name not in names]:
        raise InputError(
            f"{path}: expected columns {' and '.join(map(repr, wanted))} in the header, got "
            f"{', '.join(map(repr, names)) or 'an empty file'}: there is no {missing[0]!r}"
        )
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise InputError(f"{path}: expected one column {twice[0]!r} in the header, got several")
    return [names.index(name) for name in wanted]


def _fields(
    path: Path, line: int, row: Sequence[str], names: Sequence[str], places: Sequence[int]
) -> tuple[str, str]:
    """Text and class of a row."""
    if len(row) != len(names):
        raise InputError(
            f"{path}, line {line}: expected {len(names)} fields, as in the header, got {len(row)}: "
            "a text with a separator has to be in quotes"
        )
    text, label = (row[place] for place in places)
    if not (text and label):
        empty = names[places[0]] if not text else names[places[1]]
        raise InputError(f"{path}, line {line}: there is nothing in column {empty!r}")
    return text, label
