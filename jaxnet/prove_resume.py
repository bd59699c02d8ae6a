"""A proof of exact resume, on your own configuration.

    python -m jaxnet.prove_resume --kills 5 -- python -m train.classify --data digits

It runs the command twice, with a `--run-dir` of its own each: once to the end, and once killed
(`kill -9`) at random moments and started again after each. Then it compares, bit by bit, the last
checkpoint (weights, optimizer state, random key), the trained network and the history.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxnet import cli
from jaxnet.config import from_command_line
from jaxnet.errors import InputError, UsageError


@dataclass(frozen=True)
class Options:
    """Run a command twice, once killed at random moments, and compare the results bit by bit.

    The command follows after `--`. It has to take `--run-dir DIR`, as the entrypoints in train/ do.
    """

    kills: int = 5
    """how often to kill the second run"""
    seed: int = 0
    """of the moments"""
    folder: Path | None = None
    """where to put the two run folders; by default a temporary folder, removed at the end"""


def prove(command: Sequence[str], folder: Path, kills: int, seed: int) -> list[str]:
    """Run `command` uninterrupted and killed, and compare.

    Args:
        command: a command that takes `--run-dir DIR` and goes on with a run that it finds there.
        folder: where to put the two run folders, `whole` and `killed`.
        kills: how often to kill the second run.
        seed: of the moments.

    Returns:
        What differs, a line each; nothing if the runs are the same.

    Raises:
        InputError: the command fails.
    """
    whole, killed = folder / "whole", folder / "killed"
    begun = time.perf_counter()
    _finish([*command, "--run-dir", str(whole)])
    seconds = time.perf_counter() - begun
    print(f"uninterrupted: {seconds:.1f} s")
    moments = random.Random(seed)
    for number in range(1, kills + 1):
        if not _kill([*command, "--run-dir", str(killed)], killed, moments, seconds / kills):
            print("the second run came to its end; give it more epochs for more kills")
            break
        step = max(_saved_steps(killed), default=0)
        print(f"kill {number} of {kills}: saved up to step {step}")
    _finish([*command, "--run-dir", str(killed)])
    return list(_differences(whole, killed))


def _finish(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise InputError(
            f"`{' '.join(command)}` ended with exit code {done.returncode}:\n{done.stdout[-2000:]}"
        )


def _kill(command: Sequence[str], folder: Path, moments: random.Random, seconds: float) -> bool:
    """Start a command and kill it at a random moment; False if it ended before.

    One time in four the moment lies in the first seconds, else within `seconds` after the first
    checkpoint that the process saves, so that the run gets ahead.
    """
    saved = _saved_steps(folder)
    early = moments.random() < 0.25
    limit = time.monotonic() + (moments.uniform(0.2, 4.0) if early else float("inf"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and time.monotonic() < limit:
        if limit == float("inf") and _saved_steps(folder) != saved:
            limit = time.monotonic() + moments.uniform(0.0, seconds)
        time.sleep(0.002)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


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
        differences = prove(command, folder, options.kills, options.seed)
    for line in differences:
        print(line)
    print("the runs differ" if differences else "the runs are identical, bit for bit")
    return cli.FAILED if differences else cli.DONE


def main() -> int:
    """The command."""
    return cli.run_alone(lambda: _command(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
