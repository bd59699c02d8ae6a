"""The command that proves exact resume: it passes where resume is exact, and fails where not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jaxnet import prove_resume
from jaxnet.app import cli
from jaxnet.errors import InputError
from jaxnet.prove_resume import Proof
from jaxnet.training import checkpoints

CLASSIFY = ["-m", "train.classify", "--no-progress", "--model", "mlp", "--network.hidden", "32"]


def prove(*command: str, kills: int) -> subprocess.CompletedProcess[str]:
    own = [sys.executable, "-m", "jaxnet.prove_resume", "--kills", str(kills)]
    return subprocess.run([*own, "--", *command], capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_killed_run_is_identical():
    often = ["--epochs", "40", "--checkpoints.every-steps", "7", "--early-stopping.patience", "20"]
    done = prove(sys.executable, *CLASSIFY, *often, kills=1)
    assert done.returncode == cli.DONE, done.stdout + done.stderr
    assert "identical, bit for bit" in done.stdout
    assert "1 of 1 kills hit the run while it trained" in done.stdout


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


# A run without JAX: a step of 50 ms, a checkpoint after each, and it goes on unless told otherwise.
STAND_IN = """
import pathlib, shutil, sys, time

folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
saved = folder / "checkpoints"
if "--anew" in sys.argv:
    shutil.rmtree(saved, ignore_errors=True)
saved.mkdir(parents=True, exist_ok=True)
step = max([int(path.name) for path in saved.iterdir()], default=0)
for step in range(step + 1, 21):
    time.sleep(0.05)
    if "--late" not in sys.argv or step == 20:
        (saved / str(step)).mkdir()
(folder / "bundle").mkdir(exist_ok=True)
for name in ("history.csv", "bundle/model.safetensors"):
    (folder / name).write_text("the same")
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Proves the stand-in, called with these words, in one folder after the other."""
    monkeypatch.setattr(checkpoints, "read_arrays", lambda folder, step: {})
    script = tmp_path / "run.py"
    script.write_text(STAND_IN)

    def run(*words: str) -> Proof:
        command = [sys.executable, str(script), *words]
        return prove_resume.prove(command, tmp_path / "-".join(("folder", *words)), 3, seed=0)

    return run


@pytest.mark.slow
def test_kills_hit_the_run_while_it_trains(stand_in):
    proof = stand_in()
    assert proof.good and len(proof.hits) >= 2
    assert all(0 < step < 20 for step in proof.hits)
    assert proof.hits == tuple(sorted(proof.hits)), "the run gets ahead"


@pytest.mark.slow
def test_a_run_that_begins_anew_is_found_out_though_its_end_is_the_same(stand_in):
    proof = stand_in("--anew")
    assert proof.hits and not proof.good
    assert "began anew" in str(proof)


@pytest.mark.slow
def test_a_run_that_saves_at_its_end_alone_is_refused(stand_in):
    with pytest.raises(InputError, match=r"saved 1 checkpoints.*--checkpoints.every-steps"):
        stand_in("--late")


def test_without_a_kill_that_hit_nothing_is_proved():
    proof = Proof((), (), 5)
    assert not proof.good and "proves nothing" in str(proof)
    assert "identical" not in str(proof)
    good = Proof((), (40, 80), 5)
    assert good.good and "2 of 5 kills hit" in str(good) and "steps 40, 80" in str(good)
    assert not Proof(("history.csv differs",), (40,), 5).good


def test_a_command_that_fails_is_shown():
    done = prove(sys.executable, "-c", "raise SystemExit('no such luck')", kills=1)
    assert done.returncode == cli.FAILED
    assert "no such luck" in done.stderr


def test_without_a_command_the_use_is_said():
    command = [sys.executable, "-m", "jaxnet.prove_resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == cli.WRONG_USAGE
    assert "-- python -m train.classify" in done.stderr
