"""Local SGD: replicas train independently and average their parameters periodically."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxnet.errors import UsageError
from jaxnet.training.state import PyTree, TrainState
from jaxnet.training.task import Inference, Task, example_weights
from jaxnet.training.techniques.guard import WholeStep
from jaxnet.training.techniques.transforms import equal_parts, require_gradients

WEIGHT = "local_sgd"

REPLICAS = (("**", ("data",)),)
"""The sharding rule that gives each device along `data` its own replicas."""


@dataclass(frozen=True)
class _LocalSgd(WholeStep):
    technique: ClassVar[str] = "local_sgd"
    # All members that take a state are overridden: the wrapped task knows no replicas.
    replicas: int
    period: int

    def init(self, key, batch):
        state = self.task.init(key, self._parts(batch, first=True))
        copies = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (self.replicas, *x.shape)), _parts_of(state)
        )
        return _with_weight(_joined(state, copies), jnp.zeros(self.replicas, jnp.float32))

    def train_step(self, state, batch):
        weight, parts = state.memory[WEIGHT], self._parts(batch)

        def local(number: jax.Array, own: PyTree, part: Any) -> Any:
            # Each replica has its own random stream.
            key = jax.random.fold_in(state.key, number)
            new, metrics = self.task.train_step(replace(_joined(state, own), key=key), part)
            return _parts_of(new), metrics

        numbers = jnp.arange(self.replicas)
        copies, metrics = jax.vmap(local)(numbers, _parts_of(_without_weight(state)), parts)
        weight += jax.vmap(example_weights)(parts).sum(axis=1)
        averages = (state.step + 1) % self.period == 0
        copies, weight = jax.lax.cond(averages, _synced, lambda *same: same, copies, weight)
        new = replace(_joined(state, copies), step=state.step + 1)
        metrics = jax.tree.map(lambda m: m.sum(axis=0).astype(m.dtype), metrics)
        return _with_weight(new, weight), metrics

    def eval_step(self, state, batch):
        return self.task.eval_step(averaged(state), batch)

    def predict_step(self, state, batch):
        return self.task.predict_step(averaged(state), batch)

    def inference(self, state: TrainState) -> Inference:
        return self.task.inference(averaged(state))  # pyright: ignore[reportAttributeAccessIssue]

    def diagnose(self, state: TrainState, batch: Any) -> str:
        return self.task.diagnose(averaged(state), batch)  # pyright: ignore[reportAttributeAccessIssue]

    def learning_rate(self, state: TrainState) -> jax.Array | None:
        first = jax.tree.map(lambda x: x[0], _parts_of(_without_weight(state)))
        return self.task.learning_rate(_joined(state, first))  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def sound(self) -> Any:
        within = self.within.sound
        if within is None:
            return None

        def all_replicas(before: TrainState, after: TrainState) -> jax.Array:
            def local(old: PyTree, new: PyTree) -> jax.Array:
                return within(_joined(before, old), _joined(after, new))

            parts = [_parts_of(_without_weight(state)) for state in (before, after)]
            return jax.vmap(local)(*parts).all()

        return all_replicas

    @property
    def after_evaluation(self) -> Any:
        after = self.task.after_evaluation  # pyright: ignore[reportAttributeAccessIssue]
        if after is None:
            return None

        def each(state: TrainState, row: Any) -> TrainState:
            def local(own: PyTree) -> PyTree:
                return _parts_of(after(_joined(state, own), row))

            copies = jax.vmap(local)(_parts_of(_without_weight(state)))
            return _with_weight(_joined(state, copies), state.memory[WEIGHT])

        return each

    def _parts(self, batch: Any, first: bool = False) -> Any:
        """The batch split among the replicas, or the first replica's part."""
        parts = equal_parts(batch, self.replicas, "local_sgd")
        return jax.tree.map(lambda x: x[0], parts) if first else parts


def local_sgd(task: Any, replicas: int, period: int = 16) -> Task[Any]:
    """Train replicas independently, each on its part of every batch, and average them regularly.

    Every `period` steps the parameters, and other variables such as running statistics, are
    averaged over the replicas, weighted by the examples that each has seen since the last average
    (McMahan et al. 2017, algorithm 1; Stich 2019). Optimizer states are not averaged. With plain
    gradient descent and a period of 1 it equals data parallel training; a longer period reduces
    communication by that factor.

    Evaluation, prediction and exports use the average. Each leaf of the state has the replica as
    leading axis, which is sharded over devices if the layout has the rule
    `jaxnet.training.techniques.local_sgd.REPLICAS`; the replicas run as one program (`jax.vmap`).

    Apply it after all other techniques except `guard_nonfinite`.

    Args:
        task: a task that learns by gradient descent.
        replicas: the number of replicas; it must divide the batch size.
        period: the number of steps between two averages.

    Raises:
        UsageError: a number isn't positive, the task doesn't learn by gradient descent, or (at
            compile time) the replicas don't divide the batch.
    """
    if replicas < 1 or period < 1:
        raise UsageError(
            f"local_sgd: expected positive numbers, got replicas={replicas}, period={period}"
        )
    if replicas == 1:
        return task
    require_gradients(task, "local_sgd")
    return _LocalSgd(task, replicas, period)


def averaged(state: TrainState) -> TrainState:
    """The state of a single network: the average of all replicas."""
    own = _mean(_parts_of(_without_weight(state)), state.memory[WEIGHT])
    return _joined(state, own)


def _synced(copies: dict[str, PyTree], weight: jax.Array) -> tuple[dict[str, PyTree], jax.Array]:
    """The replicas after averaging; each keeps its own optimizer state."""
    others = {name: part for name, part in copies.items() if name != "opt_state"}
    same = jax.tree.map(
        lambda mean, x: jnp.broadcast_to(mean, x.shape), _mean(others, weight), others
    )
    return {**copies, **same}, jnp.zeros_like(weight)


def _mean(copies: PyTree, weight: jax.Array) -> PyTree:
    """The mean over the leading axis; integers, which are counters, are those of the first."""
    total = weight.sum()
    # Right after averaging the replicas are equal.
    share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 1 / len(weight))

    def mean(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x[0]
        return jnp.tensordot(share, x.astype(jnp.float32), axes=1).astype(x.dtype)

    return jax.tree.map(mean, copies)


def _parts_of(state: TrainState) -> dict[str, PyTree]:
    """The parts of the state that each replica has a copy of."""
    names = ("params", "collections", "opt_state", "memory")
    return {name: getattr(state, name) for name in names}


def _joined(state: TrainState, own: dict[str, PyTree]) -> TrainState:
    return replace(state, **own)


def _with_weight(state: TrainState, weight: jax.Array) -> TrainState:
    return replace(state, memory={**state.memory, WEIGHT: weight})


def _without_weight(state: TrainState) -> TrainState:
    memory = {name: kept for name, kept in state.memory.items() if name != WEIGHT}
    return replace(state, memory=memory)
