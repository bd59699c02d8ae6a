"""An interleaved race between processes: A B C A B C ..., so that a drifting machine hits all.

Each contender lives in a process of its own, with its own environment and thread pools. It is
started once, warms up with a whole round (compilation and first allocations stay out of the
figures), and is then told through a pipe when to run. Between its turns it is stopped by signal:
some thread pools spin while they wait for work and would slow down the next contender.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.workloads import Workload

ROOT = Path(__file__).parents[1]
# A process that has failed says why within so many seconds.
LAST_WORDS_SECONDS = 60


@dataclass(frozen=True)
class Contender:
    """What to run, in which environment, and the modules that it cannot do without.

    With more than one of `processes` it runs as a job of so many, which find each other by the
    variables of `jaxnet.cluster.join`.
    """

    name: str
    framework: str
    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    processes: int = 1

    def missing(self) -> str | None:
        """The first required module that is not installed."""
        absent = (name for name in self.requires if importlib.util.find_spec(name) is None)
        return next(absent, None)


@dataclass(frozen=True)
class Lap:
    """One timed round and its mean training loss.

    `foreign_cores` is how many cores all that isn't this contender kept busy meanwhile; None where
    the system doesn't tell.
    """

    seconds: float
    loss: float
    foreign_cores: float | None


@dataclass(frozen=True)
class Entry:
    """A contender's rounds, and its warm-up: the first epoch and the test accuracy after it.

    The seconds of the warm-up hold compilation. All contenders have trained as long after it, so
    its loss and accuracy show whether they do the same work.
    """

    contender: Contender
    warm_up: Lap
    accuracy: float
    laps: tuple[Lap, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(lap.seconds for lap in self.laps)

    @property
    def median(self) -> float:
        return median(self.seconds)

    def ratios(self, reference: Entry) -> tuple[float, ...]:
        """Round by round, how many times longer this contender took than the reference."""
        return tuple(a / b for a, b in zip(self.seconds, reference.seconds, strict=True))


@dataclass(frozen=True)
class Race:
    """All entries of one workload, the images they trained on, and who was skipped and why."""

    workload: Workload
    source: str
    entries: tuple[Entry, ...]
    skipped: Mapping[str, str]

    def best(self, library: str) -> Entry | None:
        """The library's fastest setting by its median round."""
        entries = [entry for entry in self.entries if entry.contender.framework == library]
        return min(entries, key=lambda entry: entry.median, default=None)


def run(
    workload: Workload,
    contenders: Sequence[Contender],
    rounds: int,
    data_dir: Path | None = None,
    synthetic: tuple[int, int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Race:
    """Race the contenders over `rounds` interleaved epochs of the workload.

    Args:
        workload: the network and the length of an epoch.
        contenders: those whose library is absent are skipped.
        rounds: epochs that count; one more comes before them as warm-up.
        data_dir: folder that holds `mnist/`; by default JAXNET_DATA_DIR or ../shared/data.
        synthetic: numbers of synthetic training and test images to use in MNIST's place.
        say: called with a line of progress.

    Raises:
        RuntimeError: a contender failed; the message ends with what it printed.
    """
    skipped = {
        contender.name: f"needs {missing}: pip install -e '.[bench]'"
        for contender in contenders
        if (missing := contender.missing())
    }
    racers = [contender for contender in contenders if contender.name not in skipped]
    job = {
        "workload": dataclasses.asdict(workload),
        "data_dir": str(data_dir) if data_dir else None,
        "synthetic": synthetic,
    }
    with ExitStack() as stack:
        processes = []
        for contender in racers:
            process = _Process(contender, job)
            stack.callback(process.close)
            say(f"{workload.name}: {contender.name}: warmed up in {process.warm_up.seconds:.2f} s")
            processes.append(process)
        laps: list[list[Lap]] = [[] for _ in processes]
        for number in range(1, rounds + 1):
            for process, done in zip(processes, laps, strict=True):
                done.append(process.lap(number))
            say(f"{workload.name}: round {number} of {rounds} done")
        entries = tuple(
            Entry(process.contender, process.warm_up, process.accuracy, tuple(done))
            for process, done in zip(processes, laps, strict=True)
        )
    source = processes[0].source if processes else ""
    return Race(workload, source, entries, skipped)


class _Process:
    """A contender's process; it is stopped whenever no call of this class is under way.

    The processes of a job are not stopped: they have to hear each other, and sleep meanwhile.
    """

    def __init__(self, contender: Contender, job: Mapping[str, Any]) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._popens = [self._start(variables) for variables in job_variables(contender.processes)]
        setup = {**job, "module": contender.module, "options": dict(contender.options)}
        self.warm_up, ready = self._timed(setup)
        self.accuracy: float = ready["accuracy"]
        self.source: str = ready["source"]

    @property
    def pids(self) -> list[int]:
        return [popen.pid for popen in self._popens]

    def lap(self, number: int) -> Lap:
        return self._timed({"round": number})[0]

    def close(self) -> None:
        for popen in self._popens:
            popen.kill()
        for popen in self._popens:
            popen.communicate()
        self._errors.close()

    def _start(self, variables: Mapping[str, str]) -> subprocess.Popen[str]:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), **self.contender.environment, **variables}
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **own},
        )

    def _timed(self, message: Mapping[str, Any]) -> tuple[Lap, dict[str, Any]]:
        before, start = _busy_seconds(self.pids), time.perf_counter()
        reply = self._ask(message)
        after, elapsed = _busy_seconds(self.pids), time.perf_counter() - start
        foreign = None
        if before is not None and after is not None:
            # The system counts in ticks of 10 ms: a short round's difference can come out below 0.
            foreign = max(0.0, (after - before) / elapsed)
        return Lap(reply["seconds"], reply["loss"], foreign), reply

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What the first process replies; of a job, the seconds of the one that took longest."""
        self._signal(signal.SIGCONT)
        try:
            for popen in self._popens:
                assert popen.stdin
                popen.stdin.write(json.dumps(message) + "\n")
                popen.stdin.flush()
            lines = [popen.stdout.readline() for popen in self._popens if popen.stdout]
        except BrokenPipeError:
            lines = [""]
        if not all(lines):
            raise RuntimeError(f"{self.contender.name} failed:\n{self._last_words()}")
        self._signal(signal.SIGSTOP)
        replies = [json.loads(line) for line in lines]
        return {**replies[0], "seconds": max(reply["seconds"] for reply in replies)}

    def _signal(self, number: signal.Signals) -> None:
        if len(self._popens) > 1:
            return
        (popen,) = self._popens
        popen.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitpid(popen.pid, os.WUNTRACED)

    def _last_words(self) -> str:
        for popen in self._popens:
            with suppress(subprocess.TimeoutExpired):
                popen.wait(LAST_WORDS_SECONDS)
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-20:])


def job_variables(processes: int) -> list[dict[str, str]]:
    """What tells each process of a job on this machine where the others are; nothing for one."""
    if processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return [
        {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(number),
            "JAX_LOCAL_DEVICE_IDS": str(number),
            "JAX_NUM_CPU_DEVICES": "1",
        }
        for number in range(processes)
    ]


def _busy_seconds(pids: Sequence[int]) -> float | None:
    """Processor seconds that all but `pids` used since boot; None where /proc is absent."""
    try:
        machine = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        own = sum(_ticks(pid) for pid in pids)
    except FileNotFoundError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, machine[:8])
    return (user + nice + system + irq + softirq + steal - own) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
