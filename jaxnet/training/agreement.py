"""What has to be the same in all processes that train as one, compared before the first step.

Each process runs a program of its own. If one has another seed, other data or another learning
rate, nothing stops: gradients are summed all the same, and the result is nobody's.
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
    """What a process was asked to train.

    Attributes:
        host: the name of its machine.
        pid: its number there.
        settings: plain values, by what they are called, such as `{"seed": 0}`.
        fingerprints: of its data and task; see `jaxnet.training.fingerprints`.
    """

    host: str
    pid: int
    settings: Mapping[str, JSON]
    fingerprints: Fingerprints


def check_alike(settings: Mapping[str, JSON], fingerprints: Fingerprints) -> None:
    """Refuse to train where the processes weren't asked for the same; all have to call this.

    Raises:
        UsageError: in all processes; the message says which differs from process 0 in what.
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
    """Which process differs from process 0 in what, in words, a line for each.

    Example:
        >>> differences([Asked("a", 7, {"seed": 0}, {}), Asked("b", 8, {"seed": 1}, {})])
        ['process 1 on host b (pid 8): seed 1, where process 0 on host a has 0']
    """
    first, *others = said
    lines = []
    for number, other in enumerate(others, start=1):
        its = _numbers(other)
        found = [
            f"{name} {its.get(name)}, where process 0 on host {first.host} has {value}"
            for name, value in _numbers(first).items()
            if its.get(name) != value
        ]
        found += other_data(first.fingerprints, other.fingerprints)
        found += other_task(first.fingerprints, other.fingerprints)
        if found:
            lines.append(f"process {number} on host {other.host} (pid {other.pid}): ")
            lines[-1] += "; ".join(found)
    return lines


def _numbers(asked: Asked) -> dict[str, JSON]:
    """The settings, and the versions of what traces a task, which aren't digests."""
    versions = {
        name.replace("/", " of "): value
        for name, value in asked.fingerprints.items()
        if name.startswith("version/")
    }
    return {**asked.settings, **versions}
