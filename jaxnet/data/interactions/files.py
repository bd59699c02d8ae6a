"""Interactions from tables: users and items by the names that files give them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnet.data.interactions.interactions import Interactions, named
from jaxnet.errors import InputError
from jaxnet.files import expanded, read_text


def encoded(
    users: Sequence[str] | np.ndarray,
    items: Sequence[str] | np.ndarray,
    ratings: np.ndarray | None,
    times: np.ndarray | None,
    name: str,
) -> Interactions:
    """Interactions of columns as files have them: users and items are numbered by their ids.

    Ids that are all whole numbers are ordered as such, others by the alphabet. Where a user has an
    item twice the later row counts, as in lists of ratings that were changed.
    """
    user_ids, user_numbers = _numbered(users)
    item_ids, item_numbers = _numbered(items)
    rated = None if ratings is None else ratings.astype(np.float32)
    timed = None if times is None else times.astype(np.int64)
    data = Interactions(
        user_numbers, item_numbers, named(user_ids), named(item_ids), rated, timed, name
    )
    pairs = user_numbers.astype(np.int64) * len(item_ids) + item_numbers
    order = np.arange(len(pairs)) if timed is None else np.argsort(timed, kind="stable")
    _, last = np.unique(pairs[order][::-1], return_index=True)
    return data.take(np.sort(order[::-1][last]))


def read_interactions(
    path: Path | str,
    user: str = "user",
    item: str = "item",
    rating: str | None = None,
    time: str | None = None,
) -> Interactions:
    r"""Interactions from a CSV file with a header.

    Args:
        path: a UTF-8 file.
        user: the column of the users' ids.
        item: the column of the items' ids.
        rating: the column of ratings, if there is one.
        time: the column of times, as numbers, if there is one.

    Raises:
        InputError: the file can't be read, lacks a column, has a gap, or a rating or time isn't a
            number; the message names the row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "likes.csv"
        >>> _ = path.write_text("user,item\nann,tea\nbob,milk\nann,milk\n")
        >>> likes = read_interactions(path)
        >>> likes.users.tolist(), likes.known_items.ids
        ([0, 1, 0], ('milk', 'tea'))
    """
    path = expanded(path)
    wanted = [user, item, *(column for column in (rating, time) if column)]
    columns = dict(zip(wanted, read_columns(path, wanted), strict=True))
    return encoded(
        columns[user],
        columns[item],
        _numbers(columns[rating], f"{path}: {rating}") if rating else None,
        _numbers(columns[time], f"{path}: {time}") if time else None,
        path.name,
    )


def read_columns(path: Path, wanted: Sequence[str]) -> list[list[str]]:
    """Some columns of a CSV file with a header, as text.

    Raises:
        InputError: the file can't be read, has no rows, lacks a column, or has a gap.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path))))
    except csv.Error as error:
        raise InputError(f"{path}: this can't be read as CSV: {error}") from error
    header, *rows = rows or [[]]
    rows = [row for row in rows if row]
    missing = [column for column in wanted if column not in header]
    if missing or not rows:
        got = ", ".join(header) or "an empty file"
        raise InputError(
            f"{path}: expected rows with the columns {', '.join(wanted)}; got "
            f"{len(rows)} rows with {got}"
        )
    places = [header.index(column) for column in wanted]
    for number, row in enumerate(rows, 2):
        if len(row) <= max(places) or not all(row[place].strip() for place in places):
            raise InputError(f"{path}, row {number}: expected {', '.join(wanted)}, got {row}")
    return [[row[place].strip() for row in rows] for place in places]


def coded(values: Sequence[str]) -> tuple[np.ndarray, int]:
    """Words as codes from 0, in alphabetical order, and how many there are.

    Example:
        >>> codes, count = coded(["war", "drama", "war"])
        >>> codes.tolist(), count
        ([1, 0, 1], 2)
    """
    known, codes = np.unique(np.array(values), return_inverse=True)
    return codes.astype(np.int32), len(known)


def _numbered(ids: Sequence[str] | np.ndarray) -> tuple[list[str], np.ndarray]:
    values = np.asarray(ids)
    # Written as 007 it is a name, and not the number 7.
    if values.dtype.kind == "U" and all(one.isdecimal() and one == str(int(one)) for one in ids):
        values = values.astype(np.int64)
    known, numbers = np.unique(values, return_inverse=True)
    return [str(one) for one in known], numbers.astype(np.int32)


def _numbers(values: Sequence[str], where: str) -> np.ndarray:
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except ValueError as error:
            # The header is the file's first row.
            raise InputError(
                f"{where}: expected numbers, got {value!r} in row {row + 2}"
            ) from error
    return numbers
