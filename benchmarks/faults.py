"""Faults: how soon a job of several processes ends, what it loses, and when it goes on.

    python -m benchmarks.faults [--rounds 3] [--processes 2] [--bound 5]
    python -m benchmarks.faults --restarts 50 [--processes 3] [--bound 30] [--busy 2]

A small training on the CPU, slowed down, is disturbed soon after a save. Started by hand, it is
measured how long it takes until the last of its processes has ended, with which exit code, and how
many steps were taken after the last save. Started by `jaxnet.launch`, it is measured how long it
takes until training takes its next step, after all have started again.

A process that is stopped, or cut off, is noticed by its silence, and one that hangs by its step,
for which there is a bound. Linux only. The cable is cut between two network namespaces, and disks
that are full or read-only are mounted in memory, both of which need root; elsewhere these are left
out.

With `--restarts` it is stopped by SIGTERM at so many random moments under load instead, and started
again each time (`benchmarks.restarts`): the command fails where it once ends in any other way than
in order, or comes to other results.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.disturbed import Job, Step, by_hand, launched, on_hosts
from benchmarks.restarts import stops_and_restarts
from benchmarks.two_hosts import lacking, two_hosts
from jaxnet.files import json_text


@dataclass(frozen=True)
class Options:
    """Measure what happens when a process of a job is lost."""

    rounds: int = 3
    """how often each fault happens"""
    processes: int = 2
    """processes of the job; the last one is the worker that is lost"""
    bound: float = 5.0
    """seconds of silence after which a process is taken for dead (JAXNET_PEER_TIMEOUT), and seconds
    that a step may take (JAXNET_PROGRESS_TIMEOUT)"""
    save_steps: int = 20
    """a save every so many steps"""
    step_seconds: float = 0.05
    """how long a step is held up, in seconds"""
    restarts: int = 0
    """stop and start again so often, instead of the faults"""
    busy: int = 2
    """processes that keep the machine busy meanwhile (only with restarts)"""
    seed: int = 0
    """of the moments (only with restarts)"""
    out: Path = report.RESULTS
    """where to write faults.json and faults.png"""


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        seconds: from the fault to the end of the last process.
        codes: the exit codes of the processes that were left.
        lost: steps taken after the last save.
    """

    seconds: float
    codes: tuple[int | None, ...]
    lost: int


@dataclass(frozen=True)
class Restart:
    """How a job went on.

    Attributes:
        seconds: from the fault to the first step after it.
        lost: steps that were taken again.
    """

    seconds: float
    lost: int


@dataclass(frozen=True)
class Row:
    """A fault, and what came of it in each round; or why it was left out."""

    fault: str
    ends: tuple[End, ...] = ()
    restarts: tuple[Restart, ...] = ()
    left_out: str = ""


# A worker that was started so many seconds ago is importing.
IMPORTING = 0.5

Disturb = Callable[[Job], list[int]]
"""Does something to a running job. Returns the numbers of the processes that it leaves alive."""


def _killed(number: int, job: Job) -> list[int]:
    number %= job.processes
    os.kill(job.pid(number), signal.SIGKILL)
    return [n for n in range(job.processes) if n != number]


def _stopped(number: int, job: Job) -> list[int]:
    number %= job.processes
    os.kill(job.pid(number), signal.SIGSTOP)
    return [n for n in range(job.processes) if n != number]


def _killed_in_a_save(job: Job) -> list[int]:
    job.wait_for(lambda: list((job.folder / "checkpoints").glob("*tmp*")), "save")
    return _killed(-1, job)


def _launcher_killed(job: Job) -> list[int]:
    os.kill(job.launcher, signal.SIGKILL)
    return list(range(job.processes))


def _told(what: str, word: str, number: int, job: Job) -> list[int]:
    """Tell a process to go wrong, and wait until it does."""
    order = job.folder / f"{what}-{number % job.processes}"
    order.with_suffix(".new").write_text(word)
    order.with_suffix(".new").rename(order)
    job.wait_for(lambda: not order.exists(), f"end of {order.name}")
    return list(range(job.processes))


def _terminated(number: int, job: Job) -> list[int]:
    os.kill(job.pid(number % job.processes), signal.SIGTERM)
    return list(range(job.processes))


def _full(job: Job) -> list[int]:
    with (job.folder / "checkpoints" / "filler").open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return list(range(job.processes))


def _read_only(job: Job) -> list[int]:
    disk = job.folder / "checkpoints"
    # The same files by another mount: that of files which are being written stays as it is.
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    words = ["mount", "-o", "remount,bind,ro", disk]
    # While a file is open to be written, the kernel refuses that.
    made = partial(subprocess.run, words, capture_output=True)
    job.wait_for(lambda: made().returncode == 0, "moment without an open file")
    return list(range(job.processes))


FAULTS: dict[str, Disturb] = {
    "kill -9 of a worker": partial(_killed, -1),
    "kill -9 of process 0": partial(_killed, 0),
    "kill -9 in mid-save": _killed_in_a_save,
    "SIGSTOP of a worker": partial(_stopped, -1),
    "a worker's data hangs": partial(_told, "source", "hang", -1),
    "a worker's data raises": partial(_told, "source", "fail", -1),
    "a callback hangs": partial(_told, "callback", "hang", 0),
}
# What a launcher doesn't start again, or what would be there again.
ENDS: dict[str, Disturb] = {"SIGTERM of a worker": partial(_terminated, -1)}
DISKS: dict[str, Disturb] = {"full disk": _full, "disk gone read-only": _read_only}
# Before the first step.
STARTS = {
    "SIGTERM of a worker while it imports": partial(_terminated, -1),
    "a worker has another seed": lambda job: list(range(job.processes)),
}
LAUNCHER = "kill -9 of the launcher"
CABLE = "cut cable between hosts"


def ended(job: Job, disturb: Disturb) -> End:
    """Disturb a job that trains and await its end."""
    job.settle()
    return _end(job, disturb)


def _end(job: Job, disturb: Disturb) -> End:
    left = disturb(job)
    at = time.monotonic()
    codes = tuple(job.exit_code(number) for number in left)
    seconds = time.monotonic() - at
    return End(seconds, codes, job.last_step - job.last_save if job.steps else 0)


def restarted(job: Job, disturb: Disturb) -> Restart:
    """Disturb a job that a launcher starts again, and await its next step."""
    job.settle()
    before = job.pid(0)
    disturb(job)
    at = time.monotonic()

    def after() -> list[Step]:
        return [step for step in job.steps if step.pid != before and step.seconds > at]

    job.wait_for(after, "step after the restart")
    again = after()[0]
    reached = max(step.number for step in job.steps if step.pid == before)
    return Restart(again.seconds - at, reached - again.number + 1)


@contextmanager
def _started(
    options: Options, work: Path, kind: Callable[..., Job], prepare: Callable[[Path], object] = id
) -> Iterator[Job]:
    folder = Path(tempfile.mkdtemp(dir=work))
    prepare(folder)
    job = kind(folder, options.processes, options.bound, (options.save_steps, options.step_seconds))
    try:
        yield job
    finally:
        job.close()


def one_round(options: Options, work: Path) -> Iterator[tuple[str, End | Restart]]:
    """Each fault once by hand and, where a launcher starts the job again, once under it."""
    for fault, disturb in FAULTS.items():
        with _started(options, work, by_hand) as job:
            yield fault, ended(job, disturb)
    with _started(options, work, launched) as job:
        for fault, disturb in FAULTS.items():
            yield fault, restarted(job, disturb)
        yield LAUNCHER, ended(job, _launcher_killed)


def end_rounds(options: Options, work: Path) -> Iterator[tuple[str, End]]:
    """Each fault once that ends a job for good, those of disks only for root."""
    for fault, disturb in ENDS.items():
        with _started(options, work, by_hand) as job:
            yield fault, ended(job, disturb)
    for fault, disturb in STARTS.items():
        with _started(options, work, by_hand, _other_seed if "seed" in fault else id) as job:
            time.sleep(IMPORTING)
            yield fault, _end(job, disturb)
    for fault, disturb in DISKS.items() if os.geteuid() == 0 else ():
        with _disk(work) as mount, _started(options, work, by_hand, mount) as job:
            yield fault, ended(job, disturb)


def _other_seed(folder: Path) -> None:
    (folder / "seed-1").write_text("1")


@contextmanager
def _disk(work: Path) -> Iterator[Callable[[Path], None]]:
    """A small disk in memory for the checkpoints of a job."""
    with ExitStack() as ends:

        def mount(folder: Path) -> None:
            disk = folder / "checkpoints"
            disk.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", "size=8m", "jaxnet-faults", disk]
            subprocess.run(words, check=True, capture_output=True)
            ends.callback(_unmount, disk)

        yield mount


def _unmount(disk: Path) -> None:
    """Take away all mounts that lie over each other."""
    while subprocess.run(["umount", "--lazy", disk], capture_output=True).returncode == 0:
        pass


def cut_cable(options: Options, work: Path) -> End:
    """A job on two hosts, between which the cable is pulled."""
    folder = Path(tempfile.mkdtemp(dir=work))

    def cut(job: Job) -> list[int]:
        hosts.cut()
        return [0, 1]

    two = dataclasses.replace(options, processes=2)
    with two_hosts(folder) as hosts, _started(two, work, partial(on_hosts, hosts)) as job:
        return ended(job, cut)


def measure(options: Options) -> list[Row]:
    """All faults in all rounds."""
    names = [*FAULTS, LAUNCHER, *ENDS, *STARTS, *DISKS, CABLE]
    found: dict[str, list[End | Restart]] = {name: [] for name in names}
    why = lacking()
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        for number in range(options.rounds):
            rounds = chain(one_round(options, Path(work)), end_rounds(options, Path(work)))
            for fault, outcome in rounds:
                print(f"round {number + 1}: {fault}: {outcome}", flush=True)
                found[fault].append(outcome)
            if why:
                continue
            try:
                found[CABLE].append(cut_cable(options, Path(work)))
            except RuntimeError as error:
                why = str(error)
    lacks = {CABLE: why, **dict.fromkeys(DISKS, "" if os.geteuid() == 0 else "needs root")}
    return [_row(name, found[name], lacks.get(name, "")) for name in names]


def _row(fault: str, outcomes: list[End | Restart], left_out: str) -> Row:
    ends = tuple(each for each in outcomes if isinstance(each, End))
    restarts = tuple(each for each in outcomes if isinstance(each, Restart))
    return Row(fault, () if left_out else ends, restarts, left_out)


def cells(row: Row) -> list[str]:
    """A row of the table."""
    if row.left_out:
        return [row.fault, "left out", row.left_out, "", ""]
    codes = sorted({str(code) for end in row.ends for code in end.codes})
    lost = [each.lost for each in (*row.ends, *row.restarts)]
    return [
        row.fault,
        _spread([end.seconds for end in row.ends]),
        ", ".join(codes),
        f"{min(lost)} - {max(lost)}",
        _spread([restart.seconds for restart in row.restarts]) if row.restarts else "-",
    ]


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} - {max(seconds):.2f})"


def _bars(rows: list[Row]) -> dict[str, dict[str, report.Bar]]:
    ended_title, again_title = "until the last process has ended", "until the next step"
    panels: dict[str, dict[str, report.Bar]] = {ended_title: {}, again_title: {}}
    for row in rows:
        for title, outcomes in ((ended_title, row.ends), (again_title, row.restarts)):
            seconds = [each.seconds for each in outcomes]
            if seconds:
                bar = report.Bar(median(seconds), min(seconds), max(seconds), title)
                panels[title][row.fault] = bar
    return {title: bars for title, bars in panels.items() if bars}


def restart(options: Options) -> int:
    """Stop and start again so many times, and write JSON; the exit code."""
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        tally = stops_and_restarts(
            options.restarts,
            options.processes,
            options.bound,
            options.seed,
            options.busy,
            Path(work),
        )
    chosen = {name: getattr(options, name) for name in ("processes", "bound", "busy", "seed")}
    result = {**report.header("restarts", "starts"), "options": chosen, **tally.to_json()}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "restarts.json"
    file.write_text(json_text(result, indent=1) + "\n")
    print(
        f"{tally.stops} stops, {len(tally.failures)} of them not in order; {tally.complete} "
        f"trainings complete, {tally.different} with other results; wrote {file}"
    )
    return int(bool(tally.failures or tally.different or tally.stops < options.restarts))


def main(options: Options) -> int:
    """Measure, print a table, write JSON and a picture; the exit code."""
    if options.restarts:
        return restart(options)
    rows = measure(options)
    head = report.header("faults", "seconds from the fault")
    columns = ("fault", "ended after", "exit codes", "steps lost", "next step after")
    title = (
        f"faults: {options.processes} processes, a bound of {options.bound:g} s, a save every "
        f"{options.save_steps} steps; medians of {options.rounds} rounds (lowest - highest)"
    )
    report.table(title, columns, [cells(row) for row in rows], report.caption(head))
    chosen = {k: v for k, v in dataclasses.asdict(options).items() if k != "out"}
    faults = [dataclasses.asdict(row) for row in rows]
    result: dict[str, Any] = {**head, "options": chosen, "faults": faults}
    report.write(result, _bars(rows), options.out)
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Options, description=__doc__)))
