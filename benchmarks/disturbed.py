"""Jobs of several processes that are to be disturbed: started, watched from outside, awaited."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.race import ROOT, job_variables
from benchmarks.two_hosts import ADDRESSES, PATH, Hosts

# What doesn't happen within so many seconds never does.
PATIENCE = 240.0
_PR_SET_CHILD_SUBREAPER = 36


class Step(NamedTuple):
    """A step of training: when it ended on the monotonic clock, in which process 0, its number."""

    seconds: float
    pid: int
    number: int


@dataclass
class Job:
    """A running `benchmarks.fault_job`.

    Attributes:
        folder: where it writes.
        processes: how many it has.
        started: the processes that were started from here: its own, or their launcher.
    """

    folder: Path
    processes: int
    started: Sequence[subprocess.Popen[Any]]
    _codes: dict[int, int] = field(default_factory=dict, init=False)

    @property
    def launcher(self) -> int:
        """The launcher's number on this machine."""
        return self.started[0].pid

    @property
    def steps(self) -> list[Step]:
        """All steps so far, over all restarts."""
        file = self.folder / "steps"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        fields = [line.split() for line in lines]
        return [Step(float(seconds), int(pid), int(step)) for seconds, pid, step in fields]

    @property
    def last_step(self) -> int:
        """The newest step."""
        return self.steps[-1].number

    @property
    def last_save(self) -> int:
        """The newest checkpoint's step, or 0."""
        names = [path.name for path in (self.folder / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def pid(self, number: int) -> int:
        """A process's number on this machine."""
        if len(self.started) == self.processes > 1:  # no launcher between
            return self.started[number].pid
        return int((self.folder / f"pid-{number}").read_text())

    def settle(self) -> None:
        """Wait until the job, since it was started last, has saved and taken a few steps more."""
        self.wait_for(lambda: self.steps, "first step")
        saved = self.last_save
        self.wait_for(lambda: self.last_save > saved, "save")
        reached = self.last_step
        self.wait_for(lambda: self.last_step >= reached + 3, "step after a save")

    def wait_for(self, happened: Callable[[], object], what: str) -> None:
        """Wait until something has happened.

        Raises:
            RuntimeError: it doesn't, or the job has ended; with what the job has said.
        """
        deadline = time.monotonic() + PATIENCE
        while not happened():
            dead = any(process.poll() is not None for process in self.started)
            if dead or time.monotonic() > deadline:
                said = "".join(file.read_text() for file in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"no {what}{', the job has ended' * dead}: {said[-3000:]}")
            time.sleep(0.005)

    def exit_code(self, number: int) -> int | None:
        """Wait for a process's end. Returns its exit code, or None if it doesn't come."""
        pid, deadline = self.pid(number), time.monotonic() + PATIENCE
        own = {process.pid: process for process in self.started}
        while time.monotonic() < deadline:
            code = own[pid].poll() if pid in own else _orphan(pid)
            if code is not None:
                return code
            time.sleep(0.005)
        return None

    def close(self) -> None:
        """Kill what is left."""
        pids = []
        for number in range(self.processes):
            with suppress(FileNotFoundError):
                pids.append(self.pid(number))
        for process in self.started:
            process.kill()
            process.wait()
        for pid in pids:
            if _is_job(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def by_hand(folder: Path, processes: int, bound: float, options: Sequence[float]) -> Job:
    """Start a job's processes one by one.

    Args:
        folder: for what it writes.
        processes: how many.
        bound: seconds of silence after which a process is taken for dead, and seconds that a step
            may take.
        options: of `benchmarks.fault_job`.
    """
    command = _command(folder, options)
    started = [
        _start(command, folder / f"{number}.log", {**variables, **_bound(bound)})
        for number, variables in enumerate(job_variables(processes))
    ]
    return Job(folder, processes, started)


def on_hosts(
    hosts: Hosts, folder: Path, processes: int, bound: float, options: Sequence[float]
) -> Job:
    """As `by_hand`, one process on each host."""
    command = _command(folder, options)
    started = []
    for number, variables in enumerate(job_variables(processes)):
        port = variables["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2]
        at = {"JAX_COORDINATOR_ADDRESS": f"{ADDRESSES[0]}:{port}", "PATH": PATH}
        words = hosts.on(number, command)
        started.append(
            _start(words, folder / f"{number}.log", {**variables, **_bound(bound), **at})
        )
    return Job(folder, processes, started)


def launched(folder: Path, processes: int, bound: float, options: Sequence[float]) -> Job:
    """Start a job with `jaxnet.launch`, which starts it again as often as it is disturbed."""
    _adopt_orphans()
    words = ["--processes", str(processes), "--max-restarts", "1000", "--peer-timeout", str(bound)]
    own = [sys.executable, "-m", "jaxnet.launch", *words, "--logs", str(folder / "workers"), "--"]
    log = folder / "launcher.log"
    launcher = _start([*own, *_command(folder, options)], log, _bound(bound))
    return Job(folder, processes, [launcher])


def _command(folder: Path, options: Sequence[float]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.fault_job", str(folder), *map(str, options)]


def _bound(seconds: float) -> dict[str, str]:
    return {"JAXNET_PEER_TIMEOUT": str(seconds), "JAXNET_PROGRESS_TIMEOUT": str(seconds)}


def _start(words: Sequence[str], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[Any]:
    # One compilation cache for all, as after a restart on a machine of one's own.
    cache = {"JAXNET_CACHE_DIR": str(log.parent.parent / "cache")}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": paths, **cache}
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with log.open("w") as file:
        return subprocess.Popen(
            words, cwd=ROOT, env={**own, **fixed, **variables}, stdout=file, stderr=file
        )


def _adopt_orphans() -> None:
    """Linux: the workers of a launcher that is killed become children of this process.

    So their exit codes are known.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _orphan(pid: int) -> int | None:
    """The exit code of an adopted process; None as long as it lives or isn't adopted yet."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if found else None


def _is_job(pid: int) -> bool:
    """Whether this is a process of a job: a number may have gone to another since."""
    try:
        return b"benchmarks.fault_job" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
