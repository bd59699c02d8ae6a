"""Layouts from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxnet import cli
from jaxnet.config import from_command_line
from jaxnet.parallel.families import family_rules
from jaxnet.recipe import Layout, Run
from models import GPT2
from models.gpt2 import SHARDING
from train.classify import PROGRAM, Config, train

QUICK = ["--model", "mlp", "--network.hidden", "64", "--epochs", "4", "--batch-size", "64"]


def classify(folder: Path, *arguments: str) -> dict[str, Any]:
    words = ["--no-progress", "--run-dir", str(folder), *QUICK, *arguments]
    assert cli.run(lambda: train(from_command_line(Config, words, PROGRAM))) == cli.DONE
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_command_on_four_devices_ends_as_on_one(tmp_path):
    alone = classify(tmp_path / "alone")
    four = classify(tmp_path / "four", "--layout.data", "2", "--layout.tensor", "2")
    assert four["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
    assert four["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.01)
    assert four["compiles"] == alone["compiles"]
    # A run goes on under another layout: it doesn't decide what is learnt.
    assert classify(tmp_path / "four", "--layout.fsdp", "8")["epochs"] == 4


@pytest.mark.slow
def test_the_command_says_what_a_device_holds(tmp_path):
    command = [sys.executable, "-m", "train.classify", "--no-progress", "--data", "digits"]
    command += ["--layout.data", "4", "--run-dir", str(tmp_path / "run"), *QUICK]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == cli.DONE, done.stderr
    assert done.stderr.startswith("INFO: layout: data=4: ")
    assert done.stderr.endswith("on each of 4 devices\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout.data", "3"], "64 examples can't be shared out evenly over data=3"),
        (["--layout.data", "16"], "data=16 = 16, and there are 8 devices"),
        (["--layout.data", "-1", "--layout.fsdp", "-1"], "data and fsdp are -1"),
        (["--layout.tensor", "8", "--network.hidden", "30"], "30 isn't divisible by tensor=8"),
        (["--layout.tensor", "2", "--model", "cnn"], "tensor=2 cuts nothing"),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, message, tmp_path, capsys):
    words = ["--no-progress", "--run-dir", str(tmp_path), *QUICK, *arguments]
    code = cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))
    assert code == cli.WRONG_USAGE
    assert message in capsys.readouterr().err


def test_rules_hold_where_a_network_is_part_of_another(tmp_path):
    from train.regress import PROGRAM, Config, train

    words = ["--network.hidden", "64", "--epochs", "2", "--layout.data", "2", "--layout.tensor"]
    words += ["2", "--batch-size", "32", "--no-progress", "--run-dir", str(tmp_path)]
    assert cli.run(lambda: train(from_command_line(Config, words, PROGRAM))) == cli.DONE


def test_a_layout_takes_the_rules_of_the_model_behind_those_of_the_command():
    layout = Layout(tensor=2, whole=("embed/embedding",)).build(GPT2())
    assert layout.rules == (("embed/embedding", ()), *family_rules(GPT2()))
    assert len(layout.rules) == 1 + len(SHARDING)
    assert Run().layout.build(GPT2()).one_device
