"""Layouts from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jaxnet.models.gpt2 import SHARDING

from jaxnet import trees
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.app.run_options import Layout, Run
from jaxnet.bundle import Bundle
from jaxnet.models import GPT2
from jaxnet.parallel.model_rules import family_rules
from train import language
from train.classify import PROGRAM, Config, train

QUICK = ["--model", "mlp", "--network.hidden", "64", "--epochs", "4", "--batch-size", "64"]


def classify(folder: Path, *arguments: str) -> dict[str, Any]:
    words = ["--no-progress", "--run-dir", str(folder), *QUICK, *arguments]
    assert cli.run(lambda: train(from_command_line(Config, words, PROGRAM))) == cli.DONE
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_command_on_four_devices_ends_as_on_one(tmp_path, caplog):
    alone = classify(tmp_path / "alone")
    caplog.clear()
    four = classify(tmp_path / "four", "--layout.data", "2", "--layout.tensor", "2")
    said = caplog.messages[0]
    assert said.startswith("layout: data=2 x tensor=2: ")
    assert said.endswith("on each of 4 devices")
    assert four["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
    assert four["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.01)
    assert four["compiles"] == alone["compiles"]
    # A run goes on under another layout: it doesn't decide what is learnt.
    assert classify(tmp_path / "four", "--layout.fsdp", "8")["epochs"] == 4


SMALL = ["--model", "gpt", "--epochs", "2", "--batch-size", "8", "--optimizer.name", "sgd"]
SMALL += ["--network.features", "16", "--network.num-layers", "2"]
SMALL += ["--network.dropout", "0", "--tokens.length", "16", "--writing.new-tokens", "4"]
ONE_BLOCK = ["--network.num-layers", "1"]


def write(folder: Path, *arguments: str) -> tuple[int, list[list[str]]]:
    """The exit code, and the history."""
    text = folder.parent / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    words = ["--no-progress", "--run-dir", str(folder), "--data", "text", "--data-dir", str(text)]
    words += [*SMALL, *arguments]
    config = from_command_line(language.Config, words, language.PROGRAM)
    code = cli.run(lambda: language.train(config))
    file = folder / "history.csv"
    return code, [row.split(",") for row in file.read_text().split()] if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "axes"),
    [
        ([], ["--layout.data", "2", "--layout.stage", "2"]),
        (
            [*ONE_BLOCK, "--network.experts", "2"],
            ["--layout.sequence", "2", "--layout.expert", "2"],
        ),
    ],
    ids=["stage", "sequence and expert"],
)
def test_a_language_model_on_four_devices_learns_as_on_one(network, axes, tmp_path):
    code, (names, *alone) = write(tmp_path / "alone", *network)
    assert code == cli.DONE and "val_loss" in names
    code, (_, *four) = write(tmp_path / "four", *network, *axes)
    assert code == cli.DONE
    for row, expected in zip(four, alone, strict=True):
        assert [float(x) for x in row] == pytest.approx([float(x) for x in expected], rel=1e-5)
    figures, bundles = zip(
        *(
            (
                json.loads((tmp_path / name / "summary.json").read_text()),
                Bundle.load(tmp_path / name / "bundle"),
            )
            for name in ("alone", "four")
        ),
        strict=True,
    )
    assert figures[1]["test_loss"] == pytest.approx(figures[0]["test_loss"], rel=1e-5)
    assert trees.differences(bundles[0].variables, bundles[1].variables) == []
    if "--layout.stage" not in axes:
        return
    # What is saved is that of one device, and goes on there.
    code, _ = write(tmp_path / "four", *network)
    assert code == cli.DONE
    again = json.loads((tmp_path / "four" / "summary.json").read_text())
    assert again["test_loss"] == pytest.approx(figures[1]["test_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout.data", "3"], "64 examples can't be split evenly over data=3"),
        (["--layout.data", "16"], "data=16 = 16, and there are 8 devices"),
        (["--layout.data", "-1", "--layout.fsdp", "-1"], "data and fsdp are -1"),
        (["--layout.tensor", "8", "--network.hidden", "30"], "30 isn't divisible by tensor=8"),
        (
            ["--layout.tensor", "2", "--model", "cnn", "--network.hidden", "None"],
            "models.cnn ends without any",
        ),
        (["--layout.stage", "2"], "stages split the blocks of a jaxnet.layers.Stack"),
        (["--layout.expert", "2"], "expert=2 shards the layer jaxnet.layers.ExpertFeed"),
        (["--layout.stage", "2", "--layout.expert", "2"], "stage=2 can't be combined with expert"),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, message, tmp_path, capsys):
    words = ["--no-progress", "--run-dir", str(tmp_path), *QUICK, *arguments]
    code = cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))
    assert code == cli.WRONG_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_rules_hold_where_a_network_is_part_of_another(tmp_path):
    from train.regress import PROGRAM, Config, train

    words = ["--network.hidden", "64", "--epochs", "2", "--layout.data", "2", "--layout.tensor"]
    words += ["2", "--batch-size", "32", "--no-progress", "--run-dir", str(tmp_path)]
    assert cli.run(lambda: train(from_command_line(Config, words, PROGRAM))) == cli.DONE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "lstm", "--layout.sequence", "2"], "sequence=2 shards the layer"),
        (["--layout.stage", "4"], "2 isn't divisible by stage=4"),
        (["--layout.stage", "2", "--layout.micro-batches", "3"], "8 can't be cut into 3 micro"),
        (["--network.experts", "6", "--layout.expert", "4"], "6 isn't divisible by expert=4"),
        (
            ["--model", "lstm", "--network.experts", "4"],
            "--network.experts 4 would be ignored: it is read only with --model gpt",
        ),
    ],
)
def test_a_language_model_that_cant_be_shared_out_so_is_a_message(
    arguments, message, tmp_path, capsys
):
    assert write(tmp_path / "run", *arguments)[0] == cli.WRONG_USAGE
    assert message in capsys.readouterr().err


def test_a_layout_takes_the_rules_of_the_model_behind_those_of_the_command():
    layout = Layout(tensor=2, whole=("embed/embedding",)).build(GPT2())
    assert layout.rules == (("embed/embedding", ()), *family_rules(GPT2()))
    assert len(layout.rules) == 1 + len(SHARDING)
    assert Run().layout.build(GPT2()).one_device
