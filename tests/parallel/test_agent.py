"""The local launcher with workers that know nothing of JAX."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Workers start in an instant, write down that they did, and then do what the test says.
WORKER = """
import os, signal, sys, time
from pathlib import Path
process, slot = int(os.environ["JAX_PROCESS_ID"]), int(os.environ["JAXNET_SLOT"])
processes = int(os.environ["JAX_NUM_PROCESSES"])
log = Path("started")
with log.open("a") as file:
    file.write(f"{process} {slot} {processes} {os.getpid()}\\n")
starts = [line for line in log.read_text().splitlines() if line.split()[1] == str(slot)]
attempt = len(starts)
print(f"worker {process} speaks", flush=True)
"""


@pytest.fixture
def launch(tmp_path):
    """Starts the launcher in a folder, and kills what is left of it."""
    running = []

    def start(body: str, *options: str, python: Sequence[str] = ("-S",)) -> subprocess.Popen[str]:
        command = [sys.executable, *python, "-c", WORKER + body]
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxnet.launch", *options, "--", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def started(folder: Path, workers: int) -> list[list[int]]:
    """What the first so many workers wrote down, as soon as they have."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = (folder / "started").read_text() if (folder / "started").exists() else ""
        if lines.count("\n") >= workers:
            return [[int(word) for word in line.split()] for line in lines.splitlines()]
        time.sleep(0.02)
    raise AssertionError(f"expected {workers} workers, got:\n{lines}")


def until_ready(folder: Path, workers: int) -> None:
    """Wait until so many workers say that they are ready."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("ready*"))) < workers:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_all_goes_well(launch, tmp_path):
    code, output, errors = ended(launch("", "--processes", "3"))
    assert (code, output, errors) == (0, "worker 0 speaks\n", "")
    assert sorted(row[:3] for row in started(tmp_path, 3)) == [[0, 0, 3], [1, 1, 3], [2, 2, 3]]
    assert not list(tmp_path.glob("jaxnet-launch-*"))


def test_after_a_death_all_start_again(launch, tmp_path):
    body = (
        "if slot == 1 and attempt == 1:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60 if attempt == 1 else 0)\n"
    )
    code, output, errors = ended(launch(body, "--processes", "2"))
    assert code == 0
    assert output == "worker 0 speaks\n" * 2
    assert "launch: worker 1 was killed by SIGKILL; its output is in" in errors
    assert "  | worker 1 speaks" in errors
    assert "starting 2 workers again, from the last checkpoint (restart 1 of 3)" in errors
    assert len(started(tmp_path, 4)) == 4


def test_it_gives_up(launch, tmp_path):
    body = "sys.exit(3 if process == 0 else 0)"
    code, _, errors = ended(launch(body, "--processes", "2", "--max-restarts", "1"))
    assert code == 3
    assert "launch: worker 0 ended with exit code 3\n" in errors
    assert errors.endswith("launch: giving up after 1 restarts\n")
    assert len(started(tmp_path, 4)) == 4


@pytest.mark.parametrize("code", [2, 75])
def test_some_ends_are_final(code, launch, tmp_path):
    assert ended(launch(f"sys.exit({code})", "--processes", "2"))[0] == code
    assert len(started(tmp_path, 2)) == 2


def test_a_lost_worker_is_told_from_those_that_report_it(launch):
    body = (
        "if process == 0:\n"
        "    sys.exit(76)\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code, _, errors = ended(launch(body, "--processes", "2", "--max-restarts", "0"))
    assert code == 76
    assert "launch: worker 1 was killed by SIGKILL" in errors


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed(launch, tmp_path):
    body = "if process == 0:\n    sys.exit(76)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    process = launch(body, "--processes", "2", "--max-restarts", "0")
    code, _, errors = ended(process)
    assert code == 76
    assert "launch: worker 1 gave no sign of life and was killed" in errors
    assert all(gone(row[3]) for row in started(tmp_path, 2))


@pytest.mark.slow
def test_elastic_goes_on_without_a_worker_that_dies_twice(launch, tmp_path):
    body = "if slot == 1:\n    sys.exit(1)\ntime.sleep(60 if processes == 3 else 0)\n"
    code, _, errors = ended(launch(body, "--processes", "3", "--elastic"))
    assert code == 0
    assert "worker 1 died twice in a row: going on without it" in errors
    rows = started(tmp_path, 8)
    assert sorted(row[:3] for row in rows[6:]) == [[0, 0, 2], [1, 2, 2]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wish_to_end_reaches_the_workers(number, launch, tmp_path):
    body = (
        "def save(*_):\n"
        "    print('saved', flush=True)\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "Path(f'ready{process}').touch()\n"
        "time.sleep(60)\n"
    )
    process = launch(body, "--processes", "2")
    started(tmp_path, 2)
    until_ready(tmp_path, 2)
    process.send_signal(number)
    code, output, errors = ended(process)
    assert (code, errors) == (75, "")
    assert output.endswith("saved\n")
    assert len(started(tmp_path, 2)) == 2


def test_a_wish_to_end_while_workers_start(launch, tmp_path):
    """They have no handlers yet, and are killed."""
    process = launch("time.sleep(60)", "--processes", "2")
    started(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert (code, errors) == (75, "")


def test_the_second_wish_kills(launch, tmp_path):
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nPath('ready').touch()\ntime.sleep(60)\n"
    process = launch(body, "--processes", "1")
    until_ready(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGKILL
    assert gone(started(tmp_path, 1)[0][3])


def test_workers_end_with_a_killed_launcher(launch, tmp_path):
    body = (
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from jaxnet.cluster.rendezvous import Peer\n"
        "from jaxnet.cluster.watchdog import Watch\n"
        "pipe = int(os.environ['JAXNET_LAUNCHER'])\n"
        "Watch(Peer(process, 'here', os.getpid()), 1, 30.0, launcher=pipe).start()\n"
        "Path(f'ready{process}').touch()\n"
        "time.sleep(60)\n"
    )
    process = launch(body, "--processes", "2", python=())
    rows = started(tmp_path, 2)
    until_ready(tmp_path, 2)
    process.kill()
    assert all(gone(row[3]) for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2"], "expected a command to run, after --"),
        (["--processes", "0", "--", "true"], "expected processes of at least 1, got 0"),
        (["--", "no-such-command"], "there is no command 'no-such-command'"),
    ],
)
def test_wrong_usage(words, message):
    done = subprocess.run(
        [sys.executable, "-m", "jaxnet.launch", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
