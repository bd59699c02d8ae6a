"""The local launcher: several processes on this host, started again from the last checkpoint.

A worker's death is noticed at once, because a thread of this process waits for each of them. The
others end by themselves, as each watches the others (`jaxnet.cluster.watchdog`); what doesn't is
killed. Then all start again, and training resumes by itself.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jaxnet import ending
from jaxnet.cluster.identity import JOB
from jaxnet.cluster.join import LAUNCHER, PEER_TIMEOUT, START_TIMEOUT
from jaxnet.cluster.watchdog import EXPLAINED_SECONDS, LOST_PEER

# Codes of workers that were asked to end before they could save anything, or had handlers.
_UNSAVED = (-signal.SIGTERM, LOST_PEER)
# Exit codes after which a new start would be of no use: done, wrong usage, asked to end.
FINAL = (0, 2, 75)
# The seconds after the first death in which the others may exit with their own message.
GRACE_SECONDS = EXPLAINED_SECONDS + 2.0
# The number of lines shown of the output of the worker that died first.
SHOWN_LINES = 15


@dataclass(frozen=True)
class Job:
    """What to run, and how.

    Attributes:
        command: the words of the command.
        processes: how many workers to start.
        devices: accelerators for each worker; worker k sees those from k times this on.
        max_restarts: the maximum number of restarts.
        elastic: whether to continue with fewer workers when one dies twice in a row.
        peer_timeout: seconds without a heartbeat after which a worker counts as dead.
        start_timeout: seconds to wait for all workers to start.
        logs: folder for the output of all workers but the first.
    """

    command: Sequence[str]
    processes: int
    devices: int = 1
    max_restarts: int = 3
    elastic: bool = False
    peer_timeout: float = 30.0
    start_timeout: float = 300.0
    logs: Path | None = None


class Death(NamedTuple):
    """The end of a worker.

    Attributes:
        slot: its place, which it keeps when others are left out.
        process: its number in the job.
        code: its exit code, minus the number of the signal that killed it, or None where it hung.
    """

    slot: int
    process: int
    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return f"worker {self.process} gave no sign of life and was killed"
        if self.code < 0:
            return f"worker {self.process} was killed by {signal.Signals(-self.code).name}"
        return f"worker {self.process} ended with exit code {self.code}"


@dataclass
class Agent:
    """One run of a job, over all its restarts."""

    job: Job
    folder: Path
    _workers: dict[tuple[int, int], subprocess.Popen[bytes]] = field(
        default_factory=dict, init=False
    )
    _signals: list[str] = field(default_factory=list, init=False)
    # Each worker is told once: by the signal, or when it has started.
    _starting: threading.RLock = field(default_factory=threading.RLock, init=False)

    def run(self) -> int:
        """Run the job to its end. Returns its exit code."""
        with ending.noting(self._forward):
            try:
                return self._restarted()
            finally:
                self._kill()

    def _restarted(self) -> int:
        slots, last = list(range(self.job.processes)), None
        for attempt in range(self.job.max_restarts + 1):
            if self._signals:  # between two starts
                return ending.CODE
            first = self._attempt(slots)
            if first is None or first.code in FINAL or self._signals:
                return 0 if first is None else self._exit_code(first)
            self._say(f"{first}{self._output(first)}")
            if attempt == self.job.max_restarts:
                break
            if self.job.elastic and last == first.slot and len(slots) > 1:
                slots.remove(first.slot)
                self._say(f"worker {first.process} died twice in a row: going on without it")
            last = first.slot
            self._say(
                f"starting {len(slots)} worker{'s' * (len(slots) > 1)} again, from the last "
                f"checkpoint (restart {attempt + 1} of {self.job.max_restarts})"
            )
        self._say(f"giving up after {self.job.max_restarts} restarts")
        return self._exit_code(first)

    def _exit_code(self, death: Death) -> int:
        if len(self._signals) == 1 and death.code in _UNSAVED:
            return ending.CODE
        if death.code is not None and death.code < 0 and self._signals:
            return 128 - death.code  # as a shell says it
        return LOST_PEER if death.code is None or death.code < 0 else death.code

    def _attempt(self, slots: list[int]) -> Death | None:
        """Start the workers and wait for all of them. Returns the first that failed."""
        # The workers hold the reading end: it comes to its end when this process does.
        reading, writing = os.pipe()
        deaths: queue.SimpleQueue[Death] = queue.SimpleQueue()
        job = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}",
            "JAX_NUM_PROCESSES": str(len(slots)),
            PEER_TIMEOUT: str(self.job.peer_timeout),
            START_TIMEOUT: str(self.job.start_timeout),
            LAUNCHER: str(reading),
            JOB: secrets.token_hex(8),
        }
        try:
            for process, slot in enumerate(slots):
                self._start(slot, process, job, deaths)
            os.close(reading)
            return self._watch(deaths)
        finally:
            self._kill()
            os.close(writing)

    def _start(
        self, slot: int, process: int, job: Mapping[str, str], deaths: queue.SimpleQueue[Death]
    ) -> None:
        first = slot * self.job.devices
        variables = {
            **job,
            "JAX_PROCESS_ID": str(process),
            "JAX_LOCAL_DEVICE_IDS": ",".join(map(str, range(first, first + self.job.devices))),
            "JAXNET_SLOT": str(slot),
        }
        with ExitStack() as ends:
            output = None if process == 0 else ends.enter_context(self._log(slot).open("ab"))
            ends.enter_context(self._starting)
            worker = subprocess.Popen(
                self.job.command,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                pass_fds=[int(job[LAUNCHER])],
                start_new_session=True,  # Ctrl-C reaches the workers through this process alone
            )
            self._workers[slot, process] = worker
            if self._signals:
                _signal(worker, signal.SIGTERM)

        def wait() -> None:
            deaths.put(Death(slot, process, worker.wait()))

        threading.Thread(target=wait, daemon=True).start()

    def _watch(self, deaths: queue.SimpleQueue[Death]) -> Death | None:
        """Wait for all workers; after a failure, kill the remaining ones when the grace ends."""
        first, until = None, None
        while self._workers:
            try:
                left = None if until is None else max(until - time.monotonic(), 0.0)
                death = deaths.get(timeout=left)
            except queue.Empty:
                # The others have ended because of this one.
                death = Death(*next(iter(self._workers)), code=None)
                self._kill()
            self._workers.pop((death.slot, death.process), None)
            if death.code != 0 and (first is None or _more_telling(death, first)):
                first = death
                until = until or time.monotonic() + GRACE_SECONDS
        return first

    def _forward(self, name: str) -> None:
        """Forward a signal to the workers as SIGTERM; a second one kills them."""
        with self._starting:
            self._signals.append(name)
            for worker in list(self._workers.values()):
                _signal(worker, signal.SIGTERM if len(self._signals) == 1 else signal.SIGKILL)

    def _kill(self) -> None:
        for worker in self._workers.values():
            _signal(worker, signal.SIGKILL)
            worker.wait()
        self._workers.clear()

    def _log(self, slot: int) -> Path:
        return self.folder / f"worker-{slot}.log"

    def _output(self, death: Death) -> str:
        """Where a worker's output is, and the end of it."""
        file = self._log(death.slot)
        if death.process == 0 or not file.exists():
            return ""
        lines = file.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        return f"; its output is in {file}" + "".join(f"\n  | {line}" for line in lines)

    def _say(self, text: str) -> None:
        print(f"launch: {text}", file=sys.stderr, flush=True)


def run(job: Job) -> int:
    """Run a job. Returns its exit code.

    That is 0, 2, 75, 76 for a lost worker, or that of the first death; where a signal was passed on
    and killed a worker, 128 and the signal's number.

    The folder with the workers' output stays where the job failed.
    """
    if job.logs is not None:
        job.logs.mkdir(parents=True, exist_ok=True)
        return Agent(job, job.logs).run()
    folder = Path(tempfile.mkdtemp(prefix="jaxnet-launch-"))
    code = Agent(job, folder).run()
    if code == 0:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return code


def _more_telling(death: Death, first: Death) -> bool:
    """Whether a death says more about the reason than the first one: 76 only tells of another."""
    return first.code == LOST_PEER and death.code != LOST_PEER


def _signal(worker: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a worker and to what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
