"""The command that proves exact resume: it passes where resume is exact, and fails where not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jaxnet import cli

CLASSIFY = ["-m", "train.classify", "--no-progress", "--model", "mlp", "--network.hidden", "32"]


def prove(*command: str, kills: int) -> subprocess.CompletedProcess[str]:
    own = [sys.executable, "-m", "jaxnet.prove_resume", "--kills", str(kills)]
    return subprocess.run([*own, "--", *command], capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_killed_run_is_identical():
    often = ["--epochs", "60", "--checkpoints.every-steps", "7", "--early-stopping.patience", "20"]
    done = prove(sys.executable, *CLASSIFY, *often, kills=4)
    assert done.returncode == cli.DONE, done.stdout + done.stderr
    assert "identical, bit for bit" in done.stdout
    assert "kill 2 of 4" in done.stdout


@pytest.mark.slow
def test_a_run_that_forgets_is_found_out():
    # Without resume, the second run has another seed: it stands for one that forgets something.
    forgetful = (
        "import random, subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:], "
        "'--seed', str(random.randrange(10**6))]))"
    )
    done = prove(sys.executable, "-c", forgetful, *CLASSIFY, "--epochs", "2", kills=1)
    assert done.returncode == cli.FAILED
    assert "model.safetensors differs" in done.stdout or "another configuration" in done.stderr


def test_a_command_that_fails_is_shown():
    done = prove(sys.executable, "-c", "raise SystemExit('no such luck')", kills=1)
    assert done.returncode == cli.FAILED
    assert "no such luck" in done.stderr


def test_without_a_command_the_use_is_said():
    command = [sys.executable, "-m", "jaxnet.prove_resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == cli.WRONG_USAGE
    assert "-- python -m train.classify" in done.stderr
