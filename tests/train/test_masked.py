"""`python -m train.masked`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the extra [text]")

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.models import BERTClassifier
from jaxnet.training.attention_maps import self_attention_maps
from train.masked import PROGRAM, Config, train

QUICK = "--network.num_layers 2 --network.features 32 --network.num_heads 2 --tokens.length 16"


def pretrain(*arguments: str | Path) -> int:
    """What the command does, in this process."""
    words = ["--no-progress", *QUICK.split(), *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


@pytest.fixture
def text(tmp_path) -> Path:
    """Sentences in which most words follow from the others."""
    rng = np.random.default_rng(0)
    colours = {"grass": "green", "snow": "white", "coal": "black", "sky": "blue"}
    things = rng.choice(list(colours), 600)
    file = tmp_path / "colours.txt"
    file.write_text(" ".join(f"The {thing} is {colours[thing]}." for thing in things))
    return file


@pytest.mark.slow
def test_a_text_of_ones_own(text, tmp_path, capsys):
    own = ["--data", "text", "--data-dir", text, "--tokens.vocab-size", "300", "--epochs", "25"]
    own += ["--batch-size", "8", "--early-stopping.patience", "25"]
    run = tmp_path / "run"
    assert pretrain(*own, "--learning-rate", "0.005", "--run-dir", run) == cli.DONE
    assert "Filled in" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > summary["test_unigram_accuracy"] + 0.3
    assert summary["test_loss"] < summary["test_unigram_loss"]
    assert (run / "attention.png").read_bytes().startswith(b"\x89PNG")
    filled = (run / "filled.txt").read_text()
    assert "[" in filled and " is " in filled

    bundle = Bundle.load(run / "bundle")
    texts = ["The snow is white."]
    tokens = bundle.encoder(texts)
    assert tokens[0, 0] == 2 and tokens[0, -1] == 0
    logits = bundle.predict(texts)
    assert logits.shape == (1, 16, bundle.encoder.tokenizer.vocab_size)
    # Its encoder is the start of a classifier.
    classifier = BERTClassifier(bundle.model.encoder, 3)
    params = jax.eval_shape(classifier.init, jax.random.key(0), tokens)["params"]
    pretrained = bundle.variables["params"]["encoder"]
    assert set(pretrained) <= set(params["encoder"])
    joined = {**params, "encoder": {**params["encoder"], **pretrained}}
    assert jax.eval_shape(classifier.apply, {"params": joined}, tokens).shape == (1, 3)

    maps = self_attention_maps(bundle.model, bundle.variables, tokens)
    assert maps.shape == (2, 1, 2, 16, 16)
    real = (tokens != 0)[0]
    np.testing.assert_allclose(maps.sum(axis=-1)[..., real], 1, rtol=1e-5)
    assert not maps[..., ~real].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "pyton"], "did you mean 'python'?"),
        (["--data", "text"], "needs --data-dir"),
        (["--data", "text", "--data-dir", "absent.txt"], "absent.txt"),
        (["--model", "gpt"], "unknown model 'gpt'"),
        (["--tokens.vocab-size", "100"], "needs a vocab_size of at least"),
    ],
)
def test_wrong_use(arguments, message, tmp_path, capsys):
    assert pretrain("--run-dir", tmp_path / "run", *arguments) != cli.DONE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["features", "num-heads", "num-layers"])
def test_sizes_of_nothing_are_refused(name, capsys):
    assert pretrain(f"--network.{name}", "0") == cli.WRONG_USAGE
    assert f"expected --network.{name} of at least 1, got 0" in capsys.readouterr().err


def test_a_text_that_is_too_short(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("To be or not to be.")
    own = ["--data", "text", "--data-dir", tmp_path / "short.txt"]
    assert pretrain(*own, "--run-dir", tmp_path / "run") == cli.FAILED
    assert "bring more text" in capsys.readouterr().err
