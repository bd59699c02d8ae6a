from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import schedules
from jaxnet.errors import UsageError


def rates_of(name: str, steps: int, **options: Any) -> np.ndarray:
    schedule = jax.jit(schedules.schedule(name, 0.4, steps, **options))
    return np.array([schedule(jnp.int32(step)) for step in range(steps + 2)])


def half_cosine(start: float, end: float, steps: int) -> np.ndarray:
    return end + (start - end) * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, [0.4] * 12),
        ("cosine", {}, [*half_cosine(0.4, 0, 10), 0, 0]),
        ("cosine", {"end_value": 0.1}, [*half_cosine(0.4, 0.1, 10), 0.1, 0.1]),
        (
            "warmup_cosine",
            {"warmup_steps": 4, "end_value": 0.1},
            [0, 0.1, 0.2, 0.3, *half_cosine(0.4, 0.1, 6), 0.1, 0.1],
        ),
        (
            "one_cycle",
            {"pct_start": 0.4, "div_factor": 4, "final_div_factor": 10},
            [*half_cosine(0.1, 0.4, 4), *half_cosine(0.4, 0.01, 6), 0.01, 0.01],
        ),
        ("step", {"transition_steps": 5}, [0.4] * 5 + [0.04] * 5 + [0.004] * 2),
        (
            "exponential",
            {"transition_steps": 5, "decay_rate": 0.5},
            0.4 * 0.5 ** (np.arange(12) / 5),
        ),
        ("polynomial", {}, [*0.4 * (1 - np.arange(10) / 10), 0, 0]),
        (
            "polynomial",
            {"power": 2, "end_value": 0.1},
            [*0.1 + 0.3 * (1 - np.arange(10) / 10) ** 2, 0.1, 0.1],
        ),
        ("piecewise", {"boundaries": [3, 7]}, [0.4] * 3 + [0.04] * 4 + [0.004] * 5),
        (
            "piecewise",
            {"boundaries": [1, 9], "factors": [2, 0.25]},
            [0.4] + [0.8] * 8 + [0.2] * 3,
        ),
    ],
)
def test_schedules_equal_their_formulas(name: str, options: dict, expected: Any):
    np.testing.assert_allclose(rates_of(name, 10, **options), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "rate", "steps", "options", "message"),
    [
        ("cosin", 0.1, 10, {}, "did you mean 'cosine'"),
        ("cosine", -0.1, 10, {}, "learning_rate"),
        ("cosine", 0.1, 0, {}, "total_steps"),
        ("cosine", 0.1, 2.5, {}, "total_steps"),
        ("cosine", 0.1, 10, {"end": 0.1}, "did you mean 'end_value'"),
        ("warmup_cosine", 0.1, 10, {}, "needs warmup_steps="),
        ("warmup_cosine", 0.1, 10, {"warmup_steps": 10}, "below total_steps=10"),
        ("warmup_cosine", 0.1, 10, {"warmup_steps": -1}, "warmup_steps"),
        ("one_cycle", 0.1, 3, {}, "going up"),
        ("one_cycle", 0.1, 10, {"pct_start": 1.0}, "going up"),
        ("one_cycle", 0.1, 10, {"div_factor": 0}, "factors above 0"),
        ("step", 0.1, 10, {"transition_steps": 0}, "transition_steps must be above 0"),
        ("exponential", 0.1, 10, {"transition_steps": 5, "decay_rate": 0}, "decay_rate"),
        ("piecewise", 0.1, 10, {}, "needs boundaries="),
        ("piecewise", 0.1, 10, {"boundaries": [5, 2]}, "growing steps"),
        ("piecewise", 0.1, 10, {"boundaries": [0, 2]}, "from 1 on"),
        ("piecewise", 0.1, 10, {"boundaries": [5], "factors": [1, 2]}, "factor for each"),
    ],
)
def test_bad_schedules_are_refused(name: str, rate: float, steps: Any, options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        schedules.schedule(name, rate, steps, **options)
