"""Stops and restarts: a job that is asked to end at random moments and goes on each time.

A small training in several processes gets a SIGTERM in one of them, at a random moment between the
first line of its command and its end, while the machine is kept busy. All its processes must end
with exit code 75, "run me again", or with 0 where the work was done. The same command goes on until
the training is complete, with the results of one that nobody disturbed, bit for bit; then the next
training begins. Anything else, an abort above all, is a failure. Linux only.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.disturbed import PATIENCE, Job, by_hand

DONE, AGAIN = 0, 75
# Steps of a training, of which every so many are saved, and seconds that each is held up.
STEPS, SAVE_STEPS, STEP_SECONDS = 24, 8, 0.1
# Characters of what a process said that are kept; what follows is a stack.
MOST_SAID = 3000
BUSY = "while True: pass"


@dataclass(frozen=True)
class Start:
    """One start of a job.

    Attributes:
        stopped: the process that got a SIGTERM; None where all had ended before.
        moment: when, in seconds after the first line of that process.
        codes: the exit codes of all processes.
        said: what they said, where a code is one that must not be.
    """

    stopped: int | None
    moment: float
    codes: tuple[int | None, ...]
    said: str = ""

    @property
    def good(self) -> bool:
        """Whether all ended in order."""
        return set(self.codes) <= {DONE, AGAIN}


@dataclass
class Tally:
    """What came of stops and restarts.

    Attributes:
        span: seconds that the undisturbed training took.
        starts: all starts of jobs.
        complete: trainings that came to their end.
        different: those of them with other results than the undisturbed one.
    """

    span: float = 0.0
    starts: list[Start] = field(default_factory=list)
    complete: int = 0
    different: int = 0

    @property
    def stops(self) -> int:
        """Starts that were stopped."""
        return sum(start.stopped is not None for start in self.starts)

    @property
    def failures(self) -> list[Start]:
        """Starts with an exit code that must not be."""
        return [start for start in self.starts if not start.good]

    def to_json(self) -> dict[str, Any]:
        """As a report holds it."""
        codes = sorted({start.codes for start in self.starts}, key=str)
        counts = {str(list(c)): sum(start.codes == c for start in self.starts) for c in codes}
        return {
            "undisturbed_seconds": round(self.span, 2),
            "stops": self.stops,
            "starts": len(self.starts),
            "exit_codes": counts,
            "failures": [vars(start) for start in self.failures],
            "complete": self.complete,
            "different_results": self.different,
        }


def stops_and_restarts(
    stops: int, processes: int, bound: float, seed: int, busy: int, work: Path
) -> Tally:
    """Stop a job so many times, and start it again each time.

    Args:
        stops: how often.
        processes: of the job.
        bound: seconds of silence after which one is taken for dead, and seconds a step may take.
        seed: of the moments, and of which process is stopped.
        busy: processes that keep the machine busy meanwhile.
        work: a folder for what the jobs write.
    """
    draw = random.Random(seed)

    def started(folder: Path) -> Job:
        return by_hand(folder, processes, bound, (SAVE_STEPS, STEP_SECONDS, STEPS))

    with _busy(busy):
        whole = Path(tempfile.mkdtemp(dir=work))
        began = time.monotonic()
        first = _one_start(started(whole), 0, PATIENCE)
        tally = Tally(span=time.monotonic() - began, starts=[first])
        if set(first.codes) != {DONE}:
            return tally
        expected = _results(whole)
        while tally.stops < stops:
            folder = Path(tempfile.mkdtemp(dir=work))
            while tally.stops < stops or not tally.starts[-1].good:
                stopped, moment = draw.randrange(processes), draw.uniform(0.0, tally.span)
                start = _one_start(started(folder), stopped, moment)
                print(f"start {len(tally.starts)}: {start}", flush=True)
                tally.starts.append(start)
                if set(start.codes) == {DONE}:
                    break
                if len(tally.failures) > stops:
                    return tally
            else:  # no more stops: the last one comes to its end
                tally.starts.append(_one_start(started(folder), 0, PATIENCE))
            if set(tally.starts[-1].codes) == {DONE}:
                tally.complete += 1
                tally.different += _results(folder) != expected
    return tally


def _one_start(job: Job, stopped: int, moment: float) -> Start:
    """Let a job run until a process of it is stopped, and all have ended."""
    try:
        process = job.started[stopped]
        deadline = time.monotonic() + PATIENCE
        while not _heeds(process.pid) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        due = time.monotonic() + moment
        while time.monotonic() < due and any(each.poll() is None for each in job.started):
            time.sleep(0.002)
        hit = process.poll() is None
        if hit:
            process.send_signal(signal.SIGTERM)
        codes = tuple(job.exit_code(number) for number in range(job.processes))
    finally:
        job.close()
    start = Start(stopped if hit else None, round(moment, 3), codes)
    if start.good:
        return start
    said = "\n".join(
        f"{log.name}: {log.read_text()[:MOST_SAID]}" for log in sorted(job.folder.glob("*.log"))
    )
    return Start(start.stopped, start.moment, codes, said)


def _heeds(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM: the first line of its command has run."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _results(folder: Path) -> dict[str, Any]:
    """All arrays and numbers of the newest checkpoint."""
    from jaxnet.training.checkpoints import read_arrays

    saved = folder / "checkpoints"
    step = max(int(entry.name) for entry in saved.iterdir() if entry.name.isdigit())
    noted = json.loads((saved / str(step) / "progress" / "metadata").read_text())
    arrays = {path: leaf.tobytes() for path, leaf in read_arrays(saved, step).items()}
    progress = {name: value for name, value in noted["progress"].items() if name != "seconds"}
    return {"step": step, "progress": progress, **arrays}


@contextmanager
def _busy(count: int) -> Iterator[None]:
    loops: Sequence[subprocess.Popen[bytes]] = [
        subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
