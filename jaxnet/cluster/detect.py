"""What the launcher of this process says: how many processes there are, and which this is.

Known are, the most specific first:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID    set by hand or by jaxnet.launch
    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT                    torchrun and its kin
    OMPI_COMM_WORLD_RANK and others                               mpirun of Open MPI, 4 and 5
    PMI_RANK, MPI_LOCALRANKID and others                          mpiexec of MPICH and its kin
    SLURM_PROCID and others                                       srun
    JOB_COMPLETION_INDEX                                          an indexed job of Kubernetes

`JAX_COORDINATOR_ADDRESS=HOST:PORT` says where process 0 listens, whatever the launcher: an
address of its host that all others reach. `JAXNET_JOB`, a word that no other job has, keeps out
processes of other jobs where the launcher gives its jobs no names.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxnet.cluster.addresses import is_loopback
from jaxnet.cluster.contradictions import check
from jaxnet.cluster.identity import JOB
from jaxnet.errors import UsageError

Environ = Mapping[str, str]

# The ports that JAX itself would take: the last 4,096.
PORTS = 4096
FIRST_PORT = 65536 - PORTS


@dataclass(frozen=True)
class Cluster:
    """What a launcher says about a job and this process.

    Attributes:
        launcher: its name.
        coordinator: the host where process 0 listens, and the port.
        processes: the number of processes in the job.
        process: the number of this one, from 0.
        hosts: the number of hosts, where the launcher says it.
        local_process: the number of this process among those on its host, likewise.
        local_processes: how many these are, likewise.
        local_devices: the devices that this process uses, of those it can see; None for all.
        job: a word that all processes of this job share and no other job has; empty where the
            launcher gives none.
    """

    launcher: str
    coordinator: tuple[str, int]
    processes: int
    process: int
    hosts: int | None = None
    local_process: int | None = None
    local_processes: int | None = None
    local_devices: tuple[int, ...] | None = None
    job: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.processes:
            raise UsageError(
                f"{self.launcher}: expected a process from 0 to {self.processes - 1}, as there are "
                f"{self.processes}, got {self.process}"
            )
        # A launcher that doesn't count the hosts may still say that not all processes are on one.
        several = (self.hosts or 1) > 1 or (self.local_processes or self.processes) < self.processes
        if several and self.processes > 1 and is_loopback(self.coordinator[0]):
            raise UsageError(
                f"{self.launcher}: the coordinator's address is {self.coordinator[0]}, which on "
                f"each of the {self.hosts or 'several'} hosts means the host itself. Set "
                "JAX_COORDINATOR_ADDRESS=HOST:PORT to an address of process 0's host that all "
                "others reach"
            )


def detect(environ: Environ = os.environ) -> Cluster | None:
    """What the launcher of this process says; None where this process is alone.

    Raises:
        UsageError: only a part of what is needed is there, or it contradicts itself.

    Example:
        >>> cluster = detect({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1"})
        >>> cluster.launcher, cluster.process, cluster.processes, cluster.coordinator
        ('torchrun', 1, 4, ('node1', 29500))
    """
    for recognised in (_explicit, _torchrun, _open_mpi, _slurm, _hydra, _kubernetes):
        cluster = recognised(environ)
        if cluster is not None:
            check(cluster.launcher, cluster.processes, cluster.process, environ)
            return cluster if cluster.processes > 1 else None
    if "JAX_COORDINATOR_ADDRESS" in environ and "JAX_NUM_PROCESSES" in environ:
        raise UsageError(
            "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES are set, but neither JAX_PROCESS_ID nor "
            "a launcher says which of the processes this is. Set JAX_PROCESS_ID to 0, 1, ..."
        )
    return None


def _explicit(environ: Environ) -> Cluster | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if any(name not in environ for name in names):
        return None
    return Cluster(
        "JAX_COORDINATOR_ADDRESS",
        _address(environ["JAX_COORDINATOR_ADDRESS"], "JAX_COORDINATOR_ADDRESS"),
        _number(environ, "JAX_NUM_PROCESSES"),
        _number(environ, "JAX_PROCESS_ID"),
        local_devices=_chosen_devices(environ),
        job=environ.get(JOB, ""),
    )


def _torchrun(environ: Environ) -> Cluster | None:
    if any(name not in environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")):
        return None
    processes, local = _number(environ, "WORLD_SIZE"), maybe_number(environ, "LOCAL_WORLD_SIZE")
    # torchrun itself listens at MASTER_PORT.
    port = maybe_number(environ, "MASTER_PORT") or 29500
    port += "TORCHELASTIC_RUN_ID" in environ
    return _started(
        environ,
        "torchrun",
        lambda: (environ["MASTER_ADDR"], port),
        processes,
        _number(environ, "RANK"),
        hosts=maybe_number(environ, "GROUP_WORLD_SIZE") or (local and -(-processes // local)),
        local=(maybe_number(environ, "LOCAL_RANK"), local),
        job=_torchrun_job(environ),
    )


def _torchrun_job(environ: Environ) -> str:
    """The id that torchrun was given, without which it is "none" for all jobs, and the start."""
    given = environ.get("TORCHELASTIC_RUN_ID", "none")
    return "" if given == "none" else f"{given}.{environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _open_mpi(environ: Environ) -> Cluster | None:
    if "OMPI_COMM_WORLD_RANK" not in environ or "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    processes = _number(environ, "OMPI_COMM_WORLD_SIZE")
    local = maybe_number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    one_host = processes == local
    job = environ.get("OMPI_MCA_ess_base_jobid") or environ.get("PMIX_NAMESPACE", "")
    if one_host and not job:
        job = environ.get("PMIX_SERVER_TMPDIR", "")  # a folder of this one mpirun

    def coordinator() -> tuple[str, int]:
        if one_host:
            return "127.0.0.1", _port(job)
        # mpirun's own address or, since Open MPI 5, its host's name. Process 0 runs there too,
        # unless it was told otherwise.
        uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
        namespace = environ.get("PMIX_NAMESPACE", "")
        found = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
        found = found or re.fullmatch(r"prte(?:run)?-(.+)-\d+@\d+()", namespace)
        if found is None:
            raise UsageError(
                "mpirun: this version doesn't say where process 0 runs. Set "
                "JAX_COORDINATOR_ADDRESS=HOST:PORT, with mpirun -x JAX_COORDINATOR_ADDRESS"
            )
        return found[1] or found[2], _port(job)

    return _started(
        environ,
        "mpirun",
        coordinator,
        processes,
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        # How many there are beyond one, it doesn't say.
        hosts=1 if one_host else None,
        local=(maybe_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"), local),
        job=job,
    )


def _slurm(environ: Environ) -> Cluster | None:
    # Without SLURM_STEP_ID this is the script of sbatch or the shell of salloc, which is alone.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ:
        return None
    if (parts := maybe_number(environ, "SLURM_HET_SIZE") or 1) > 1:
        raise UsageError(
            f"srun: this is a heterogeneous job of {parts} components, of which each counts its "
            "own processes alone. Ask for all nodes in one component, or set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID for each "
            "process by hand"
        )
    processes = maybe_number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")
    hosts = maybe_number(environ, "SLURM_STEP_NUM_NODES")
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    job = f"{environ.get('SLURM_JOB_ID', '')}.{environ['SLURM_STEP_ID']}"

    def coordinator() -> tuple[str, int]:
        return "127.0.0.1" if hosts == 1 else first_node(nodes), _port(job)

    tasks = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = maybe_number(environ, "SLURM_NODEID") or 0
    local = processes if hosts == 1 else tasks[node] if node < len(tasks) else None
    return _started(
        environ,
        "srun",
        coordinator,
        processes,
        _number(environ, "SLURM_PROCID"),
        hosts=hosts,
        local=(maybe_number(environ, "SLURM_LOCALID"), local),
        job=f"{job}.{environ.get('SLURM_RESTART_COUNT', 0)}",
    )


def _hydra(environ: Environ) -> Cluster | None:
    """MPICH, Intel MPI and MVAPICH start their processes by the same program, Hydra."""
    if "PMI_RANK" not in environ or "PMI_SIZE" not in environ:
        return None
    processes, local = _number(environ, "PMI_SIZE"), maybe_number(environ, "MPI_LOCALNRANKS")

    def coordinator() -> tuple[str, int]:
        if processes == local:
            return "127.0.0.1", _port(environ.get("PMI_PORT", ""))
        raise UsageError(
            "mpiexec: it doesn't say where process 0 runs. Set JAX_COORDINATOR_ADDRESS=HOST:PORT "
            "to an address of that host, with mpiexec -genv JAX_COORDINATOR_ADDRESS HOST:PORT"
        )

    return _started(
        environ,
        "mpiexec",
        coordinator,
        processes,
        _number(environ, "PMI_RANK"),
        hosts=1 if processes == local else None,
        local=(maybe_number(environ, "MPI_LOCALRANKID"), local),
    )


def _kubernetes(environ: Environ) -> Cluster | None:
    processes = maybe_number(environ, "JAX_NUM_PROCESSES") or maybe_number(environ, "WORLD_SIZE")
    # An indexed job whose pods know nothing of each other is many jobs of one process.
    if "JOB_COMPLETION_INDEX" not in environ or processes is None:
        return None

    def coordinator() -> tuple[str, int]:
        if "MASTER_ADDR" in environ:
            return environ["MASTER_ADDR"], maybe_number(environ, "MASTER_PORT") or 29500
        raise UsageError(
            "Kubernetes: the pods don't know where process 0 runs. Give the job a headless service "
            "and set JAX_COORDINATOR_ADDRESS to JOB-0.SERVICE:PORT"
        )

    return _started(
        environ,
        "Kubernetes",
        coordinator,
        processes,
        _number(environ, "JOB_COMPLETION_INDEX"),
        hosts=processes,
        local=(0, 1),
    )


def _started(
    environ: Environ,
    launcher: str,
    coordinator: Callable[[], tuple[str, int]],
    processes: int,
    process: int,
    *,
    hosts: int | None,
    local: tuple[int | None, int | None],
    job: str = "",
) -> Cluster | None:
    """What a launcher says, with what the user set by hand in its place."""
    given = environ.get("JAX_COORDINATOR_ADDRESS")
    if given:
        address = _address(given, "JAX_COORDINATOR_ADDRESS")
    else:
        address = coordinator() if processes > 1 else ("127.0.0.1", FIRST_PORT)
    return Cluster(
        launcher,
        address,
        processes,
        process,
        hosts,
        *local,
        local_devices=_chosen_devices(environ) or _own_devices(environ, *local),
        job=environ.get(JOB) or job,
    )


def _chosen_devices(environ: Environ) -> tuple[int, ...] | None:
    chosen = environ.get("JAX_LOCAL_DEVICE_IDS")
    try:
        return tuple(int(word) for word in chosen.split(",")) if chosen else None
    except ValueError:
        raise UsageError(
            f"JAX_LOCAL_DEVICE_IDS: expected numbers such as 0,1, got {chosen!r}"
        ) from None


def _own_devices(
    environ: Environ, local_process: int | None, local_processes: int | None
) -> tuple[int, ...] | None:
    """The accelerators of this process, of those it can see; processes on a host share them out."""
    if local_process is None or (local_processes or 1) == 1:
        return None
    if any(name in environ for name in ("SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS_PER_TASK")):
        return None  # each process sees its own alone
    visible = environ.get("CUDA_VISIBLE_DEVICES") or environ.get("ROCR_VISIBLE_DEVICES")
    share = len(visible.split(",")) / (local_processes or 1) if visible else 1
    if share < 1:
        return None
    return tuple(range(int(local_process * share), int((local_process + 1) * share)))


def _tasks_per_node(text: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]


def first_node(nodes: str) -> str:
    """The first host of a SLURM node list.

    Example:
        >>> first_node("gpu[003-005,9],login"), first_node("a,b"), first_node("rack1-n[2,4]")
        ('gpu003', 'a', 'rack1-n2')
    """
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\])?([^,\[]*)", nodes)
    if found is None:
        raise UsageError(f"srun: expected a list of nodes in SLURM_STEP_NODELIST, got {nodes!r}")
    return "".join(part or "" for part in found.groups())


def _port(job: str) -> int:
    """A port that all processes of a job agree on, and other jobs likely don't."""
    digest = hashlib.sha256(job.encode()).digest()
    return FIRST_PORT + int.from_bytes(digest[:4], "big") % PORTS


def _address(text: str, name: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{name}: expected HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)


def maybe_number(environ: Environ, name: str) -> int | None:
    """A variable that is a whole number, or None where it is absent or empty."""
    return _number(environ, name) if environ.get(name) else None


def _number(environ: Environ, name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise UsageError(f"{name}: expected a whole number, got {environ.get(name)!r}") from None
