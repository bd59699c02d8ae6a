"""`python -m train.language` and `python -m jaxnet.generate` on a small text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle, cli
from jaxnet import generate as command
from jaxnet.config import from_command_line
from jaxnet.data import token_windows
from train.language import PROGRAM, Config, train

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = ["--network.features", "16", "--network.embedding", "8", "--tokens.length", "20"]
SMALL += ["--batch-size", "8", "--learning-rate", "0.02", "--epochs", "3"]
SMALL += ["--writing.new-tokens", "20", "--writing.prompt", "the "]


def language(*arguments: str | Path) -> int:
    words = ["--no-progress", *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


def generation(*arguments: str | Path) -> int:
    words = list(map(str, arguments))
    return cli.run(lambda: command.write(from_command_line(command.Config, words, PROGRAM)))


@pytest.fixture
def own(tmp_path) -> list[str | Path]:
    (tmp_path / "text.txt").write_text(TEXT)
    return ["--data", "text", "--data-dir", tmp_path / "text.txt", *SMALL]


def test_a_text_of_ones_own(own, tmp_path, capsys):
    run = tmp_path / "run"
    assert language(*own, "--run-dir", run) == cli.DONE
    printed = capsys.readouterr().out
    samples = (run / "samples.txt").read_text()
    assert samples.count("===== epoch") == 3
    assert samples.splitlines()[1] in printed
    summary = json.loads((run / "summary.json").read_text())
    nats = summary["test_nats_per_character"]
    assert nats == pytest.approx(summary["test_loss"])
    assert summary["test_perplexity"] == pytest.approx(math.exp(nats))
    assert summary["test_bits_per_character"] == pytest.approx(nats / math.log(2))
    bundle = Bundle.load(run / "bundle")
    held_out = bundle.encoder.tokenizer.encode(TEXT[int(0.9 * len(TEXT)) :])
    pieces = token_windows(held_out, 20)
    logits = bundle.predict(pieces.inputs)
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    right = np.take_along_axis(logp, pieces.labels[..., None], axis=-1)
    assert -right.mean() == pytest.approx(nats, rel=1e-4)

    capsys.readouterr()
    write = ["--run-dir", run, "--prompt", "fox ", "the lazy", "--new-tokens", "10"]
    assert generation(*write) == cli.DONE
    first = capsys.readouterr().out
    assert first.startswith("fox ") and "\nthe lazy" in first
    assert generation(*write) == cli.DONE
    assert capsys.readouterr().out == first
    assert generation(*write, "--beams", "2") == cli.DONE


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt", "llama"])
def test_byte_pairs_and_transformers(model, own, tmp_path):
    run = tmp_path / "run"
    small = ["--model", model, "--network.num-layers", "1", "--tokens.level", "bpe"]
    assert language(*own, *small, "--tokens.vocab-size", "300", "--run-dir", run) == cli.DONE
    summary = json.loads((run / "summary.json").read_text())
    # A token is several characters, so it costs more.
    assert summary["test_nats_per_character"] < 0.7 * summary["test_loss"]
    too_long = ["--run-dir", run, "--prompt", "the ", "--new-tokens", "500"]
    assert generation(*too_long) == (cli.FAILED if model == "gpt" else cli.DONE)


def test_a_resumed_run_repeats_no_sample(own, tmp_path):
    from jaxnet.generation.texts import Samples
    from jaxnet.training.callbacks import Plan
    from jaxnet.training.history import History

    file = tmp_path / "samples.txt"
    blocks = [f"===== epoch {epoch} =====\ntext {epoch}\n\n" for epoch in (1, 2, 10)]
    file.write_text("".join(blocks))
    samples = Samples(tmp_path, None, None, "a", 1, ())  # type: ignore[arg-type]
    samples.on_start(Plan(9, 1, 9, 1, History(({"epoch": 1, "step": 1},))))
    assert file.read_text() == blocks[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "text"], cli.WRONG_USAGE, "--data text needs --data-dir"),
        (["--data", "text", "--data-dir", "absent"], cli.FAILED, "absent"),
        (["--model", "gtp"], cli.WRONG_USAGE, "did you mean 'gpt'"),
    ],
)
def test_what_is_refused(arguments, code, message, capsys):
    assert language(*arguments) == code
    assert message in capsys.readouterr().err


def test_what_the_writer_refuses(tmp_path, capsys):
    assert generation() == cli.WRONG_USAGE
    assert "--run-dir" in capsys.readouterr().err
    assert generation("--run-dir", tmp_path) == cli.FAILED
    assert "bundle.json" in capsys.readouterr().err
