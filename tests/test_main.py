"""The command `jaxnet` and its subcommands, as a user calls them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jaxnet.__main__ import COMMANDS


def jaxnet(*words: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jaxnet", *words]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_what_there_is_is_listed():
    done = jaxnet()
    assert done.returncode == 0
    assert all(f"python -m jaxnet {name} " in done.stdout for name in COMMANDS)


def test_entrypoints_are_listed_as_they_are_called():
    done = jaxnet("train")
    assert done.returncode == 0
    assert "python -m jaxnet train classify    Train a classifier" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", [(name,) for name in COMMANDS] + [("train", "classify")])
def test_each_has_help_without_jax(words, tmp_path):
    """Which is why it comes at once."""
    (tmp_path / "jax.py").write_text("raise RuntimeError('imported for --help')")
    done = jaxnet(*words, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m jaxnet {' '.join(words)} " in done.stdout
