"""Variables of several launchers in one environment: which may stand together, and which may not.

A launcher is often called within another one: `torchrun` or `mpirun` within a job of SLURM. Then
the inner one speaks of as many processes as the outer one or of more. If it speaks of fewer, its
variables are left over from elsewhere, and each process would train alone, in one folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxnet.errors import UsageError


@dataclass(frozen=True)
class Said:
    """What a launcher's variables say, as far as they are there.

    Attributes:
        launcher: its name.
        variables: these variables.
        processes: the number of processes; None where it isn't said, or is no number.
        process: the number of this one, likewise.
    """

    launcher: str
    variables: Mapping[str, str]
    processes: int | None
    process: int | None

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self.variables.items())
        return f"{listed} ({self.launcher})"


# The most specific first: the number of processes, and that of this one.
_NAMES = {
    "JAX_COORDINATOR_ADDRESS": (("JAX_NUM_PROCESSES",), "JAX_PROCESS_ID"),
    "torchrun": (("WORLD_SIZE",), "RANK"),
    "mpirun": (("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_RANK"),
    "srun": (("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_PROCID"),
    "mpiexec": (("PMI_SIZE",), "PMI_RANK"),
}


def said(environ: Mapping[str, str]) -> list[Said]:
    """What each launcher's variables say, the most specific first.

    Example:
        >>> [str(each) for each in said({"WORLD_SIZE": "1", "PMI_SIZE": "2", "PMI_RANK": "0"})]
        ['WORLD_SIZE=1 (torchrun)', 'PMI_SIZE=2, PMI_RANK=0 (mpiexec)']
    """
    found = []
    for launcher, (sizes, rank) in _NAMES.items():
        if launcher == "srun" and "SLURM_STEP_ID" not in environ:
            continue  # the script of sbatch, which is alone
        size = next((name for name in sizes if name in environ), sizes[0])
        variables = {name: environ[name] for name in (size, rank) if name in environ}
        if variables:
            found.append(
                Said(launcher, variables, _maybe(environ.get(size)), _maybe(environ.get(rank)))
            )
    return found


def check(launcher: str, processes: int, process: int, environ: Mapping[str, str]) -> None:
    """Refuse variables that can't all be of this job.

    Args:
        launcher: the one that is believed.
        processes: how many processes it speaks of.
        process: which one this is.
        environ: the environment.

    Raises:
        UsageError: others say something else; the message says which to unset.
    """
    everybody = said(environ)
    own = next((each for each in everybody if each.launcher == launcher), None)
    outer = False
    for other in everybody:
        if other is own:
            outer = True
            continue
        # What is more specific and isn't believed is only a part of what it would have to say.
        contradicts = _beyond if outer else _unlike
        if launcher == "JAX_COORDINATOR_ADDRESS" and None in (other.processes, other.process):
            continue
        if contradicts(other, launcher, processes, process, environ):
            told = [own, other] if own and outer else [other]
            raise UsageError(
                "the launchers' variables contradict each other: by "
                f"{own or launcher} this is process {process} of {processes}, and {other} says "
                "something else. What is left over from elsewhere has to go: unset "
                + ", or ".join(" ".join(each.variables) for each in told)
            )


def _unlike(
    other: Said, launcher: str, processes: int, process: int, environ: Mapping[str, str]
) -> bool:
    """Whether one that is only partly there says something else."""
    ranks = other.process is not None and other.process != process
    return (other.processes is not None and other.processes != processes) or (
        ranks and other.launcher == "JAX_COORDINATOR_ADDRESS"
    )


def _beyond(
    other: Said, launcher: str, processes: int, process: int, environ: Mapping[str, str]
) -> bool:
    """Whether a launcher around this one says what can't be around it."""
    if other.processes is None or other.process is None:
        return False
    # torchrun and mpirun number their processes as they like; by hand nobody does.
    by_hand = launcher == "JAX_COORDINATOR_ADDRESS" or (
        launcher == "torchrun" and "TORCHELASTIC_RUN_ID" not in environ
    )
    moved = other.processes == processes and other.process != process and by_hand
    return other.processes > processes or moved


def _maybe(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
