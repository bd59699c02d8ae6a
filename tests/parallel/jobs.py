"""Jobs of several real processes, started by hand as a launcher would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
MODULE = "tests.parallel.training"


class Job:
    """Processes of one job; leaving the context kills what is left of them."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        started: Sequence[int] | None = None,
        environ: Mapping[str, str] = {},
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        variables = {"JAX_NUM_PROCESSES": str(processes), **environ}
        variables.setdefault("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{port}")
        self.processes = {
            number: start(command, {**variables, "JAX_PROCESS_ID": str(number)})
            for number in (range(processes) if started is None else started)
        }

    def __getitem__(self, number: int) -> subprocess.Popen[str]:
        return self.processes[number]

    def ends(self, timeout: float = 300) -> dict[int, tuple[int, str]]:
        """Exit code and errors of each process."""
        deadline = time.monotonic() + timeout
        ends = {}
        for number, process in self.processes.items():
            _, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            ends[number] = process.returncode, errors
        return ends

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


def start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start one process."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with one device for each process of a job."""
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**own, "JAX_NUM_CPU_DEVICES": "1", **environ}


def training(folder: Path, **options: Any) -> list[str]:
    """The command that trains a small classifier; see `tests.parallel.training`."""
    return [sys.executable, "-m", MODULE, str(folder), json.dumps(options)]


def trained(folder: Path, processes: int, **options: Any) -> dict[str, Any]:
    """Let a job come to its end, and return its result."""
    with Job(training(folder, **options), processes) as job:
        for number, (code, errors) in job.ends().items():
            assert code == 0, f"process {number}: {errors}"
    return result_of(folder)


def result_of(folder: Path) -> dict[str, Any]:
    """What process 0 wrote at the end."""
    with np.load(folder / "state.npz") as arrays:
        state = {name: arrays[name] for name in arrays.files}
    return {**json.loads((folder / "result.json").read_text()), "state": state}


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def until_saved(folder: Path, step: int, job: Job, timeout: float = 300) -> None:
    """Wait for a checkpoint of `step` or a later one."""
    deadline = time.monotonic() + timeout
    while not saved_steps(folder) or saved_steps(folder)[-1] < step:
        assert time.monotonic() < deadline, "no checkpoint"
        for number, process in job.processes.items():
            assert process.poll() is None, f"process {number}: {process.communicate()}"
        time.sleep(0.01)


def assert_same(got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """Both runs came to the same; bit for bit with a tolerance of 0."""
    assert got["last_step"] == expected["last_step"]
    assert len(got["history"]) == len(expected["history"])
    for row, other in zip(got["history"], expected["history"], strict=True):
        assert row.keys() == other.keys()
        for name in row:
            np.testing.assert_allclose(row[name], other[name], tolerance, tolerance, err_msg=name)
    assert got["state"].keys() == expected["state"].keys()
    for name, leaf in got["state"].items():
        other = expected["state"][name]
        np.testing.assert_allclose(leaf, other, tolerance, tolerance, err_msg=name)
