"""`python -m train.text` on small files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from train.text import PROGRAM, Config, train

SMALL = ["--network.features", "8", "--tokens.length", "8"]
SMALL += ["--epochs", "8", "--learning-rate", "0.02", "--tokens.vocab-size", "40"]
WORDS = {
    "spam": ["win", "free", "prize", "now", "cash"],
    "ham": ["see", "you", "at", "home", "tonight"],
}


def text(*arguments: str | Path) -> int:
    words = ["--no-progress", *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


def sentences(label: str, n: int) -> list[str]:
    rng = np.random.default_rng(len(label))
    return [" ".join(rng.choice(WORDS[label], 4)) for _ in range(n)]


@pytest.fixture
def lines(tmp_path) -> Path:
    """A file of two classes that have no word in common, but for one wrong label."""
    rows = [f"{label}\t{one}\n" for label in WORDS for one in sentences(label, 60)]
    path = tmp_path / "mails.tsv"
    path.write_text("".join(rows))
    return path


@pytest.mark.slow
def test_a_file_with_labels(lines, tmp_path, capsys):
    run = tmp_path / "run"
    assert text("--data", "lines", "--data-dir", lines, *SMALL, "--run-dir", run) == cli.DONE
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    assert "ham" in capsys.readouterr().out
    for name in ("confusion.png", "curves.png", "roc.png", "classes.csv", "history.csv"):
        assert (run / name).exists()
    bundle = Bundle.load(run / "bundle")
    taken = bundle.predict_class(["Free cash, win now!", "home at NIGHT, see you"])
    assert taken.tolist() == ["spam", "ham"]
    rows = list(csv.reader((run / "mistakes.csv").read_text().splitlines()))
    assert rows[0] == ["true", "predicted", "probability", "text"]
    assert len(rows) - 1 == round((1 - summary["test_accuracy"]) * 24)


@pytest.mark.slow
def test_folds_of_a_folder_share_their_programs(tmp_path):
    for label in WORDS:
        (tmp_path / f"{label}.txt").write_text("\n".join(sentences(label, 40)))
    run = tmp_path / "run"
    folder = ["--data", "folder", "--data-dir", tmp_path]
    assert text(*folder, *SMALL, "--model", "gru", "--folds", "4", "--run-dir", run) == cli.DONE
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    assert np.sum(summary["confusion"]) == 80
    assert summary["compiles"] == 4 or summary["compiles"] == 3


@pytest.mark.slow
def test_the_encoder(lines, tmp_path):
    run = tmp_path / "run"
    words = ["--data", "lines", "--data-dir", lines, *SMALL, "--model", "encoder"]
    assert text(*words, "--run-dir", run) == cli.DONE
    assert json.loads((run / "summary.json").read_text())["test_accuracy"] > 0.9
    assert Bundle.load(run / "bundle").predict_class(["win a prize"]).tolist() == ["spam"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "sms_spam"], cli.WRONG_USAGE, "--data sms_spam needs --data-dir"),
        (["--data", "smsspam"], cli.WRONG_USAGE, "did you mean 'sms_spam'"),
        (["--model", "lstmm"], cli.WRONG_USAGE, "did you mean 'lstm'"),
        (["--data", "lines", "--data-dir", "absent"], cli.WRONG_USAGE, "absent: there is no such"),
        (["--data", "folder", "--data-dir", "."], cli.FAILED, "or CLASS/*.txt, for at least two"),
        (["--data", "csv", "--data-dir", __file__], cli.WRONG_USAGE, "--text COLUMN and --target"),
        (["--text", "body"], cli.WRONG_USAGE, "only with --data csv"),
    ],
)
def test_what_is_refused(arguments, code, message, capsys):
    assert text(*arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["embedding", "features", "num-layers", "num-heads"])
def test_sizes_of_nothing_are_refused(name, capsys):
    assert text(f"--network.{name}", "0") == cli.WRONG_USAGE
    assert f"expected --network.{name} of at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_columns_of_a_table_and_a_folder_for_each_class_are_alike(tmp_path):
    rows = [(label, one) for label in sorted(WORDS) for one in sentences(label, 20)]
    with (tmp_path / "mails.csv").open("w", encoding="cp1252", newline="") as file:
        csv.writer(file).writerows([("kind", "body"), *((label, f"{t} ä") for label, t in rows)])
    for number, (label, one) in enumerate(rows):
        path = tmp_path / "mails" / label / f"{number:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{one} ä")
    quick = [*SMALL, "--epochs", "1"]
    table = ["--data", "csv", "--text", "body", "--target", "kind", "--encoding", "cp1252"]
    forms = {tmp_path / "mails.csv": table, tmp_path / "mails": ["--data", "folder"]}
    losses = []
    for path, words in forms.items():
        run = tmp_path / f"run-{path.name}"
        assert text(*words, "--data-dir", path, *quick, "--run-dir", run) == cli.DONE
        losses.append(json.loads((run / "summary.json").read_text())["test_loss"])
    assert losses[0] == losses[1]
