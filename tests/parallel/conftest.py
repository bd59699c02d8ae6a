"""Tests of many devices run on eight: on a CPU they are virtual (conftest.py at the root)."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True)
def eight_devices() -> None:
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, and there are {jax.device_count()}: JAX_PLATFORMS=cpu")
