"""The MovieLens ratings, in the forms in which GroupLens gives them away.

Harper and Konstan (2015), "The MovieLens datasets: history and context". Nothing is downloaded:
their licence wants each user to fetch them from grouplens.org/datasets/movielens.

| files | set | separator |
|---|---|---|
| `u.data`, `u.item` | ml-100k | tab, a bar |
| `ratings.dat`, `movies.dat` | ml-1m, ml-10m | `::` |
| `ratings.csv`, `movies.csv` | ml-latest, ml-latest-small, ml-20m and newer | comma |
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnet.data.interactions.files import coded, encoded
from jaxnet.data.interactions.interactions import Entities, Interactions
from jaxnet.errors import InputError
from jaxnet.files import decoded, expanded, marked_encoding

# The order of the 19 flags in u.item.
_FLAGS = """
unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy
Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western
"""
GENRES = tuple(_FLAGS.split())


class _Film(NamedTuple):
    """What is known of a film."""

    title: str
    genre: str


class _Format(NamedTuple):
    """How a set is written: its two files, and what separates their fields."""

    ratings: str
    films: str
    separators: tuple[str, str]
    encoding: str
    film: Callable[[list[str]], _Film]
    header: bool = False


def _flagged(fields: list[str]) -> _Film:
    flags = fields[5:]
    return _Film(fields[1], GENRES[flags.index("1")] if "1" in flags else GENRES[0])


def _listed(fields: list[str]) -> _Film:
    return _Film(fields[1], fields[2].split("|")[0])


FORMATS = (
    _Format("u.data", "u.item", ("\t", "|"), "latin-1", _flagged),
    _Format("ratings.dat", "movies.dat", ("::", "::"), "latin-1", _listed),
    _Format("ratings.csv", "movies.csv", (",", ","), "utf-8", _listed, header=True),
)


def load_movielens(path: Path | str) -> Interactions:
    """Ratings of films, with their titles, first genre and decade.

    Args:
        path: the folder with the files, at any depth, or the zip file as it was downloaded.

    Returns:
        Ratings with times (seconds since 1970). Items are the films that were rated; known of them
        are two columns: the first genre that is listed, and the decade of the year in the title.

    Raises:
        InputError: the files aren't there, or a line isn't in their form; the message names it.
    """
    path = expanded(path)
    files = _files(path)
    for form in FORMATS:
        if form.ratings in files and form.films in files:
            return _read(files[form.ratings], files[form.films], form, path.stem)
    pairs = "; or ".join(f"{form.ratings} and {form.films}" for form in FORMATS)
    raise InputError(
        f"{path}: expected the files of MovieLens: {pairs}. Download a set from "
        "grouplens.org/datasets/movielens and give its folder or the zip file"
    )


def _files(path: Path) -> dict[str, Callable[[], bytes]]:
    """What reads each file, by the file's name."""
    if path.is_dir():
        found = sorted(path.rglob("*"), key=lambda file: (-len(file.parts), str(file)))
        return {file.name: file.read_bytes for file in found if file.is_file()}
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected a folder, or a zip file of MovieLens: {error}"
        ) from error

    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)

        return read

    return {Path(name).name: reader(name) for name in names if not name.endswith("/")}


def _read(
    ratings: Callable[[], bytes], films: Callable[[], bytes], form: _Format, name: str
) -> Interactions:
    users, items, values, times = _ratings(_unmarked(ratings(), form.ratings), form).T
    data = encoded(users.astype(np.int64), items.astype(np.int64), values, times, name)
    described = {row[0]: form.film(row) for row in _film_rows(_unmarked(films(), form.films), form)}
    nothing = _Film("", GENRES[0])
    ids = data.known_items.ids
    known = [described.get(one, nothing) for one in ids]
    genre, genres = coded([film.genre for film in known])
    decade, decades = coded([_decade(film.title) for film in known])
    titles = tuple(film.title or f"film {one}" for film, one in zip(known, ids, strict=True))
    features = np.stack([genre, decade], axis=1)
    items_known = Entities(ids, features, (genres, decades), titles)
    return dataclasses.replace(data, known_items=items_known)


def _unmarked(content: bytes, name: str) -> bytes:
    """What a file holds, in UTF-8 where a byte order mark says in which encoding it is."""
    return decoded(content, name).encode() if marked_encoding(content) else content


def _ratings(content: bytes, form: _Format) -> np.ndarray:
    """(n, 4) float64: user, item, rating, time."""
    separator = form.separators[0]
    # The reader in C, some 20 times as fast as a loop, takes separators of one character.
    lines = io.BytesIO(content.replace(b"::", b"\t") if separator == "::" else content)
    delimiter = "\t" if separator == "::" else separator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "input contained no data" is told below
            table = np.loadtxt(lines, delimiter=delimiter, skiprows=int(form.header), ndmin=2)
    except ValueError as error:
        raise InputError(f"{form.ratings}: expected numbers: {error}") from error
    if not len(table) or table.shape[1] != 4:
        raise InputError(
            f"{form.ratings}: expected lines of user, item, rating and time separated by "
            f"{separator!r}, got a table {table.shape}"
        )
    return table


def _film_rows(content: bytes, form: _Format) -> list[list[str]]:
    separator = form.separators[1]
    try:
        text = content.decode(form.encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{form.films}: expected {form.encoding}: {error}") from error
    if form.header:
        rows = list(csv.reader(io.StringIO(text)))[1:]
    else:
        rows = [line.rstrip("\r").split(separator) for line in text.split("\n") if line]
    for number, row in enumerate(rows, 1 + form.header):
        if len(row) < 3:
            raise InputError(
                f"{form.films}, line {number}: expected at least 3 fields separated by "
                f"{separator!r}, got {row}"
            )
    return rows


def _decade(title: str) -> str:
    """Such as "199" of "Heat (1995)"."""
    year = re.search(r"\((\d{3})\d\)\s*$", title)
    return year.group(1) if year else ""
