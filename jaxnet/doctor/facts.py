"""What is so on this machine: gathered here, judged in `checks`.

Nothing raises because something is absent: a fact that can't be had is None or empty.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from jaxnet.cluster.detect import detect
from jaxnet.doctor import system
from jaxnet.doctor.answers import Arithmetic as Arithmetic
from jaxnet.doctor.answers import Device as Device
from jaxnet.doctor.answers import Jax as Jax
from jaxnet.doctor.answers import Wrong as Wrong
from jaxnet.doctor.answers import ask
from jaxnet.errors import InputError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What brings JAX to hardware other than the processor.
PLUGINS = ("jax-cuda", "jax-rocm", "jax-metal", "libtpu")
DEVICE_VARIABLES = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CLUSTER_VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"),
    *("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_HET_SIZE"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    *("PMIX_NAMESPACE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"),
    *("JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST"),
    *("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAXNET_JOB"),
)
# The speed of a disk shows after some tens of megabytes, beyond what its cache takes at once.
PROBE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Versions:
    """What is installed.

    Attributes:
        python: the interpreter's version.
        libraries: version by name; None where a library is absent.
        plugins: version by name of what brings JAX to GPUs and TPUs.
    """

    python: str
    libraries: Mapping[str, str | None]
    plugins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def gather(cls) -> Versions:
        """Those of this environment."""
        found: dict[str, str] = {}
        for each in metadata.distributions():
            name = (each.metadata["Name"] or "").lower().replace("_", "-")
            if name in LIBRARIES or name.startswith(PLUGINS):
                # Of two with one name Python imports the first.
                found.setdefault(name, each.version)
        libraries = {name: found.pop(name, None) for name in LIBRARIES}
        return cls(platform.python_version(), libraries, dict(sorted(found.items())))


@dataclass(frozen=True)
class Gpu:
    """A GPU that the system knows of.

    Attributes:
        name: such as `"NVIDIA H100 80GB HBM3"`.
        used: bytes of its memory that are in use, by whomever; None where nobody tells.
        total: bytes of its memory.
    """

    name: str
    used: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Hardware:
    """The accelerators that the system knows of, whether or not JAX does.

    Attributes:
        gpus: NVIDIA's GPUs.
        driver: the version of their driver, such as `"550.54.15"`.
        tpus: the number of TPU chips.
        variables: what the environment says of devices, such as `JAX_PLATFORMS`.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    tpus: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Hardware:
        """Those of this machine; `root` is where its files begin."""
        found, driver = system.nvidia_smi() if root == Path("/") else ([], None)
        if not found:
            found, driver = system.nvidia_files(root)
        gpus = tuple(Gpu(*each) for each in found)
        tpus = len(list((root / "dev").glob("accel[0-9]*")))
        return cls(gpus, driver, tpus, _chosen(os.environ, DEVICE_VARIABLES))


@dataclass(frozen=True)
class Host:
    """Processors and memory; bytes.

    Attributes:
        cores: the machine's processors.
        usable: those that this process may use.
        quota: how many processors' worth of time it gets, where that is limited.
        memory: the machine's memory.
        available: what is free of it, or could be freed.
        limit: what this process may use, where that is limited (cgroups, as of a container or job).
        limit_used: what is used of the limit.
        variables: what the environment says of threads, such as `OMP_NUM_THREADS`.
    """

    cores: int
    usable: int
    quota: float | None = None
    memory: int | None = None
    available: int | None = None
    limit: int | None = None
    limit_used: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Host:
        """Those of this machine; `root` is where its files begin."""
        cores = os.cpu_count() or 1
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
        memory = dict(system.meminfo(root))
        limit, used = system.cgroup_memory(root)
        return cls(
            cores=cores,
            usable=usable,
            quota=system.cgroup_quota(root),
            memory=memory.get("MemTotal"),
            available=memory.get("MemAvailable"),
            limit=limit,
            limit_used=used,
            variables=_chosen(os.environ, THREAD_VARIABLES),
        )


@dataclass(frozen=True)
class Cache:
    """The compiled programs that are kept; `folder` None when that is switched off."""

    folder: str | None
    files: int = 0
    size: int = 0
    writable: bool = True

    @classmethod
    def gather(cls, folder: str | None) -> Cache:
        """What lies in the folder."""
        if folder is None:
            return cls(None)
        path = Path(folder)
        try:
            sizes = [file.stat().st_size for file in path.glob("*") if file.is_file()]
        except OSError:
            sizes = []
        return cls(folder, len(sizes), sum(sizes), os.access(_existing(path), os.W_OK))


@dataclass(frozen=True)
class Launch:
    """What started this process, as far as its environment says.

    Attributes:
        launcher: `"slurm"`, say; None where nothing looks like a launch of several processes.
        processes: how many there are.
        process: which one this is.
        hosts: on how many hosts they are, where the launcher says it.
        coordinator: the address at which they meet.
        variables: what of the environment speaks of a cluster.
        error: why the variables make no sense together.
    """

    launcher: str | None = None
    processes: int = 1
    process: int = 0
    hosts: int | None = None
    coordinator: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def gather(cls, environ: Mapping[str, str]) -> Launch:
        """What `jaxnet.cluster.join` makes of the environment."""
        variables = _chosen(environ, CLUSTER_VARIABLES)
        try:
            found = detect(environ)
        except InputError as error:
            return cls(variables=variables, error=str(error))
        if found is None:
            return cls(variables=variables)
        return cls(
            launcher=found.launcher,
            processes=found.processes,
            process=found.process,
            hosts=found.hosts,
            coordinator=":".join(map(str, found.coordinator)),
            variables=variables,
        )


@dataclass(frozen=True)
class Names:
    """What this host calls itself, and the addresses that this name leads to, the first first."""

    host: str
    addresses: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def gather(cls) -> Names:
        """Those of this host."""
        host = socket.gethostname()
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            return cls(host, error=str(error))
        return cls(host, tuple(dict.fromkeys(str(address[4][0]) for address in found)))


@dataclass(frozen=True)
class Disk:
    """Where runs are written.

    Attributes:
        folder: the folder.
        free: bytes.
        speed: bytes a second of a file that is written and forced out; None if it can't be.
        error: why it can't be written to.
    """

    folder: str
    free: int
    speed: float | None = None
    error: str | None = None

    @classmethod
    def gather(cls, folder: Path) -> Disk:
        """Write a file of 32 MiB into the folder, or the one in which it would lie, and delete it.

        Nothing is written where that would fill the disk.
        """
        there = _existing(folder.absolute())
        free = shutil.disk_usage(there).free
        if free < 4 * PROBE_BYTES:
            return cls(str(folder), free)
        block = os.urandom(2**20)  # a file system that compresses gains nothing by it
        try:
            with tempfile.TemporaryFile(dir=there) as file:
                begun = time.perf_counter()
                for _ in range(PROBE_BYTES // len(block)):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                seconds = time.perf_counter() - begun
        except OSError as error:
            return cls(str(folder), free, error=error.strerror or str(error))
        return cls(str(folder), free, PROBE_BYTES / seconds)


@dataclass(frozen=True)
class Facts:
    """All of it."""

    versions: Versions
    hardware: Hardware
    jax: Jax
    arithmetic: Arithmetic
    host: Host
    cache: Cache
    launch: Launch
    names: Names
    disk: Disk

    @classmethod
    def gather(cls, folder: Path) -> Facts:
        """What is so on this machine; `folder` is where runs are to be written."""
        jax, arithmetic = ask()
        return cls(
            versions=Versions.gather(),
            hardware=Hardware.gather(),
            jax=jax,
            arithmetic=arithmetic,
            host=Host.gather(),
            cache=Cache.gather(jax.cache),
            launch=Launch.gather(os.environ),
            names=Names.gather(),
            disk=Disk.gather(folder),
        )


def _chosen(environ: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: environ[name] for name in names if environ.get(name)}


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists and may be looked at."""

    def there(each: Path) -> bool:
        try:
            return each.exists()
        except OSError:
            return False

    return next(each for each in (path, *path.parents) if there(each))
