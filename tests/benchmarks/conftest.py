"""Benchmarks measure JAX, Flax and Optax as they are used, with the usual promotion of types."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True)
def _usual_promotion():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
