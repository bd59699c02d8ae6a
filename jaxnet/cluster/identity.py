"""What the processes of a job have in common, by which they tell each other from strangers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

# A word that all processes of a job share and no other job has; `jaxnet.launch` sets one.
JOB = "JAXNET_JOB"
# Packages that have to be of one version in all processes.
PACKAGES = ("jaxnet", "jax", "jaxlib")


@dataclass(frozen=True)
class Identity:
    """What a process takes part in.

    Attributes:
        job: a word for the job that the launcher gave, which no other job has; empty where the
            launcher gives none.
        command: the words of the command.
        versions: of the packages that have to be the same.
    """

    job: str = ""
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a message holds it."""
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
        """Whether both say which job they are of."""
        return bool(self.job and other.job)

    def differences(self, other: Identity) -> list[str]:
        """In what the other one differs from this, in words.

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
    """What this process takes part in.

    Args:
        job: the launcher's word for the job.
    """
    # The same program may lie in another folder on another host.
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
