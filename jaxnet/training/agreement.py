"""Checks, before the first step, that all processes of a job were asked to train the same.

Each process runs its own program. If one has another seed, other data or another learning rate,
nothing fails: gradients are summed all the same, and the result is meaningless.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxnet.cluster import processes
from jaxnet.errors import UsageError
from jaxnet.training.fingerprints import Fingerprints, other_data, other_task

JSON = Any


class Asked(NamedTuple):
    """The training that a process was asked for.

    Attributes:
        host: its host name.
        pid: its process id.
        settings: plain values by name, such as `{"seed": 0}`.
        fingerprints: of its data and task; see `jaxnet.training.fingerprints`.
    """

    host: str
    pid: int
    settings: Mapping[str, JSON]
    fingerprints: Fingerprints


def check_alike(settings: Mapping[str, JSON], fingerprints: Fingerprints) -> None:
    """Check that all processes were asked to train the same; a collective call.

    Raises:
        UsageError: in all processes; the message lists how each differs from process 0.
    """
    own = Asked(socket.gethostname(), os.getpid(), settings, fingerprints)
    said = [Asked(*asked) for asked in processes.gathered(own)]
    if lines := differences(said):
        raise UsageError(
            "the processes of this job don't train the same, so that what they learn would be "
            "nobody's result:\n  "
            + "\n  ".join(lines)
            + "\nStart all of them with the same command, code, data and versions."
        )


def differences(said: Sequence[Asked]) -> list[str]:
    """A line for each process that differs from process 0, saying how.

    Example:
        >>> differences([Asked("a", 7, {"seed": 0}, {}), Asked("b", 8, {"seed": 1}, {})])
        ['process 1 on host b (pid 8): seed 1, where process 0 on host a has 0']
    """
    first, *others = said
    lines = []
    for number, other in enumerate(others, start=1):
        its = _values(other)
        found = [
            f"{name} {its.get(name)}, where process 0 on host {first.host} has {value}"
            for name, value in _values(first).items()
            if its.get(name) != value
        ]
        found += other_data(first.fingerprints, other.fingerprints)
        found += other_task(first.fingerprints, other.fingerprints)
        if found:
            lines.append(f"process {number} on host {other.host} (pid {other.pid}): ")
            lines[-1] += "; ".join(found)
    return lines


def _values(asked: Asked) -> dict[str, JSON]:
    """The settings and library versions, which are readable values and not digests."""
    versions = {
        name.replace("/", " of "): value
        for name, value in asked.fingerprints.items()
        if name.startswith("version/")
    }
    return {**asked.settings, **versions}
