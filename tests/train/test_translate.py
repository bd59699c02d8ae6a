"""`train.translate` from the command line to the run folder."""

from __future__ import annotations

import json

import pytest

from jaxnet.bundle import Bundle
from jaxnet.config import from_command_line
from jaxnet.data import Tokenizer
from jaxnet.errors import InputError, UsageError
from train.translate import Config, train

SMALL = [
    *("--network.features", "16", "--network.num-layers", "1", "--network.hidden", "32"),
    *("--network.num-heads", "2", "--texts.vocab-size", "300", "--epochs", "1", "--beams", "1"),
    *("--batch-size", "8"),
    "--no-progress",
]


def configured(*words):
    return from_command_line(Config, [*SMALL, *map(str, words)], "train.translate")


@pytest.mark.slow
def test_a_run_leaves_translations_and_the_network(tmp_path, capsys):
    lines = [f"{a} {b}" for a in "abcdefgh" for b in "stuvwxyz"]
    for name, texts in (("a.txt", lines), ("b.txt", [line.upper() for line in lines])):
        (tmp_path / name).write_text("\n".join(texts))
    files = ("--texts.source", tmp_path / "a.txt", "--texts.target", tmp_path / "b.txt")
    run = tmp_path / "run"
    assert train(configured("--data", "files", *files, "--run-dir", run)) == 0
    assert "--- epoch 1 ---" in capsys.readouterr().out
    rows = [line.split("\t") for line in (run / "translations.tsv").read_text().splitlines()]
    assert all(len(row) == 3 and row[0].upper() == row[2] for row in rows)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["test_bleu"] <= 100 and summary["epochs"] == 1
    assert (run / "samples.txt").exists() and (run / "attention.png").exists() is any(
        row[1] for row in rows
    )
    tokenizer, bundle = Tokenizer.load(run / "tokenizer.json"), Bundle.load(run / "bundle")
    assert bundle.model.vocab_size == tokenizer.vocab_size


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match="needs --data-dir"):
        train(configured("--data", "folder"))
    with pytest.raises(UsageError, match=r"needs --texts.source and --texts.target"):
        train(configured("--data", "files"))


def test_texts_that_are_all_too_long_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("\n".join(["a long text"] * 40))
    files = ("--texts.source", tmp_path / "a", "--texts.target", tmp_path / "b")
    options = ("--texts.length", "2", "--run-dir", tmp_path / "run")
    with pytest.raises(InputError, match=r"all texts have more than 2 tokens"):
        train(configured("--data", "files", *files, *options))
