"""What the system's files and tools say of processors, memory and accelerators.

`root` is where the files begin: `/`, or a folder in their image.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

# A GPU's name, and the bytes of its memory in use and in all, None where nobody tells.
Gpu = tuple[str, int | None, int | None]


def nvidia_smi() -> tuple[list[Gpu], str | None]:
    """The GPUs and the driver's version as NVIDIA's tool gives them."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return [], None
    rows = [line.split(", ") for line in done.stdout.splitlines()] if not done.returncode else []
    rows = [row for row in rows if len(row) == 4]
    gpus = [(name, _mebibytes(used), _mebibytes(total)) for name, _, used, total in rows]
    return gpus, rows[0][1] if rows else None


def nvidia_files(root: Path) -> tuple[list[Gpu], str | None]:
    """The GPUs, and the driver's version, that the driver's files show without its tool."""
    driver = next(
        (word for word in _read(root / "proc/driver/nvidia/version").split() if _is_version(word)),
        None,
    )
    described = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    models = [_field(_read(path), "Model") for path in described]
    files = list((root / "dev").glob("nvidia[0-9]*"))
    return [(model or "NVIDIA GPU", None, None) for model in models or [""] * len(files)], driver


def meminfo(root: Path) -> Iterator[tuple[str, int]]:
    """Names and bytes of the system's memory: `MemTotal`, `MemAvailable`, ..."""
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kibibytes = _number(value.removesuffix("kB"))
        if kibibytes is not None:
            yield name, kibibytes * 1024


def cgroup_memory(root: Path) -> tuple[int | None, int | None]:
    """The lowest limit of memory above this process, and what is used of it; None for no limit."""
    found = []
    for folder in _cgroups(root, "memory"):
        for names in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            limit, used = (_number(_read(folder / f"memory.{name}")) for name in names)
            # The first version of cgroups writes no limit as a number near 2**63.
            if limit is not None and limit < 2**60:
                found.append((limit, used))
    return min(found, key=lambda each: each[0], default=(None, None))


def cgroup_quota(root: Path) -> float | None:
    """The fewest processors' worth of time above this process."""
    found = []
    for folder in _cgroups(root, "cpu"):
        first = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        numbers = [_number(word) for word in _read(folder / "cpu.max").split() or first]
        # No limit is the word max in the second version, and -1 in the first.
        if len(numbers) == 2 and numbers[0] is not None and numbers[1]:
            found.append(numbers[0] / numbers[1])
    return min(found, default=None)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, the innermost first, in both versions."""
    tree = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = tree / controller if controllers else tree
        inner = top / path.strip("/")
        yield from (inner, *(each for each in inner.parents if each.is_relative_to(top)))


def _field(text: str, name: str) -> str:
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _mebibytes(text: str) -> int | None:
    number = _number(text)
    return None if number is None else number * 2**20


def _is_version(word: str) -> bool:
    return word.count(".") >= 1 and word.replace(".", "").isdigit()
