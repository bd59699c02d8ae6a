"""Paths as a user writes them, and JSON that every parser takes."""

from __future__ import annotations

import errno
import gzip
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle, data, translate
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.app.config import from_toml
from jaxnet.data import (
    load_movielens,
    read_interactions,
    read_labelled_lines,
    read_lines,
    read_parallel,
)
from jaxnet.data.text.corpora import read_prose
from jaxnet.errors import InputError
from jaxnet.files import appending, expanded, json_text, read_text, sweep, write_atomically
from jaxnet.training import Checkpoints, RunWriter
from jaxnet.training.callbacks import Plan
from jaxnet.training.early_stopping import Stopping
from jaxnet.training.history import History
from jaxnet.training.progress import Progress

READERS = [
    Bundle.load,
    data.image_folders,
    data.load_cifar10,
    data.load_cifar100,
    data.load_fashion_mnist,
    data.load_mnist,
    data.load_movielens,
    data.load_titanic,
    data.parallel_folder,
    data.read_idx,
    data.read_interactions,
    data.read_labelled_lines,
    data.Tokenizer.load,
    lambda path: data.read_class_files({"one": path}, "texts"),
    lambda path: data.read_parallel(path, path),
    lambda path: data.read_table(path, "y"),
    partial(read_prose, "text"),
]


@dataclass(frozen=True)
class Inner:
    """Inner."""

    file: Path = Path("here")


@dataclass(frozen=True)
class Outer:
    """Outer."""

    folder: Path | None = None
    word: str = "~"
    inner: Inner = Inner()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("read", READERS)
def test_every_reader_looks_in_the_home_folder(home, read):
    with pytest.raises(InputError) as raised:
        read("~/absent.csv")
    assert str(home / "absent.csv") in str(raised.value)


def test_what_is_written_to_the_home_folder_is_there(home):
    with write_atomically(Path("~/a.txt")) as file:
        file.write("a")
    Checkpoints(Path("~/checkpoints")).open().close()
    writer = RunWriter(Path("~/run"))
    writer.on_start(Plan(1, 1, 1, 0, History()))
    writer.on_epoch({"epoch": 1, "loss": 0.5}, None)
    assert {path.name for path in home.iterdir()} == {"a.txt", "checkpoints", "run"}
    assert {path.name for path in (home / "run").iterdir()} == {"metrics.jsonl", "history.csv"}


def test_options_and_toml_mean_the_home_folder_and_words_stay_words(home):
    wanted = Outer(home / "runs", "~", Inner(home / "x"))
    (home / "c.toml").write_text('folder = "~/runs"\n[inner]\nfile = "~/x"\n')
    assert from_toml(Outer, Path("~/c.toml")) == wanted
    assert from_command_line(Outer, ["--folder=~/runs", "--inner.file=~/x"], "prog") == wanted
    assert from_command_line(Outer, ["--config=~/c.toml"], "prog") == wanted


def test_an_unknown_user_is_named():
    with pytest.raises(InputError, match="~no-such-user/x: there is no home folder"):
        expanded("~no-such-user/x")


class FullDisk:
    """A file that takes nothing more."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self.file.__enter__() and self

    def __exit__(self, *error) -> None:
        self.file.__exit__(*error)

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("how", [write_atomically, appending])
def test_a_full_disk_names_the_file_and_says_what_to_do(how, tmp_path, monkeypatch, capsys):
    file = tmp_path / "metrics.jsonl"
    file.write_text("{}\n")
    real = open
    monkeypatch.setattr("builtins.open", lambda *given, **more: FullDisk(real(*given, **more)))

    def command() -> int:
        with how(file) as opened:
            opened.write("more")
        return cli.DONE

    assert cli.run(command) == cli.FAILED
    said = capsys.readouterr().err
    assert f"No space left on device: '{file}'. Make room there" in said
    assert file.read_text() == "{}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_vanished_is_no_folder_to_go_on_in(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.on_start(Plan(3, 1, 3, 0, History()))
    writer.on_epoch({"epoch": 1, "step": 1, "loss": 0.5}, None)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"was removed while it was written: .*metrics"):
        writer.on_epoch({"epoch": 2, "step": 2, "loss": 0.25}, None)


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    left = [tmp_path / ".curves.png.12420.tmp", tmp_path / "bundle" / ".bundle.json.7.tmp"]
    others = [tmp_path / ".lock", tmp_path / "a.tmp", tmp_path / ".mine.tmp"]
    (tmp_path / "bundle").mkdir()
    for path in (*left, *others):
        path.touch()
    sweep(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def _strictly(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_nan():
    values = {"a": float("nan"), "b": [1.5, (float("inf"),)], "c": {"d": np.float64("-inf")}}
    assert _strictly(json_text(values)) == {"a": None, "b": [1.5, [None]], "c": {"d": None}}


def test_progress_keeps_nan_and_infinity_through_strict_json():
    sums = {"loss": np.array([0.1, np.nan, -np.inf]), "n": np.array(np.inf)}
    history = History(({"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.1}))
    progress = Progress(0, 32, 64, "loop", sums=sums, history=history, stopping=Stopping(0.1, 3))
    written = _strictly(json.dumps(progress.to_json(), allow_nan=False))
    assert isinstance(written, dict)
    again = Progress.from_json(written)
    assert repr(again) == repr(progress)
    # Earlier versions wrote what Python's own parser reads.
    before = {**written, "sums": {"loss": [0.1, np.nan, -np.inf], "n": np.inf}}
    assert repr(Progress.from_json(json.loads(json.dumps(before)))) == repr(progress)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_reader_of_texts_knows_byte_order_marks(encoding, tmp_path):
    def file(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    assert read_text(file("a.txt", "grün\r\nblau")) == "grün\nblau"
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("grün".encode(encoding)))
    assert read_text(tmp_path / "a.txt.gz") == "grün"
    assert read_prose("text", file("b.txt", "grün")) == "grün"
    assert read_lines(file("c.txt", "grün\nblau\n")) == ["grün", "blau"]
    mails = read_labelled_lines(file("d.txt", "spam\tja\nham\tnein\n"))
    assert mails.class_names == ("ham", "spam")
    pairs = read_parallel(file("e.en", "green\nblue\n"), file("e.de", "grün\nblau\n"))
    assert (pairs.source, pairs.target) == (("green", "blue"), ("grün", "blau"))
    likes = read_interactions(file("f.csv", "user,item\nänne,tee\nbo,milch\n"))
    assert likes.known_users.ids == ("bo", "änne")
    file("ratings.csv", "userId,movieId,rating,timestamp\n1,7,4.5,99\n2,7,3,100\n")
    file("movies.csv", "movieId,title,genres\n7,Übermut (1999),Drama\n")
    films = load_movielens(tmp_path)
    assert films.known_items.titles == ("Übermut (1999)",)
    assert translate._lines(file("g.txt", "eins\nzwei\n")) == ["eins", "zwei"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ä".encode("latin-1"), "a.txt: expected UTF-8, got byte 0xe4 at 0; .*iconv -f cp1252"),
        (b"\xff\xfea", "a.txt: expected UTF-16, got byte 0x61 at 2"),
    ],
)
def test_bytes_that_are_no_text_are_placed(content, message, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"b\.txt: No such file"):
        read_text(tmp_path / "b.txt")
