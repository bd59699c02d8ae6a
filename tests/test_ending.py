"""A signal ends a command in order at any moment, and a program that imports jaxnet as ever."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jaxnet import ending
from tests.parallel.jobs import ROOT, Job, environment

SIGNALS = [signal.SIGTERM, signal.SIGINT]
# A command that says when it is ready and then does what the test says.
COMMAND = """
import os, signal, sys, threading, time
from pathlib import Path
from jaxnet import ending
from jaxnet.app import cli
ending.start()
def ready():
    print("ready", flush=True)
def in_c():  # as XLA while it compiles: no handler of Python's runs meanwhile
    import hashlib
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def command(body: str, **options: Any) -> subprocess.Popen[str]:
    """Start it, and wait until it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def ended(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str]:
    """Exit code and errors."""
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize("number", SIGNALS)
def test_it_ends_within_a_call_into_c(number):
    process = command("sys.exit(cli.run(in_c))")
    process.send_signal(number)
    said = f"ended by {number.name} while preparing: run the same command again to go on\n"
    assert ended(process) == (75, said)


def test_a_signal_while_modules_are_imported_is_heeded_after_them():
    process = command("ready()\ntime.sleep(0.3)\nsys.exit(cli.run(lambda: time.sleep(60)))")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75


def test_what_starts_other_processes_cleans_up():
    body = (
        "def work():\n"
        "    try:\n"
        "        ready()\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        time.sleep(0.2)\n"
        "        print('cleaned', file=sys.stderr)\n"
        "sys.exit(cli.run_alone(work))\n"
    )
    process = command(body)
    process.send_signal(signal.SIGTERM)
    said = "cleaned\nended by SIGTERM: run the same command again to go on\n"
    assert ended(process) == (75, said)


WRITING = """
from jaxnet.files import write_atomically
def write():
    with write_atomically(Path(sys.argv[1])) as file:
        ready()
        time.sleep(float(sys.argv[2]))
        file.write("all of it")
    time.sleep(60)
sys.argv = ["", {file!r}, "{seconds}"]
sys.exit(cli.run(write))
"""


def test_a_file_is_written_to_its_end(tmp_path):
    process = command(WRITING.format(file=str(tmp_path / "file"), seconds=0.5))
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "all of it"


@pytest.mark.parametrize("end", ["ending.leave('x')", "watchdog.end_process('x', 75)"])
def test_it_ends_where_nobody_reads_what_it_says(end):
    """With Ctrl-C the program that a pipe leads to ends too, often earlier."""
    body = (
        "from jaxnet.cluster import watchdog\n"
        "def end():\n"
        "    sys.stdin.readline()\n"
        f"    {end}\n"
        "threading.Thread(target=end).start()\n"
        "ready()\n"
        "threading.Event().wait(60)\n"
    )
    process = command(body, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    try:
        assert process.wait(30) == 75
    finally:
        process.kill()
        process.wait()


def test_a_second_signal_waits_for_nothing(tmp_path):
    process = command(WRITING.format(file=str(tmp_path / "file"), seconds=60))
    process.send_signal(signal.SIGTERM)
    time.sleep(ending.TOGETHER_SECONDS + 0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75
    assert time.monotonic() - began < ending.PATIENCE_SECONDS / 2
    assert not (tmp_path / "file").exists()


def test_what_notes_signals_decides():
    body = (
        "def work():\n"
        "    heard = threading.Event()\n"
        "    with ending.noting(lambda name: (print(name, file=sys.stderr), heard.set())):\n"
        "        ready()\n"
        "        heard.wait(60)\n"
        "    return 0\n"
        "sys.exit(cli.run(work))\n"
    )
    process = command(body)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "SIGINT\n")


def test_a_forked_process_is_killed_as_ever():
    body = (
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "ready()\n"
        "time.sleep(0.2)\n"
        "sys.exit(0 if code == -15 and not ending.requested() else 1)\n"
    )
    # From 3.12 on Python warns of forks where there are threads.
    assert ended(command(f"import warnings; warnings.simplefilter('ignore')\n{body}")) == (0, "")


def test_handlers_are_those_of_commands_alone():
    """Also where a module of the user's is run by -m, and imports entrypoints."""
    before = [signal.getsignal(number) for number in SIGNALS]
    import train.classify  # noqa: F401

    assert not ending.in_force()
    with ending.handling():
        assert ending.in_force()
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert not ending.in_force()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("argv", "orig_argv", "ours"),
    [
        (["-m", "--epochs", "2"], ["python", "-m", "train.classify", "--epochs", "2"], True),
        (["-m"], ["python", "-mtrain"], True),
        (["-m", "-m", "train"], ["python", "-m", "mine.program", "-m", "train"], False),
        (["-m"], ["python", "-m", "trainer"], False),
        (["train/classify.py"], ["python", "train/classify.py"], False),
        (["-c"], ["python", "-c", "import train"], False),
        ([], [], False),
    ],
)
def test_how_a_program_was_started(argv, orig_argv, ours, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert ending.started_as("train") == ours


# --- real commands ------------------------------------------------------------------------------

TRAIN = ["train.classify", "--model", "mlp", "--epochs", "1", "--batch-size", "33"]
WRITTEN = {"bundle", "checkpoints", "classes.csv", "config.toml", "confusion.png", "curves.png"}
WRITTEN |= {"history.csv", "metrics.jsonl", "pr.png", "roc.png", "run.json", "summary.json"}


def until_said(process: subprocess.Popen[str], text: str) -> None:
    """Wait until a line with `text` comes on its standard error."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"it never said {text!r}: {''.join(seen)}")


def until_written(process: subprocess.Popen[str], file: Path) -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.mark.slow
def test_a_run_that_is_ended_in_every_phase_comes_to_its_end(tmp_path):
    folder = tmp_path / "run"

    def started(*options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *options, "-m", *TRAIN, "--run-dir", str(folder)],
            cwd=ROOT,
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    phases = [
        ("importing", lambda run: until_said(run, "jaxnet.errors")),
        ("compiling", lambda run: until_said(run, "compiling")),
        ("writing", lambda run: until_written(run, folder / "curves.png")),
    ]
    for number, (phase, reached) in enumerate(phases):
        # Python says what it imports.
        run = started(*(["-X", "importtime"] if phase == "importing" else []))
        reached(run)
        began = time.monotonic()
        run.send_signal(SIGNALS[number % 2])
        code, errors = ended(run)
        assert (code, "Traceback" in errors) == (75, False), f"{phase}: {errors[-1000:]}"
        assert time.monotonic() - began < ending.PATIENCE_SECONDS, phase
        assert not list(folder.rglob("*.tmp"))
    assert "while writing the results" in errors
    run = started()
    assert ended(run, 300)[0] == 0
    assert files(folder) == WRITTEN
    with open(folder / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]


@pytest.mark.slow
def test_a_signal_to_one_of_three_processes_ends_all(tmp_path):
    run = [sys.executable, "-m", *TRAIN, "--layout.data", "-1", "--run-dir", str(tmp_path / "run")]
    phases = [
        (1, ["-X", "importtime"], "jaxnet.errors"),  # before they meet
        (2, [], "compiling"),
    ]
    for asked, options, text in phases:
        with Job([run[0], *options, *run[1:]], 3) as job:
            until_said(job[asked if options else 0], text)
            began = time.monotonic()
            job[asked].send_signal(signal.SIGINT)
            ends = job.ends(60)
            assert {code for code, _ in ends.values()} == {75}, ends
            said = f"process {asked} on host {os.uname().nodename} (pid {job[asked].pid}) was ended"
            assert f"{said} by SIGINT" in ends[1 - asked % 2][1]
            assert "Traceback" not in "".join(errors for _, errors in ends.values())
            assert time.monotonic() - began < 2 * ending.PATIENCE_SECONDS
