"""Paths as a user writes them, and JSON that every parser takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle, data
from jaxnet.command_line import from_command_line
from jaxnet.config import from_toml
from jaxnet.data.prose import read_prose
from jaxnet.errors import InputError
from jaxnet.files import expanded, json_text, write_atomically
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
