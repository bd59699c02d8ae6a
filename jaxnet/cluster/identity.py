"""The identity of a job, by which its processes recognise each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

# The variable with the unique id of a job; `jaxnet.launch` sets one.
JOB = "JAXNET_JOB"
# Packages that must have the same version in all processes.
PACKAGES = ("jaxnet", "jax", "jaxlib")


@dataclass(frozen=True)
class Identity:
    """The job that a process belongs to.

    Attributes:
        job: the unique id of the job from the launcher; empty if it provides none.
        command: the words of the command.
        versions: the versions of `PACKAGES`.
    """

    job: str = ""
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible values, for a message."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Identity:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: these aren't such values.
        """
        job, command, versions = values["job"], values["command"], values["versions"]
        if not isinstance(job, str) or not isinstance(command, list):
            raise TypeError("no identity")
        words = tuple(str(word) for word in command)
        return Identity(job, words, {str(name): str(version) for name, version in versions.items()})

    def knows(self, other: Identity) -> bool:
        """Whether both have a job id."""
        return bool(self.job and other.job)

    def differences(self, other: Identity) -> list[str]:
        """Describe how the other one differs from this one.

        Example:
            >>> own = Identity("", ("train.py", "--seed", "0"), {"jax": "0.10.1"})
            >>> own.differences(Identity("", ("train.py", "--seed", "1"), {"jax": "0.10.1"}))
            ["its command is 'train.py --seed 1', and here it is 'train.py --seed 0'"]
        """
        found = []
        if self.command != other.command:
            its, own = " ".join(other.command), " ".join(self.command)
            found.append(f"its command is {its!r}, and here it is {own!r}")
        for name in sorted({*self.versions, *other.versions}):
            its, own = other.versions.get(name), self.versions.get(name)
            if its != own:
                found.append(f"its {name} is {its or 'absent'}, and here it is {own or 'absent'}")
        return found


def own_identity(job: str) -> Identity:
    """The identity of this process.

    Args:
        job: the launcher's id of the job.
    """
    # The program may be in different folders on different hosts.
    command = (os.path.basename(sys.argv[0]), *sys.argv[1:])
    return Identity(job, command, {name: _version(name) for name in PACKAGES})


def _version(package: str) -> str:
    if package == "jaxnet":
        import jaxnet

        return jaxnet.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
