"""`python -m train.tag` on a small file in columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from train.tag import PROGRAM, Config, train

NAMES = {"PER": ["Ada", "Alan", "Grace"], "LOC": ["London", "Paris", "Oslo"]}
VERBS = ["saw", "left", "likes", "near"]


def write_names(path: Path, sentences: int = 160) -> Path:
    """Sentences such as "Ada Lovelace saw Paris": which words are names can be told by them."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(sentences):
            person, place = rng.choice(NAMES["PER"]), rng.choice(NAMES["LOC"])
            file.write(f"{person} B-PER\nLovelace I-PER\n{rng.choice(VERBS)} O\n{place} B-LOC\n\n")
    return path


def tag(*words: str | Path) -> int:
    arguments = ["--no-progress", *map(str, words)]
    return cli.run(lambda: train(from_command_line(Config, arguments, PROGRAM)))


@pytest.mark.slow
def test_names_are_found_and_the_bundle_tags_texts(tmp_path):
    size = ["--network.features", "16", "--network.num-layers", "1", "--network.num-heads", "2"]
    texts = ["--tokens.level", "word", "--tokens.length", "6"]
    file = write_names(tmp_path / "names.conll")
    words = ["--data", "conll", "--data-dir", file, *size, *texts, "--batch-size", "16"]
    assert tag(*words, "--epochs", "10", "--run-dir", tmp_path / "run") == cli.DONE
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.95 and summary["test_entity_f1"] > 0.9
    assert (tmp_path / "run" / "confusion.png").exists()
    bundle = Bundle.load(tmp_path / "run" / "bundle")
    (tags,) = bundle.predict_class(["Grace Lovelace left Oslo"])
    assert list(tags[:4]) == ["B-PER", "I-PER", "O", "B-LOC"]


def test_a_file_with_a_word_and_no_tag_is_refused_by_its_line(tmp_path, capsys):
    file = tmp_path / "names.conll"
    file.write_text("Ada B-PER\n\nwrote\n")
    assert tag("--data", "conll", "--data-dir", file, "--run-dir", tmp_path / "run") == cli.FAILED
    assert (
        "names.conll, line 3: expected a word and its tag, got 'wrote'" in capsys.readouterr().err
    )
