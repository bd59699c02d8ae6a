"""Run a command as several processes on this host.

    python -m jaxnet.launch --processes 4 -- python -m train.classify --data digits

The processes train together. When one dies, all are restarted from the last checkpoint; on Ctrl-C
or SIGTERM all save the same step and exit with code 75. Only the first process prints; the output
of the others goes to log files, which are named when a process fails.

On several hosts, use the launcher that is available: srun, mpirun, torchrun and Kubernetes are
detected by the command itself (`jaxnet.cluster.join`).
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxnet.app.command_line import from_command_line
from jaxnet.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Run a command as several processes on this host; the command follows after `--`."""

    processes: int = 2
    """number of processes"""
    devices: int = 1
    """accelerators per process; ignored on CPUs"""
    max_restarts: int = 3
    """maximum number of restarts from the last checkpoint when a process dies"""
    elastic: bool = False
    """continue with fewer processes when the same one dies twice in a row; the batch size has to be
    divisible by the smaller number, too"""
    peer_timeout: float = 30.0
    """seconds without a heartbeat after which a process counts as dead"""
    start_timeout: float = 300.0
    """seconds to wait for all processes to start"""
    logs: Path | None = None
    """folder for the output of all processes but the first; by default a temporary one, which is
    kept if the command fails"""

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("devices", 1), ("max_restarts", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"expected {name} of at least {least}, got {getattr(self, name)}")
        for name in ("peer_timeout", "start_timeout"):
            if not 0 < getattr(self, name) < 1e6:
                raise UsageError(f"expected {name} in seconds, got {getattr(self, name)}")


def _command(arguments: Sequence[str]) -> int:
    from jaxnet.cluster import supervisor

    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, command = arguments[:at], arguments[at + 1 :]
    options = from_command_line(Options, own, "python -m jaxnet.launch")
    if not command:
        raise UsageError("expected a command to run, after --: -- python -m train.classify")
    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no command {command[0]!r}")
    return supervisor.run(supervisor.Job(command=tuple(command), **vars(options)))


def main() -> int:
    """The command."""
    from jaxnet.app import cli

    return cli.run_alone(lambda: _command(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
