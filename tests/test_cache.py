"""The compilation cache: on by default, in the user's folder, and easy to switch off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnet.cache import cache_folder

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


@pytest.mark.skipif(sys.platform != "linux", reason="names the folder that Linux uses")
def test_compiled_programs_are_kept_in_the_users_cache_folder(tmp_path):
    train(tmp_path)
    folder = tmp_path / ".cache" / "jaxnet" / "compiled"
    kept = {path.name for path in folder.iterdir()}
    assert any("train_loop" in name for name in kept)
    train(tmp_path)
    assert {path.name for path in folder.iterdir() if path.suffix != "-atime"} >= kept


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
