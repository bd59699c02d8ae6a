"""Which launcher started this process; `jaxnet.parallel.launch.detect` is to take its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Cluster(NamedTuple):
    """What a launcher says."""

    launcher: str
    coordinator: tuple[str, int] | None
    processes: int
    process: int
    hosts: int | None = None


# Where each launcher writes the number of processes, and which one this is.
_LAUNCHERS = {
    "JAX_COORDINATOR_ADDRESS": ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    "torchrun": ("WORLD_SIZE", "RANK"),
    "openmpi": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
}


def detect(environ: Mapping[str, str]) -> Cluster | None:
    """What the launcher of this process says; None where it is alone."""
    for name, (processes, process) in _LAUNCHERS.items():
        if environ.get(processes, "").isdigit() and environ.get(process, "").isdigit():
            found = Cluster(name, None, int(environ[processes]), int(environ[process]))
            return found if found.processes > 1 else None
    return None
