"""What JAX says of itself and its devices: a process of its own asks it (`devices`).

JAX may hang, where a driver or another host doesn't answer, it may die of a fault in a driver, and
it would keep a part of the device for as long as its process lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

# A device that is asked for the first time may take this long; later is never.
DEVICE_SECONDS = 90.0


@dataclass(frozen=True)
class Device:
    """A device of JAX; memory in bytes, None where it doesn't tell, as processors don't."""

    platform: str
    kind: str
    used: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Jax:
    """What JAX says when it is asked, in a process of its own.

    Attributes:
        devices: its devices.
        x64: whether 64-bit numbers are switched on.
        matmul_precision: the precision of float32 products; None for the device's own choice.
        promotion: how types are promoted, `"standard"` or `"strict"`.
        cache: the folder of compiled programs; None when switched off.
        error: why it has no answer.
    """

    devices: tuple[Device, ...] = ()
    x64: bool = False
    matmul_precision: str | None = None
    promotion: str = "standard"
    cache: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Wrong:
    """A reproducer of a miscompilation that came out wrong; see `arithmetic.Reproducer`.

    Attributes:
        issue: where it was published: `OWNER/REPOSITORY#NUMBER`.
        what: what it computes.
        error: the largest difference, relative to the expected value or to 1; None for a NaN.
        rare: whether it takes a pattern that no network or loop of jaxnet has.
        right_since: the first release of jaxlib that gets it right; `"?"` for none so far, None
            where it is known to be right in all that may be installed.
    """

    issue: str
    what: str
    error: float | None
    rare: bool = False
    right_since: str | None = None


@dataclass(frozen=True)
class Arithmetic:
    """Whether JAX computes what NumPy does.

    Attributes:
        tried: the number of reproducers.
        wrong: those that came out wrong.
        seconds: how long all of them took, compiling included.
        error: why they couldn't be tried.
    """

    tried: int = 0
    wrong: tuple[Wrong, ...] = ()
    seconds: float = 0.0
    error: str | None = None


def ask(seconds: float = DEVICE_SECONDS) -> tuple[Jax, Arithmetic]:
    """The devices that JAX finds within a time limit, and how it computes."""
    # Take no memory that isn't needed: somebody else may be training. And what a cache of compiled
    # programs holds was compiled on another day.
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    command = [sys.executable, "-m", "jaxnet.doctor.devices"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
        said, complaint, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        said, complaint, code = _text(late.stdout), f"no answer within {seconds:.0f} seconds", 1
    answers: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    error = None if code == 0 else _why(complaint, code)
    if not answers:
        return Jax(error=error or "no answer"), Arithmetic(error="JAX didn't answer")
    devices = tuple(Device(**device) for device in answers[0].pop("devices"))
    jax = Jax(devices=devices, **answers[0])
    if len(answers) == 1:
        return jax, Arithmetic(error=error or "no answer")
    wrong = tuple(Wrong(**each) for each in answers[1].pop("wrong"))
    return jax, Arithmetic(wrong=wrong, **answers[1])


def _why(complaint: str, code: int) -> str:
    last = complaint.strip().splitlines()[-1:]
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}" + "".join(f": {x}" for x in last)
    return last[0] if last else f"exit code {code}"


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
