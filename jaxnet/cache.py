"""JAX's persistent compilation cache, on by default, so that the second start is quick.

It lies in the user's cache folder, and downloaded data beside it. `JAXNET_CACHE_DIR=DIR` moves
both, `JAXNET_CACHE_DIR=off` switches both off; a cache that JAX itself was told to use
(`JAX_COMPILATION_CACHE_DIR`) is left alone.

Compiled programs take 0.1 to 1 MB for a small network and tens of MB for a large one. When a
process begins to train or to predict and the cache is above 4 GB, the programs that were not used
for longest are deleted; `JAXNET_CACHE_GB=20` chooses another size, `JAXNET_CACHE_GB=inf` keeps all.
Downloaded data is never deleted.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import jax

from jaxnet.errors import UsageError
from jaxnet.files import expanded

CACHE_GB = 4.0
# A cache that is too large is brought so far below its size that the next start has nothing to do.
_PRUNED_TO = 0.9
# What JAX calls a compiled program: the function's name and a hash. Nothing else is deleted.
_PROGRAM = re.compile(r".*-[0-9a-f]{64}-cache")


def cache_folder() -> Path | None:
    """Where compiled programs are kept; None when switched off."""
    chosen = os.environ.get("JAXNET_CACHE_DIR")
    if chosen:
        return None if chosen.lower() in ("off", "0", "none") else expanded(chosen)
    return _user_folder() / "compiled"


def data_folder() -> Path | None:
    """Where downloaded data is kept; None when switched off."""
    compiled = cache_folder()
    if compiled is None:
        return None
    return (compiled if os.environ.get("JAXNET_CACHE_DIR") else compiled.parent) / "data"


def _user_folder() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "jaxnet"


def enable_compilation_cache() -> None:
    """Keep compiled programs, however small and quick to compile, from one process to the next.

    Raises:
        UsageError: `JAXNET_CACHE_GB` is no size.
    """
    folder, size = cache_folder(), _cache_bytes()
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX's own bound, `jax_compilation_cache_max_size`, lists the whole folder and reads a file for
    # each program whenever it writes one: 0.1 s with 1,000 of them, 1.6 s with 10,000. Once in a
    # process is enough.
    threading.Thread(target=prune, args=(folder, size), name="jaxnet-cache", daemon=True).start()


class _Program(NamedTuple):
    used: float
    size: int
    path: str


def prune(folder: Path, size: float) -> None:
    """Delete the programs that were not used for longest, if a cache is too large.

    When they were last used is what the file system says, which on most notes it once a day, and on
    some not at all: then the oldest go. Other processes may read, write and prune at the same time;
    a program that is gone is compiled again.

    Args:
        folder: the cache.
        size: what its programs may take, in bytes.
    """
    programs = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PROGRAM.fullmatch(entry.name):
                with suppress(OSError):
                    found = entry.stat()
                    used = max(found.st_atime, found.st_mtime)
                    programs.append(_Program(used, found.st_size, entry.path))
    total = sum(program.size for program in programs)
    if total <= size:
        return
    for program in sorted(programs):
        if total <= _PRUNED_TO * size:
            return
        total -= program.size
        with suppress(OSError):
            os.unlink(program.path)


def _cache_bytes() -> float:
    chosen = os.environ.get("JAXNET_CACHE_GB") or CACHE_GB
    try:
        size = float(chosen)
    except ValueError:
        size = float("nan")
    if not size > 0:
        raise UsageError(
            "expected JAXNET_CACHE_GB to be a number above 0, the gigabytes that compiled programs "
            f"may take, or inf, got {chosen!r}; JAXNET_CACHE_DIR=off keeps none"
        )
    return size * 1e9
