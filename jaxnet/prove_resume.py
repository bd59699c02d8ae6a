"""A proof of exact resume, on your own configuration.

    python -m jaxnet.prove_resume --kills 5 -- python -m train.classify --epochs 20

It runs the command twice, with a `--run-dir` of its own each: once to the end, to measure it, and
once killed (`kill -9`) at random moments while it trains and started again after each. Then it
compares, bit by bit, the last checkpoint (weights, optimizer state, random key), the trained
network and the history. It fails where no kill hit the run while it trained: that proves nothing.

Both runs save after every epoch (`--checkpoints.min-seconds 0`, unless you say otherwise), and on
GPUs take operations that repeat (`jaxnet.numerics.DETERMINISTIC_FLAG`).
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.errors import InputError, UsageError
from jaxnet.numerics import deterministic_environment

SAVE_ALWAYS = ("--checkpoints.min-seconds", "0")
# One kill in so many hits the start of a process, which reads its checkpoint then.
EARLY = 0.25
# Seconds that killed processes may take to disappear.
GONE_WITHIN = 10.0


@dataclass(frozen=True)
class Options:
    """Run a command twice, once killed at random moments, and compare the results bit by bit.

    The command follows after `--`. It has to take `--run-dir DIR` and
    `--checkpoints.min-seconds 0`, as the entrypoints in train/ do.
    """

    kills: int = 5
    """how often to kill the second run"""
    seed: int = 0
    """of the moments"""
    folder: Path | None = None
    """where to put the two run folders; by default a temporary folder, removed at the end"""

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise UsageError(f"expected kills of at least 1, got {self.kills}")


@dataclass(frozen=True)
class Proof:
    """What came of it.

    Attributes:
        differences: what differs, a line each.
        hits: the steps that were saved when a kill hit the run while it trained: it went on from
            there.
        kills: how many kills there were to be.
    """

    differences: tuple[str, ...]
    hits: tuple[int, ...]
    kills: int

    @property
    def good(self) -> bool:
        """Whether exact resume is proved."""
        return bool(self.hits) and not self.differences

    def __str__(self) -> str:
        lines = [*self.differences]
        if self.differences:
            lines.append("the runs differ")
        steps = ", ".join(map(str, self.hits))
        if not self.hits:
            lines.append(
                "no kill hit the run while it trained, so this proves nothing: give it more epochs"
            )
        else:
            lines.append(
                f"{len(self.hits)} of {self.kills} kills hit the run while it trained; it went on "
                f"from steps {steps}"
            )
        if self.good:
            lines.append("the runs are identical, bit for bit")
        return "\n".join(lines)


@dataclass
class _Watched:
    """A process of the command, and the checkpoints that it saves.

    Attributes:
        command: its words.
        folder: its run folder.
        saved: when each step was seen saved, in seconds since the process began; those of earlier
            processes at 0.
        lowest: the lowest of the newest steps that were there at any time.
        code: its exit code; None where it was killed.
        said: what it printed.
    """

    command: Sequence[str]
    folder: Path
    saved: dict[int, float] = field(default_factory=dict)
    lowest: int = 0
    code: int | None = None
    said: str = ""

    def run(self, kill: Callable[[float], bool] = lambda seconds: False) -> _Watched:
        """Run it, and kill it when `kill` says so of the seconds since it began."""
        begun = time.monotonic()
        self.lowest = self._look(0.0)
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [*self.command, "--run-dir", str(self.folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=deterministic_environment(os.environ),
                # The command may be a launcher or a script: what it starts is killed with it.
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - begun
                    self.lowest = min(self.lowest, self._look(seconds))
                    if kill(seconds):
                        return self
                    time.sleep(0.005)
            finally:
                if process.poll() is None:
                    _kill_group(process)
            self._look(time.monotonic() - begun)
            output.seek(0)
            self.code, self.said = process.returncode, output.read()
        if self.code:
            raise InputError(
                f"`{' '.join(self.command)}` ended with exit code {self.code}:\n{self.said[-2000:]}"
            )
        return self

    @property
    def last(self) -> int:
        """The newest step that was seen saved."""
        return max(self.saved, default=0)

    def _look(self, seconds: float) -> int:
        steps = _saved_steps(self.folder)
        for step in steps:
            self.saved.setdefault(step, seconds)
        return max(steps, default=0)


def prove(command: Sequence[str], folder: Path, kills: int, seed: int) -> Proof:
    """Run `command` uninterrupted and killed, and compare.

    Args:
        command: a command that takes `--run-dir DIR` and goes on with a run that it finds there.
        folder: where to put the two run folders, `whole` and `killed`.
        kills: how often to kill the second run.
        seed: of the moments.

    Raises:
        InputError: the command fails, or saves nothing before its end.
    """
    if SAVE_ALWAYS[0] not in {word.partition("=")[0] for word in command}:
        command = [*command, *SAVE_ALWAYS]
    begun = time.monotonic()
    whole = _Watched(command, folder / "whole").run()
    steps = sorted(whole.saved)
    if len(steps) < 2:
        raise InputError(
            f"the run saved {len(steps)} checkpoints, and a kill before the last one proves "
            "nothing: give it more epochs, or --checkpoints.every-steps 50"
        )
    print(
        f"uninterrupted: {time.monotonic() - begun:.1f} s, {len(steps)} saves from step {steps[0]} "
        f"to {steps[-1]}"
    )
    hits, anew = [], []
    moments = random.Random(seed)
    before = 0
    for number in range(1, kills + 1):
        moment = _moment(whole, number, kills, moments)
        run = _Watched(command, folder / "killed")
        run.run(lambda seconds, run=run, moment=moment: moment(run, seconds))
        anew += _anew(run, before)
        before = run.last
        if run.code is not None:
            print(f"kill {number} of {kills} came too late: the run was done")
            break
        print(f"kill {number} of {kills}: saved up to step {before} of {steps[-1]}")
        if 0 < before < steps[-1]:
            hits.append(before)
    else:
        anew += _anew(_Watched(command, folder / "killed").run(), before)
    differences = (*anew, *_differences(folder / "whole", folder / "killed"))
    return Proof(differences, tuple(hits), kills)


def _moment(
    whole: _Watched, number: int, kills: int, moments: random.Random
) -> Callable[[_Watched, float], bool]:
    """When to kill: `(process, seconds since it began) -> whether now`.

    The run is cut into as many chunks as there are processes, and each but the last is killed in
    its own: at most the time between two saves after a step in it is saved.
    """
    steps = sorted(whole.saved)
    times = [whole.saved[step] for step in steps]
    if moments.random() < EARLY and number > 1:
        early = moments.uniform(0.0, times[0])
        return lambda run, seconds: seconds >= early
    pace = (times[-1] - times[0]) / (len(steps) - 1)
    chunk = (len(steps) - 1) / (kills + 1)
    target = steps[int(moments.uniform(number - 1, number) * chunk)]
    delay = moments.uniform(0.0, pace)

    def now(run: _Watched, seconds: float) -> bool:
        # The step of an earlier process may be beyond the target: then the next save counts.
        reached = [when for step, when in run.saved.items() if step >= target and when > 0]
        return bool(reached) and seconds >= min(reached) + delay

    return now


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, and all of its group, and wait until they are gone."""
    deadline = time.monotonic() + GONE_WITHIN
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.005)


def _anew(run: _Watched, before: int) -> Iterator[str]:
    """A line if a process forgot what those before it had saved."""
    if run.lowest < before:
        yield f"started after a kill at step {before}, the run began anew and didn't go on"


def _saved_steps(folder: Path) -> list[int]:
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def _differences(whole: Path, killed: Path) -> Iterator[str]:
    for name in ("history.csv", "bundle/model.safetensors"):
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            yield f"{name} differs"
    steps = [max(_saved_steps(folder), default=None) for folder in (whole, killed)]
    if steps[0] != steps[1] or steps[0] is None:
        yield f"the last checkpoints are of steps {steps[0]} and {steps[1]}"
        return
    from jaxnet.training.checkpoints import read_arrays

    before, after = (read_arrays(f / "checkpoints", steps[0]) for f in (whole, killed))
    for path in sorted(before.keys() | after.keys()):
        if path not in before or path not in after:
            yield f"checkpoint {steps[0]}: {path} is in one run only"
        elif before[path].tobytes() != after[path].tobytes():
            yield f"checkpoint {steps[0]}: {path} differs"


def _command(arguments: Sequence[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, command = arguments[:at], arguments[at + 1 :]
    options = from_command_line(Options, own, "python -m jaxnet.prove_resume")
    if not command:
        raise UsageError("say which command to try, after --: -- python -m train.classify")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        proof = prove(command, folder, options.kills, options.seed)
    print(proof)
    return cli.DONE if proof.good else cli.FAILED


def main() -> int:
    """The command."""
    return cli.run_alone(lambda: _command(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
