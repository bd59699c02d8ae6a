"""A folder is one process's at a time, and the message says whose."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnet import locks
from jaxnet.errors import InputError, UsageError

HOLDER = """
import sys
from pathlib import Path
from jaxnet import locks
locks.keep(Path(sys.argv[1]), "wait")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that keeps the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, **pipes) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_and_its_lock_dies_with_it(holder, tmp_path):
    said = f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since 20"
    for take in (locks.keep, _enter):
        with pytest.raises(UsageError, match=f"^{said}.*: choose another one$"):
            take(tmp_path, "choose another one")
    holder.kill()  # no handler of the process's own runs
    holder.wait()
    _enter(tmp_path, "choose another one")


def _enter(folder: Path, advice: str) -> None:
    with locks.alone(folder, advice):
        pass


def test_a_process_keeps_a_folder_until_it_is_released(tmp_path):
    (tmp_path / "x").mkdir()
    locks.keep(tmp_path, "wait")
    locks.keep(tmp_path / "x" / "..", "wait")  # the same folder, which is fine
    assert "is in use by process" in _said_elsewhere(tmp_path)
    locks.release()
    assert "is in use by process" not in _said_elsewhere(tmp_path)


def test_a_block_gives_its_folder_back(tmp_path):
    with locks.alone(tmp_path, "wait"):
        assert f"is in use by process {os.getpid()} on" in _said_elsewhere(tmp_path)
    with pytest.raises(ZeroDivisionError), locks.alone(tmp_path, "wait"):
        _ = 1 / 0
    assert "is in use" not in _said_elsewhere(tmp_path)


def _said_elsewhere(folder: Path) -> str:
    """What another process says that wants the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.run(
        command, input="", capture_output=True, text=True, cwd=Path(__file__).parents[1]
    ).stderr


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", lockf)
    _enter(tmp_path, "wait")
    assert "this file system has no locks (No locks available): see to it" in caplog.text


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}/no/\.lock: can't be written: No such file"):
        _enter(tmp_path / "no", "wait")
