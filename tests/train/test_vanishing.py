"""`python -m train.vanishing` on a network that is quick to train."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from train.vanishing import PROGRAM, Config, train

QUICK = ["--depth", "6", "--width", "32", "--epochs", "3"]


def vanishing(*arguments: str | Path) -> int:
    words = list(map(str, arguments))
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


@pytest.mark.slow
def test_sigmoids_vanish_and_he_cures(tmp_path, capsys):
    choice = ["--initializers", "zeros", "he_normal"]
    assert vanishing(*QUICK, *choice, "--run-dir", tmp_path / "run") == cli.DONE
    assert (tmp_path / "run" / "vanishing.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:5]]
    ratio = {(row[0], row[1]): float(row[4]) for row in rows}
    accuracy = {(row[0], row[1]): float(row[5].rstrip("%")) for row in rows}
    assert ratio["sigmoid", "he_normal"] < 1e-2
    assert 0.1 < ratio["relu", "he_normal"] < 10
    assert ratio["relu", "zeros"] == 0
    assert accuracy["relu", "he_normal"] > 85
    assert max(accuracy["sigmoid", "he_normal"], accuracy["relu", "zeros"]) < 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--activations", "sigmod"], "did you mean 'sigmoid'"),
        (["--initializers", "he"], "unknown initializer 'he'"),
        (["--depth", "0"], "depth of at least 1"),
    ],
)
def test_wrong_use_is_a_message(arguments, message, tmp_path, capsys):
    assert vanishing(*QUICK, "--run-dir", tmp_path / "run", *arguments) == cli.WRONG_USAGE
    assert message in capsys.readouterr().err
