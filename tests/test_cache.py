"""The compilation cache: on by default, in the user's folder, and easy to switch off."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnet.cache import cache_folder, enable_compilation_cache, prune
from jaxnet.errors import UsageError

TRAIN = """
import flax.linen as nn, numpy as np, optax
from jaxnet import Supervised, Trainer, losses
data = np.ones((8, 3), np.float32), np.zeros(8, np.int32)
Trainer(Supervised(nn.Dense(2), losses.cross_entropy, optax.sgd(0.1))).fit(data, epochs=1)
"""


def train(home: Path, **environment: str) -> None:
    kept = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    subprocess.run(
        [sys.executable, "-c", TRAIN], check=True, env={**kept, "HOME": str(home), **environment}
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names the folder that Linux uses")
def test_compiled_programs_are_kept_in_the_users_cache_folder(tmp_path):
    train(tmp_path)
    folder = tmp_path / ".cache" / "jaxnet" / "compiled"
    kept = {path.name for path in folder.iterdir()}
    assert any("train_loop" in name for name in kept)
    stale = program(folder, "jit_stale", size=3_000_000, used=1)
    train(tmp_path)
    assert {path.name for path in folder.iterdir()} > kept
    train(tmp_path, JAXNET_CACHE_GB="0.002")
    assert not stale.exists()
    assert {path.name for path in folder.iterdir()} >= kept


@pytest.mark.slow
def test_it_can_be_switched_off_moved_or_left_to_jax(tmp_path):
    train(tmp_path, JAXNET_CACHE_DIR="off")
    assert not list(tmp_path.iterdir())
    train(tmp_path, JAXNET_CACHE_DIR=str(tmp_path / "mine"))
    assert list((tmp_path / "mine").iterdir())
    train(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
    assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("off", ["off", "0", "NONE"])
def test_words_that_switch_it_off(off, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_DIR", off)
    assert cache_folder() is None


def program(folder: Path, name: str, size: int, used: float) -> Path:
    """A file such as JAX writes, last used so many seconds after 1970."""
    path = folder / f"{name}-{hashlib.sha256(name.encode()).hexdigest()}-cache"
    path.write_bytes(bytes(size))
    os.utime(path, (used, 0))
    return path


def test_a_cache_that_is_too_large_loses_what_was_not_used_for_longest(tmp_path):
    programs = [program(tmp_path, f"jit_{i}", 100, used) for i, used in enumerate([5, 1, 9, 7, 3])]
    others = [tmp_path / "data", tmp_path / "notes-cache", tmp_path / "jit_f-abc-cache"]
    others[0].mkdir()
    for path in others[1:]:
        path.write_bytes(bytes(10_000))
        os.utime(path, (0, 0))

    def left() -> list[int]:
        return [i for i, path in enumerate(programs) if path.exists()]

    prune(tmp_path, 500)
    assert left() == [0, 1, 2, 3, 4]
    # A little below, so that one program more is no reason to look for others to delete.
    prune(tmp_path, 499)
    assert left() == [0, 2, 3, 4]
    prune(tmp_path, 250)
    assert left() == [2, 3]
    prune(tmp_path, 1)
    assert left() == []
    assert all(path.exists() for path in others)


def test_a_cache_that_is_not_there_or_is_being_pruned_by_another_process_is_no_error(
    tmp_path, monkeypatch
):
    prune(tmp_path / "absent", 1)
    gone = program(tmp_path, "jit_f", 100, 1)

    def unlink(path: str) -> None:
        os.remove(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "unlink", unlink)
    prune(tmp_path, 1)
    assert not gone.exists()


@pytest.mark.parametrize("size", ["0", "-1", "much", "nan"])
def test_a_size_that_is_none_is_refused(size, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_GB", size)
    with pytest.raises(UsageError, match=f"expected JAXNET_CACHE_GB .* got '{size}'"):
        enable_compilation_cache()
