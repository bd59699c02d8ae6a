"""JAX's persistent compilation cache, on by default, so that the second start is quick.

It lies in the user's cache folder, and downloaded data beside it. `JAXNET_CACHE_DIR=DIR` moves
both, `JAXNET_CACHE_DIR=off` switches both off; a cache that JAX itself was told to use
(`JAX_COMPILATION_CACHE_DIR`) is left alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

from jaxnet.files import expanded


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
    """Keep compiled programs, however small and quick to compile, from one process to the next."""
    folder = cache_folder()
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
