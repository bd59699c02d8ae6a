"""Exponential moving average (EMA) of the weights, used for evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct

from jaxnet.errors import UsageError
from jaxnet.parallel.shard_map_utils import typed_like, widened
from jaxnet.training.state import PyTree, TrainState, remember, select
from jaxnet.training.task import GradientTask
from jaxnet.training.techniques.transforms import Technique, chain, require_gradients

MEMORY = "ema"


@struct.dataclass
class MovingAverage:
    """An exponential moving average with a warm-up of its decay.

    The decay of update `t = 0, 1, ...` is `min(decay, (1 + t) / (10 + t))`, as in TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: the untrained initial values are soon forgotten,
    however close the decay is to 1.

    Attributes:
        values: the averages of floating-point leaves, in at least float32 so that small changes
            add up. Other leaves, such as counters, hold their latest value.
        updates: int32 scalar, the number of updates.

    Example:
        >>> average = MovingAverage.of(jnp.float32(0.0))
        >>> for value in (1.0, 1.0):
        ...     average = average.moved(jnp.float32(value), decay=0.999)
        >>> round(float(average.values), 4)  # 1 - 1/10 * 2/11
        0.9818
    """

    values: PyTree
    updates: jax.Array

    @staticmethod
    def of(values: PyTree) -> MovingAverage:
        """The average before the first update: a copy of `values`."""
        # Copied, because one buffer can't be donated twice.
        return MovingAverage(jax.tree.map(jnp.copy, widened(values)), jnp.zeros((), jnp.int32))

    def moved(self, values: PyTree, decay: float) -> MovingAverage:
        """The average after one more update."""
        # 1 - (1 + t) / (10 + t), without the rounding of 1 - decay.
        rate = jnp.maximum(1 - decay, 9 / (10 + self.updates.astype(jnp.float32)))

        def move(mean: jax.Array, value: jax.Array) -> jax.Array:
            if not jnp.issubdtype(value.dtype, jnp.inexact):
                return value
            value = value.astype(mean.dtype)
            # Unchanged values stay bit-identical, infinities included.
            return jnp.where(value == mean, mean, mean + rate.astype(mean.dtype) * (value - mean))

        return MovingAverage(jax.tree.map(move, self.values, values), self.updates + 1)

    def like(self, values: PyTree) -> PyTree:
        """The average, cast to the dtypes of `values`."""
        return typed_like(self.values, values)


def check_decay(decay: float, owner: str) -> None:
    """Raise `UsageError` for a decay that isn't in [0, 1)."""
    if not 0 <= decay < 1:
        raise UsageError(f"{owner}: expected a decay in [0, 1), got {decay}")


@dataclass(frozen=True)
class _Ema(Technique):
    decay: float

    def init(self, key, batch):
        state = self.task.init(key, batch)
        return remember(state, **{MEMORY: MovingAverage.of(_variables(state))})

    def apply_gradients(self, state, grads, aux):
        new = self.task.apply_gradients(state, grads, aux)
        average = state.memory[MEMORY]
        moved = select(self.task.takes(grads), average.moved(_variables(new), self.decay), average)
        return remember(new, **{MEMORY: moved})

    def eval_step(self, state, batch):
        return self.task.eval_step(averaged(state), batch)

    def predict_step(self, state, batch):
        return self.task.predict_step(averaged(state), batch)

    def inference(self, state):
        return self.task.inference(averaged(state))


def with_ema(task: GradientTask, decay: float) -> GradientTask:
    """Evaluate and predict with an exponential moving average of the weights.

    `ema <- d * ema + (1 - d) * params` after each update, where `d` warms up from 0.1 to `decay`;
    see `MovingAverage`. (Polyak and Juditsky 1992 averaged uniformly; the exponential form is the
    usual one today.) Floating-point variables other than parameters, such as batch-norm running
    statistics, are averaged too, because the latest statistics don't match averaged weights.
    Updates skipped by loss scaling (`mixed_precision`) don't move the average.

    Evaluation, prediction and exports such as a `Bundle` use the average; training continues with
    the parameters themselves.

    Raises:
        UsageError: `decay` isn't in [0, 1), or the task doesn't learn by gradient descent or has an
            average already.
    """
    require_gradients(task, "with_ema")
    check_decay(decay, "with_ema")
    if any(isinstance(one, _Ema) for one in chain(task)):
        raise UsageError("with_ema: the task has a moving average already; one is enough")
    return _Ema(task, decay)


def averaged(state: TrainState) -> TrainState:
    """The state with its parameters and collections replaced by their moving average."""
    return replace(state, **state.memory[MEMORY].like(_variables(state)))


def _variables(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.params, "collections": state.collections}
