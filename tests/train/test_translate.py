"""`train.translate` from the command line to the run folder."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxnet import generate
from jaxnet import translate as command
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.bundle import Bundle
from jaxnet.data import Tokenizer
from jaxnet.errors import InputError, UsageError
from train.translate import Config, train

SMALL = [
    *("--network.features", "16", "--network.num-layers", "1", "--network.hidden", "32"),
    *("--network.num-heads", "2", "--texts.vocab-size", "300", "--epochs", "1", "--beams", "1"),
    *("--batch-size", "8"),
    "--no-progress",
]


def translation(*words):
    words = list(map(str, words))
    return cli.run(lambda: command.write(from_command_line(command.Config, words, "translate")))


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

    # Its network translates what it never saw, and the rest as at the end of the run.
    for unseen in (["a s"], bundle.encoder(["a s"])):
        with pytest.raises(UsageError, match=r"python -m jaxnet\.translate"):
            bundle.predict(unseen)
    known = {row[0]: row[1] for row in rows}
    texts = ["a word", "", *known]
    capsys.readouterr()
    options = ("--beams", 1, "--run-dir")
    assert translation(*options, run, "--text", *texts) == cli.DONE
    printed = capsys.readouterr().out.split("\n")
    assert printed[1:] == ["", *known.values(), ""]
    (tmp_path / "new.txt").write_text("\n".join(texts))
    assert translation(*options, run / "bundle", "--file", tmp_path / "new.txt") == cli.DONE
    assert capsys.readouterr().out.split("\n") == printed
    assert cli.run(lambda: generate.write(generate.Config(run))) == cli.FAILED
    assert "holds a translator: python -m jaxnet.translate" in capsys.readouterr().err


@pytest.mark.slow
def test_replicas_and_an_average_write_long_texts_too(tmp_path, monkeypatch):
    asked = []

    def noted(model, variables, tokenizer, texts, new_tokens, **options):
        asked.append(new_tokens)
        assert jax.tree.all(jax.tree.map(lambda leaf: leaf.ndim < 3, variables))
        return ["" for _ in texts]

    monkeypatch.setattr("jaxnet.generation.translate", noted)
    monkeypatch.setattr("jaxnet.generation.translation.translate", noted)
    lines = [" ".join("abcdefgh"[(i + j) % 8] * 2 for j in range(35)) for i in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(line[:5] for line in lines))  # a summary
    files = ("--texts.source", tmp_path / "a.txt", "--texts.target", tmp_path / "b.txt")
    techniques = ("--techniques.local-sgd-replicas", "2", "--techniques.ema", "0.9")
    sizes = ("--texts.length", "120", "--texts.vocab-size", "260")
    run = ("--run-dir", tmp_path / "run")
    assert train(configured("--data", "files", *files, *techniques, *sizes, *run)) == 0
    # All letters and blanks, and the end: not 64, which would cut long translations off.
    assert asked == [105, 105]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--text", "a"], cli.WRONG_USAGE, "--run-dir FOLDER"),
        (["--run-dir", "absent"], cli.WRONG_USAGE, "either --text TEXT or --file FILE"),
        (["--run-dir", "absent", "--text", "a"], cli.FAILED, "bundle.json"),
        (["--run-dir", "absent", "--file", "no.txt"], cli.FAILED, "--file no.txt"),
    ],
)
def test_what_the_translator_refuses(arguments, code, message, capsys):
    assert translation(*arguments) == code
    assert message in capsys.readouterr().err


def test_a_bundle_of_another_kind_is_no_translator(tmp_path, capsys):
    layer = nn.Dense(1)
    variables = {"params": {"kernel": np.ones((2, 1), np.float32), "bias": np.ones(1, np.float32)}}
    Bundle(layer, variables, jax.ShapeDtypeStruct((2,), np.float32)).save(tmp_path)
    assert translation("--run-dir", tmp_path, "--text", "a") == cli.FAILED
    assert "holds no translator; train one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["features", "num-layers", "num-heads", "hidden"])
def test_sizes_of_nothing_are_refused(name):
    with pytest.raises(UsageError, match=rf"expected --network\.{name} of at least 1, got 0"):
        configured(f"--network.{name}", 0)


def test_a_model_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="unknown model 'no_such_model'"):
        train(configured("--model", "no_such_model"))


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
