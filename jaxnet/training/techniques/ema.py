"""The technique that evaluates with a moving average of what was learnt."""

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
    """An exponential moving average, whose decay warms up.

    The decay of update `t = 0, 1, ...` is `min(decay, (1 + t) / (10 + t))`, as that of TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: the initial values, which nothing was learnt
    from, are soon forgotten, however near the decay is to 1.

    Attributes:
        values: what is averaged: floating-point leaves, in at least float32, in which small changes
            add up. Of all other leaves, which only count, it holds the newest.
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
        """The average before the first update: the values themselves, in buffers of its own."""
        # Copies, because one buffer can't be donated twice.
        return MovingAverage(jax.tree.map(jnp.copy, widened(values)), jnp.zeros((), jnp.int32))

    def moved(self, values: PyTree, decay: float) -> MovingAverage:
        """The average after one more update."""
        # 1 - (1 + t) / (10 + t), without the rounding of 1 - decay.
        rate = jnp.maximum(1 - decay, 9 / (10 + self.updates.astype(jnp.float32)))

        def move(mean: jax.Array, value: jax.Array) -> jax.Array:
            if not jnp.issubdtype(value.dtype, jnp.inexact):
                return value
            value = value.astype(mean.dtype)
            # What stays as it is stays so bit for bit, an infinity too.
            return jnp.where(value == mean, mean, mean + rate.astype(mean.dtype) * (value - mean))

        return MovingAverage(jax.tree.map(move, self.values, values), self.updates + 1)

    def like(self, values: PyTree) -> PyTree:
        """The average in the types of `values`."""
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
        return remember(state, **{MEMORY: MovingAverage.of(_learnt(state))})

    def apply_gradients(self, state, grads, aux):
        new = self.task.apply_gradients(state, grads, aux)
        average = state.memory[MEMORY]
        moved = select(self.task.takes(grads), average.moved(_learnt(new), self.decay), average)
        return remember(new, **{MEMORY: moved})

    def eval_step(self, state, batch):
        return self.task.eval_step(averaged(state), batch)

    def predict_step(self, state, batch):
        return self.task.predict_step(averaged(state), batch)

    def inference(self, state):
        return self.task.inference(averaged(state))


def with_ema(task: GradientTask, decay: float) -> GradientTask:
    """Evaluate and predict with an exponential moving average of what was learnt.

    `ema <- d * ema + (1 - d) * params` after each update, where `d` warms up from 0.1 to `decay`;
    see `MovingAverage`. (Polyak and Juditsky 1992 averaged uniformly; this form is the usual one
    since.) Floating-point variables other than parameters, such as the running statistics of batch
    normalisation, are averaged too, because averaged weights don't go with the newest statistics.
    An update that loss scaling leaves out (`mixed_precision`) doesn't move the average.

    Evaluation, prediction, and what is made of the trained network, such as a `Bundle`, take the
    average; training goes on with the parameters themselves.

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
    """The state with the average in place of what it is an average of."""
    return replace(state, **state.memory[MEMORY].like(_learnt(state)))


def _learnt(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.params, "collections": state.collections}
