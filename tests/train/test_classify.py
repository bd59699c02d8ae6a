"""`python -m train.classify`, as a user runs it: real processes, real data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxnet import Bundle, cli
from jaxnet.data import load_digits

QUICK = ["--model", "mlp", "--network.hidden", "64", "--epochs", "12", "--batch-size", "64"]


def classify(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.classify", "--no-progress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run folder of a short training."""
    folder = tmp_path_factory.mktemp("run")
    done = classify(*QUICK, "--run-dir", folder)
    assert done.returncode == cli.DONE, done.stderr
    assert "test_accuracy" in done.stdout
    assert done.stderr == ""
    return folder


def test_the_run_folder_is_complete(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    assert summary["parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    assert summary["stop_reason"] == "epochs"
    assert summary["compiles"] == 3  # initialisation, training, evaluation
    assert 0 <= summary["data_wait_share"] < 1
    for name in (
        "test_loss",
        "best_step",
        "seconds",
        "samples_per_second",
        "jax_version",
        "device",
    ):
        assert summary[name], name
    for picture in ("curves.png", "confusion.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= lines[0].keys()
    assert len((run / "history.csv").read_text().splitlines()) == 13


def test_the_bundle_of_a_run_predicts(run):
    digits = load_digits()
    predicted = Bundle.load(run / "bundle").predict(digits.inputs).argmax(axis=1)
    assert (predicted == digits.labels).mean() > 0.9


def test_a_run_can_be_repeated_from_its_config(run, tmp_path):
    done = classify("--config", run / "config.toml", "--run-dir", tmp_path)
    assert done.returncode == cli.DONE, done.stderr
    assert (tmp_path / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    weights = "bundle/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (run / weights).read_bytes()


def test_a_finished_run_is_not_trained_again(run):
    before = (run / "metrics.jsonl").read_text()
    assert classify(*QUICK, "--run-dir", run).returncode == cli.DONE
    assert (run / "metrics.jsonl").read_text() == before


def test_another_configuration_in_the_same_folder_is_refused(run):
    done = classify(*QUICK, "--run-dir", run, "--learning-rate", "0.5")
    assert done.returncode == cli.WRONG_USAGE
    assert "learning_rate: 0.003 -> 0.5" in done.stderr
    assert "--no-resume" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "digts"], cli.WRONG_USAGE, "unknown data 'digts'; did you mean 'digits'?"),
        (["--model", "cn"], cli.WRONG_USAGE, "unknown model 'cn'; did you mean 'cnn'?"),
        (["--optimizer.name", "adm"], cli.WRONG_USAGE, "did you mean 'adam"),
        (["--data", "mnist"], cli.WRONG_USAGE, "needs --data-dir"),
        (["--early-stopping.patience", "-1"], cli.WRONG_USAGE, "expected a patience of 0"),
        (["--early-stopping.monitor", "val_auc"], cli.WRONG_USAGE, "val_accuracy"),
        (["--epochs", "0"], cli.WRONG_USAGE, "epochs"),
        (["--learning-rate", "-1"], cli.WRONG_USAGE, "learning_rate"),
        (["--epochs", "many"], cli.WRONG_USAGE, "--epochs"),
        (["--data", "mnist", "--data-dir", "absent"], cli.FAILED, "absent"),
        (["--run-dir", "/proc/run"], cli.FAILED, "/proc/run"),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, code, message, tmp_path):
    done = classify("--run-dir", tmp_path / "run", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_saves_and_the_same_command_ends_as_if_nothing_had_been(tmp_path):
    long = [*QUICK, "--epochs", "60", "--early-stopping.patience", "None"]
    command = [sys.executable, "-m", "train.classify", "--no-progress", *long]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "cut")], env=environment, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    lines = tmp_path / "cut" / "metrics.jsonl"
    while not lines.exists() or len(lines.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == cli.PREEMPTED
    assert b"run the same command again" in out
    assert classify(*long, "--run-dir", tmp_path / "cut").returncode == cli.DONE
    assert classify(*long, "--run-dir", tmp_path / "whole").returncode == cli.DONE
    for name in ("history.csv", "bundle/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
