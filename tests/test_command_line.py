"""Configuration from the command line: order, help, and what wrong words are told."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from jaxnet.app.command_line import from_command_line
from jaxnet.errors import UsageError
from jaxnet.options import CHOSEN, Count, OnlyWith, check_ranges
from jaxnet.training import EarlyStopping


@dataclass(frozen=True)
class Network:
    """The network's size."""

    hidden: Annotated[tuple[Count, ...] | None, OnlyWith(model="mlp")] = None
    """the width of each
    hidden layer"""
    rates: tuple[float, ...] = (0.5,)
    """rates"""
    dropout: float = 0.1
    """a share"""


@dataclass(frozen=True)
class Rule:
    """A rule."""

    name: str = "adam"
    """its name"""
    weight_decay: float = 0.0
    """how much"""


@dataclass(frozen=True)
class Config:
    """Do something.

    Raises:
        UsageError: this isn't for the command line.
    """

    data_dir: Path | None = None
    """a folder"""
    model: str = "mlp"
    """a name"""
    epochs: Count = 3
    """how often"""
    learning_rate: float = 0.1
    """a rate"""
    network: Network = Network()
    rule: Annotated[Rule, OnlyWith(epochs=CHOSEN)] = Rule()
    early_stopping: EarlyStopping = EarlyStopping()

    def __post_init__(self) -> None:
        check_ranges(self)


def read(*words: str) -> Config:
    return from_command_line(Config, words, "prog")


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("epochs = 5\n[rule]\nname = 'sgd'\n[network]\nhidden = [8]\n")
    config = Config(epochs=9, rule=Rule("sgd"), network=Network(hidden=(8,)))
    assert read("--epochs", "9", "--config", str(file)) == config
    assert read(f"--config={file}", "--network.hidden", "8", "--epochs=9") == config


@pytest.mark.parametrize("words", [("64", "32"), ("64,32",), ("64,", "32")])
def test_numbers_in_a_row_may_have_commas(words):
    assert read("--network.hidden", *words).network.hidden == (64, 32)
    assert read("--network.rates", *words, "--epochs", "2").network.rates == (64.0, 32.0)
    assert read("--network.hidden", "None").network.hidden is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 1", "unknown option --lr; did you mean --learning-rate? prog --help"),
        ("--learning_rat=1", "unknown option --learning-rat; did you mean --learning-rate?"),
        ("--num-epochs 1", "did you mean --epochs?"),
        ("--dropout 0.5", "did you mean --network.dropout?"),
        ("--wd 0.5", "did you mean --rule.weight-decay?"),
        ("--zzz 1", "unknown option --zzz. prog --help lists all."),
        ("--rule sgd", "--rule is a group of options; did you mean --rule.name sgd?"),
        ("--rule", "--rule is a group of options; did you mean --rule.name?"),
        ("--network 3", "options: --network.hidden, --network.rates, --network.dropout."),
        ("a.csv", "unexpected word 'a.csv': options begin with --, such as --data-dir a.csv."),
        ("--epochs 3 4", "unexpected word '4': --epochs takes no more values."),
        ("--config", "--config needs a file: --config FILE.toml"),
        ("--config --epochs 3", "--config needs a file: --config FILE.toml"),
        ("--config= --epochs 3", "--config needs a file: --config FILE.toml"),
        ("--config a --config b", "--config takes one file, and here are a and b"),
        ("--epochs 0", "expected --epochs of at least 1, got 0"),
        ("--network.hidden 8,0", "expected --network.hidden of at least 1, got 0"),
        ("--early-stopping.patience -1", "early stopping: expected a patience of 0 or more"),
    ],
)
def test_what_wrong_words_are_told(words, message):
    with pytest.raises(UsageError) as raised:
        read(*words.split())
    assert message in str(raised.value)


@pytest.mark.parametrize("words", ["--epochs x", "--epochs", "--network.hidden 8,x"])
def test_a_value_of_the_wrong_type_ends_with_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(*words.split())
    assert stopped.value.code == 2
    assert words.split()[0] in capsys.readouterr().err


def test_the_help_says_what_reads_an_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        read("--help")
    assert stopped.value.code == 0
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "the width of each hidden layer (only with model mlp) " in text
    assert "how often (default: 3) " in text
    assert "A rule. (only with epochs) " in text
    assert "the minimum improvement that counts. (only with monitor other than step; " in text
    assert "isn't for the command line" not in text


def test_the_entrypoints_are_listed():
    done = subprocess.run([sys.executable, "-m", "train"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "python -m train.classify    Train a classifier on images or tables.\n" in done.stdout
    assert "networks" not in done.stdout
    done = subprocess.run([sys.executable, "-m", "train", "gan"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: call it by python -m train.gan\n")
