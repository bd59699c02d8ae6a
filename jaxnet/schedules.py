"""Learning-rate schedules by name: functions from the step to the learning rate, over Optax.

What goes by the validation metric instead of the step is `jaxnet.training.reduce_on_plateau`; it
multiplies any of these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import optax

from jaxnet.errors import UsageError
from jaxnet.names import check_number, checked_options, lookup

T = TypeVar("T")


def _constant(learning_rate: float, total_steps: int) -> optax.Schedule:
    """The same learning rate all along."""
    return optax.constant_schedule(learning_rate)


def _cosine(learning_rate: float, total_steps: int, *, end_value: float = 0.0) -> optax.Schedule:
    """Down to `end_value` along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return _warmup_cosine(learning_rate, total_steps, warmup_steps=0, end_value=end_value)


def _warmup_cosine(
    learning_rate: float, total_steps: int, *, warmup_steps: int, end_value: float = 0.0
) -> optax.Schedule:
    """Linearly up from 0 in `warmup_steps`, then `cosine` over the rest."""
    if warmup_steps >= total_steps:
        raise UsageError(f"warmup_steps={warmup_steps} must be below total_steps={total_steps}")
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, total_steps, end_value
    )


def _one_cycle(
    learning_rate: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> optax.Schedule:
    """Up to `learning_rate` and down again along two half cosines (Smith and Topin 2018).

    It starts from `learning_rate / div_factor`, is highest after the share `pct_start` of the
    steps, and ends at the start divided by `final_div_factor`.
    """
    if not 0 < int(pct_start * total_steps) < total_steps:
        raise UsageError(
            f"one_cycle needs a step going up and one coming down; got pct_start={pct_start} of "
            f"total_steps={total_steps}"
        )
    if not (div_factor > 0 and final_div_factor > 0):
        raise UsageError(
            f"one_cycle needs factors above 0; got {div_factor=} and {final_div_factor=}"
        )
    return optax.cosine_onecycle_schedule(
        total_steps, learning_rate, pct_start, div_factor, final_div_factor
    )


def _step(
    learning_rate: float, total_steps: int, *, transition_steps: int, decay_rate: float = 0.1
) -> optax.Schedule:
    """Times `decay_rate` after every `transition_steps` steps, constant in between."""
    return optax.exponential_decay(learning_rate, transition_steps, decay_rate, staircase=True)


def _exponential(
    learning_rate: float, total_steps: int, *, transition_steps: int, decay_rate: float
) -> optax.Schedule:
    """`learning_rate * decay_rate ** (step / transition_steps)`."""
    return optax.exponential_decay(learning_rate, transition_steps, decay_rate)


def _polynomial(
    learning_rate: float, total_steps: int, *, power: float = 1.0, end_value: float = 0.0
) -> optax.Schedule:
    """Down to `end_value` as `(1 - step / total_steps) ** power`: along a line for power 1."""
    return optax.polynomial_schedule(learning_rate, end_value, power, total_steps)


def _piecewise(
    learning_rate: float,
    total_steps: int,
    *,
    boundaries: Sequence[int],
    factors: Sequence[float] = (),
) -> optax.Schedule:
    """Times a factor of its own, or 0.1, from each boundary on; constant in between."""
    factors = tuple(factors) or (0.1,) * len(boundaries)
    if len(factors) != len(boundaries):
        raise UsageError(
            f"piecewise needs a factor for each boundary; got boundaries={tuple(boundaries)} and "
            f"{factors=}"
        )
    if list(boundaries) != sorted(set(boundaries)) or min(boundaries, default=1) < 1:
        raise UsageError(
            f"piecewise needs boundaries that are growing steps from 1 on; got {tuple(boundaries)}"
        )
    return optax.piecewise_constant_schedule(
        learning_rate, dict(zip(boundaries, factors, strict=True))
    )


SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "warmup_cosine": _warmup_cosine,
    "one_cycle": _one_cycle,
    "step": _step,
    "exponential": _exponential,
    "polynomial": _polynomial,
    "piecewise": _piecewise,
}
"""The schedules by name: functions `(learning_rate, total_steps, **options)`."""


GIVEN = ("learning_rate", "total_steps")


def schedule(name: str, learning_rate: float, total_steps: int, **options: Any) -> optax.Schedule:
    """The schedule called `name`: a function from the step, counted from 0, to the learning rate.

    | name | course | options |
    |---|---|---|
    | constant | the same all along | |
    | cosine | down along half a cosine | end_value 0 |
    | warmup_cosine | linearly up from 0, then as cosine | warmup_steps, end_value 0 |
    | one_cycle | up, then down | pct_start 0.3, div_factor 25, final_div_factor 1e4 |
    | step | times decay_rate every transition_steps | transition_steps, decay_rate 0.1 |
    | exponential | the same, but evenly | transition_steps, decay_rate |
    | polynomial | down along a power of the steps left | power 1, end_value 0 |
    | piecewise | times a factor from each boundary on | boundaries, factors 0.1 |

    Args:
        name: one of `SCHEDULES`.
        learning_rate: the highest of the run.
        total_steps: the steps of the whole run.
        options: those of the table; one without a number has no default.

    Raises:
        UsageError: an unknown name, an unknown or missing option, or a value outside its range.

    Example:
        >>> rate = schedule("cosine", 0.1, total_steps=100)
        >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
        [0.1, 0.05, 0.0]
    """
    make = lookup(name, SCHEDULES, "schedule")
    check_number("learning_rate", learning_rate)
    if not isinstance(total_steps, int | np.integer) or total_steps < 1:
        raise UsageError(f"total_steps must be a whole number above 0; got {total_steps!r}")
    chosen = checked_options(f"schedule {name!r}", make, options, given=GIVEN)
    for option in ("transition_steps", "decay_rate"):
        if chosen.get(option) == 0:
            raise UsageError(f"{option} must be above 0")
    return relaxed(make(learning_rate, total_steps, **options))


def relaxed(function: Callable[..., T]) -> Callable[..., T]:
    """The function under JAX's standard type promotion, also where the strict one is on.

    Optax multiplies its integer step count with floats, which the strict one forbids.
    """

    @functools.wraps(function)
    def relaxed(*args: Any, **kwargs: Any) -> T:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return relaxed
