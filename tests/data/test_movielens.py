"""The three forms of MovieLens, in small files of our own with films that don't exist."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from jaxnet.data import load_movielens
from jaxnet.errors import InputError

FLAGS = {"Drama": 8, "Comedy": 5, "War": 17}


def flagged(number: int, title: str, genres: list[str]) -> str:
    flags = ["0"] * 19
    for genre in genres:
        flags[FLAGS[genre]] = "1"
    return "|".join([str(number), title, "01-Jan-1995", "", "http://nowhere", *flags])


FILMS = [
    (2, "The Grey Café (1995)", ["Comedy", "Drama"]),
    (10, "A Long March (1948)", ["War"]),
    (7, "Untitled", []),
]
RATINGS = [(5, 10, 4, 880), (5, 2, 3, 870), (1, 7, 5, 860), (5, 7, 1, 890)]


def write(folder, form: str):
    folder.mkdir(parents=True, exist_ok=True)
    if form == "100k":
        lines = ["\t".join(map(str, row)) for row in RATINGS]
        films = [flagged(*film) for film in FILMS]
        files = {"u.data": (lines, "latin-1"), "u.item": (films, "latin-1")}
    elif form == "1m":
        lines = ["::".join(map(str, row)) for row in RATINGS]
        films = [f"{n}::{title}::{'|'.join(genres[::-1])}" for n, title, genres in FILMS]
        files = {"ratings.dat": (lines, "latin-1"), "movies.dat": (films, "latin-1")}
    else:
        lines = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in RATINGS)]
        films = ["movieId,title,genres"]
        films += [f'{n},"{title}",{"|".join(genres)}' for n, title, genres in FILMS]
        files = {"ratings.csv": (lines, "utf-8"), "movies.csv": (films, "utf-8")}
    for name, (content, encoding) in files.items():
        (folder / name).write_text("\n".join(content) + "\n", encoding=encoding)
    return folder


@pytest.mark.parametrize("form", ["100k", "1m", "latest"])
@pytest.mark.parametrize("zipped", [False, True])
def test_reads_each_form(form, zipped, tmp_path):
    folder = write(tmp_path / "ml" / "inner", form)
    path = folder.parent
    if zipped:
        path = tmp_path / "ml.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"inner/{file.name}")
    data = load_movielens(path)
    assert data.known_users.ids == ("1", "5")
    assert data.known_items.ids == ("2", "7", "10")
    assert data.known_items.titles == ("The Grey Café (1995)", "Untitled", "A Long March (1948)")
    rows = zip(data.users, data.items, data.ratings, data.times, strict=True)
    assert list(rows) == [(1, 2, 4, 880), (1, 0, 3, 870), (0, 1, 5, 860), (1, 1, 1, 890)]
    genre, decade = data.known_items.features.T
    assert len(set(genre.tolist())) == 3 and data.known_items.sizes == (3, 3)
    assert decade.tolist() == [2, 0, 1]  # 199, none, 194, in alphabetical order


def test_a_film_without_a_line_keeps_its_number(tmp_path):
    folder = write(tmp_path, "latest")
    (folder / "movies.csv").write_text("movieId,title,genres\n2,One (1995),Drama\n")
    assert load_movielens(folder).known_items.titles == ("One (1995)", "film 7", "film 10")


def test_what_is_missing_or_damaged_is_told(tmp_path):
    with pytest.raises(InputError, match=r"expected the files of MovieLens: u.data and u.item"):
        load_movielens(tmp_path)
    with pytest.raises(InputError, match="a folder, or a zip file"):
        load_movielens(tmp_path / "ml.zip")
    folder = write(tmp_path / "a", "1m")
    (folder / "ratings.dat").write_text("1::2::x::4\n")
    with pytest.raises(InputError, match=r"ratings.dat: expected numbers"):
        load_movielens(folder)
    (folder / "ratings.dat").write_text("1::2::4\n")
    with pytest.raises(InputError, match="user, item, rating and time"):
        load_movielens(folder)
    folder = write(tmp_path / "b", "100k")
    (folder / "u.item").write_text("2;title\n")
    with pytest.raises(InputError, match=r"u.item, line 1"):
        load_movielens(folder)
    (folder / "u.data").write_text("")
    with pytest.raises(InputError, match=r"u.data"):
        load_movielens(folder)


def test_ratings_are_float32_and_times_int64(tmp_path):
    data = load_movielens(write(tmp_path, "latest"))
    assert data.ratings.dtype == np.float32 and data.times.dtype == np.int64
