"""Consistency check of the variables of several launchers in one environment.

A launcher is often nested in another one, such as `torchrun` or `mpirun` in a SLURM job. The inner
one then reports as many processes as the outer one, or more. If it reports fewer, its variables are
stale, and each process would train alone, in the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxnet.errors import UsageError


@dataclass(frozen=True)
class Said:
    """The environment variables of a launcher, as far as they are set.

    Attributes:
        launcher: its name.
        variables: the variables.
        processes: the number of processes; None if unset or not a number.
        process: the rank of this process, likewise.
    """

    launcher: str
    variables: Mapping[str, str]
    processes: int | None
    process: int | None

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self.variables.items())
        return f"{listed} ({self.launcher})"


# The variables of the number of processes and of the rank; the most specific launcher first.
_NAMES = {
    "JAX_COORDINATOR_ADDRESS": (("JAX_NUM_PROCESSES",), "JAX_PROCESS_ID"),
    "torchrun": (("WORLD_SIZE",), "RANK"),
    "mpirun": (("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_RANK"),
    "srun": (("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_PROCID"),
    "mpiexec": (("PMI_SIZE",), "PMI_RANK"),
}


def said(environ: Mapping[str, str]) -> list[Said]:
    """The variables of each launcher that are set, the most specific first.

    Example:
        >>> [str(each) for each in said({"WORLD_SIZE": "1", "PMI_SIZE": "2", "PMI_RANK": "0"})]
        ['WORLD_SIZE=1 (torchrun)', 'PMI_SIZE=2, PMI_RANK=0 (mpiexec)']
    """
    found = []
    for launcher, (sizes, rank) in _NAMES.items():
        if launcher == "srun" and "SLURM_STEP_ID" not in environ:
            continue  # an sbatch script, which runs as one process
        size = next((name for name in sizes if name in environ), sizes[0])
        variables = {name: environ[name] for name in (size, rank) if name in environ}
        if variables:
            found.append(
                Said(launcher, variables, _maybe(environ.get(size)), _maybe(environ.get(rank)))
            )
    return found


def check(launcher: str, processes: int, process: int, environ: Mapping[str, str]) -> None:
    """Check that all launchers' variables can belong to this job.

    Args:
        launcher: the launcher that was detected.
        processes: its number of processes.
        process: its rank of this process.
        environ: the environment.

    Raises:
        UsageError: others contradict it; the message says which variables to unset.
    """
    everybody = said(environ)
    own = next((each for each in everybody if each.launcher == launcher), None)
    outer = False
    for other in everybody:
        if other is own:
            outer = True
            continue
        # A more specific launcher that wasn't detected has only some of its variables.
        contradicts = _beyond if outer else _unlike
        if launcher == "JAX_COORDINATOR_ADDRESS" and None in (other.processes, other.process):
            continue
        if contradicts(other, launcher, processes, process, environ):
            told = [own, other] if own and outer else [other]
            raise UsageError(
                "the launchers' variables contradict each other: by "
                f"{own or launcher} this is process {process} of {processes}, and {other} says "
                "something else. Remove the stale variables: unset "
                + ", or ".join(" ".join(each.variables) for each in told)
            )


def _unlike(
    other: Said, launcher: str, processes: int, process: int, environ: Mapping[str, str]
) -> bool:
    """Whether a launcher with only some of its variables contradicts the detected one."""
    ranks = other.process is not None and other.process != process
    return (other.processes is not None and other.processes != processes) or (
        ranks and other.launcher == "JAX_COORDINATOR_ADDRESS"
    )


def _beyond(
    other: Said, launcher: str, processes: int, process: int, environ: Mapping[str, str]
) -> bool:
    """Whether an outer launcher contradicts the detected one."""
    if other.processes is None or other.process is None:
        return False
    # torchrun and mpirun may assign other ranks than the outer launcher; users don't.
    by_hand = launcher == "JAX_COORDINATOR_ADDRESS" or (
        launcher == "torchrun" and "TORCHELASTIC_RUN_ID" not in environ
    )
    moved = other.processes == processes and other.process != process and by_hand
    return other.processes > processes or moved


def _maybe(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
