"""`python -m train.language` and `python -m jaxnet.generate` on a small text."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet import generate as command
from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.data import token_windows
from jaxnet.errors import UsageError
from train.language import PROGRAM, Config, Network, Writing, network, train

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = ["--network.features", "16", "--tokens.length", "20"]
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


@pytest.mark.slow
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
def test_byte_pairs_and_transformers(model, own, tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--model", model, "--network.num-layers", "1", "--tokens.level", "bpe"]
    if model == "llama":
        small += ["--network.num-kv-heads", "2"]
    assert language(*own, *small, "--tokens.vocab-size", "300", "--run-dir", run) == cli.DONE
    summary = json.loads((run / "summary.json").read_text())
    # A token is several characters, so it costs more.
    assert summary["test_nats_per_character"] < 0.7 * summary["test_loss"]
    too_long = ["--run-dir", run, "--prompt", "the ", "--new-tokens", "500"]
    capsys.readouterr()
    assert generation(*too_long) == (cli.FAILED if model == "gpt" else cli.DONE)
    if model == "gpt":
        # Two byte pairs of twenty; without the option it fills what is left.
        assert re.search(r"--new-tokens 500: .* for 1\d more tokens", capsys.readouterr().err)
        assert generation("--run-dir", run) == cli.DONE
        longer = capsys.readouterr().out
        assert generation("--run-dir", run, "--new-tokens", "5") == cli.DONE
        assert longer.startswith("The ") and len(longer) > len(capsys.readouterr().out)
        assert generation("--run-dir", run, "--prompt", TEXT) == cli.FAILED
        assert "--prompt: " in capsys.readouterr().err


@pytest.mark.slow
def test_replicas_and_an_average_write_too(own, tmp_path):
    run = tmp_path / "run"
    techniques = ["--techniques.local-sgd-replicas", "2", "--techniques.ema", "0.9"]
    assert language(*own, *techniques, "--epochs", "1", "--run-dir", run) == cli.DONE
    assert (run / "samples.txt").read_text().startswith("===== epoch 1 =====\nthe ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--writing.prompt", ""], "--writing.prompt: expected a text to go on with, got ''"),
        (["--writing.prompt", " ", "--tokens.level", "word"], "--writing.prompt: .* no token"),
        (["--writing.prompt", "the " * 5, "--model", "gpt"], "--writing.prompt: 20 tokens leave"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_before_training(
    arguments, message, own, tmp_path, capsys
):
    run = tmp_path / "run"
    assert language(*own, *arguments, "--run-dir", run) == cli.FAILED
    assert re.search(message, capsys.readouterr().err)
    # What was wrong can be put right in the same folder.
    assert not run.exists()


def test_what_is_written_may_change_when_a_run_goes_on(tmp_path):
    before, after = Config(), Config(writing=Writing(prompt="A "))
    run_folder.open_run(tmp_path, before, resume=True, may_change=run_folder.changeable(before))
    run_folder.open_run(tmp_path, after, resume=True, may_change=run_folder.changeable(before))
    (tmp_path / "metrics.jsonl").touch()  # it has begun to train
    with pytest.raises(UsageError, match=r"network\.features"):
        changed = Config(network=Network(features=8))
        run_folder.open_run(
            tmp_path, changed, resume=True, may_change=run_folder.changeable(before)
        )


def test_a_run_that_learnt_nothing_binds_nobody(tmp_path):
    run_folder.open_run(tmp_path, Config(network=Network(features=7)), resume=True)
    run_folder.open_run(tmp_path, Config(), resume=True)
    assert "features = 256" in (tmp_path / "config.toml").read_text()


def test_llama_shares_keys_and_values():
    config = Config(model="llama", network=Network(features=16, num_kv_heads=2))
    assert network(config, 20).num_kv_heads == 2


def test_a_resumed_run_repeats_no_sample(own, tmp_path):
    from jaxnet.generation.texts import Samples
    from jaxnet.training.callbacks import Plan
    from jaxnet.training.history import History

    file = tmp_path / "samples.txt"
    blocks = [f"===== epoch {epoch} =====\ntext {epoch}\n\n" for epoch in (1, 2, 10)]
    file.write_text("".join(blocks))
    samples = Samples(tmp_path, None, "a", 1, ())  # type: ignore[arg-type]
    samples.on_start(Plan(9, 1, 9, 1, History(({"epoch": 1, "step": 1},))))
    assert file.read_text() == blocks[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "text"], cli.WRONG_USAGE, "--data text needs --data-dir"),
        (["--data", "text", "--data-dir", "absent"], cli.WRONG_USAGE, "absent"),
        (["--model", "gtp"], cli.WRONG_USAGE, "did you mean 'gpt'"),
        (
            ["--network.num-kv-heads", "2"],
            cli.WRONG_USAGE,
            "only with --model llama, and this is --model lstm",
        ),
        (["--network.experts", "2"], cli.WRONG_USAGE, "only with --model gpt, and this is"),
    ],
)
def test_what_is_refused(arguments, code, message, capsys):
    assert language(*arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "--network.embedding",
        "--network.features",
        "--network.num-layers",
        "--network.num-heads",
        "--network.num-kv-heads",
        "--writing.new-tokens",
    ],
)
def test_sizes_of_nothing_are_refused(option, capsys):
    assert language(option, "0") == cli.WRONG_USAGE
    assert f"expected {option} of at least 1, got 0" in capsys.readouterr().err


def test_what_the_writer_refuses(tmp_path, capsys):
    assert generation() == cli.WRONG_USAGE
    assert "--run-dir" in capsys.readouterr().err
    assert generation("--run-dir", tmp_path) == cli.FAILED
    assert "bundle.json" in capsys.readouterr().err
