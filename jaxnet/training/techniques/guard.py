"""Techniques that wrap the whole training step.

This module has `guard_nonfinite`, which protects the state from NaN and infinite updates; another
one is `jaxnet.training.techniques.local_sgd`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from typing_extensions import override

from jaxnet.errors import UsageError
from jaxnet.training.nonfinite import all_finite
from jaxnet.training.state import PyTree, select
from jaxnet.training.task import HALT, Batch, Metrics, Steps, Task, as_task

NonfinitePolicy = Literal["stop", "skip", "raise"]
# The stop reason of each policy.
NONFINITE = {"stop": "nonfinite", "raise": "nonfinite_error"}


def _forwarded(name: str) -> Any:
    """A property that returns the wrapped task's member."""
    return property(lambda self: getattr(self.within, name))


def _rewrapped(name: str) -> Any:
    """A `map_...` member that changes the wrapped task and wraps the result again."""

    def member(self: WholeStep) -> Any:
        change_within = getattr(self.within, name)
        return change_within and (lambda change: replace(self, task=change_within(change)))

    return property(member)


@dataclass(frozen=True)
class WholeStep(Task[Any]):
    """A wrapper around any task; members that it doesn't override are those of the wrapped task.

    Attributes:
        technique: the name of the function that applies it.
        task: the wrapped task, whose state may have another structure.
    """

    technique: ClassVar[str]
    task: Steps[Any]

    @cached_property
    def within(self) -> Task[Any]:
        """The wrapped task, with all members of `Task`."""
        return as_task(self.task)

    @override
    def init(self, key: jax.Array, batch: Batch) -> Any:
        return self.task.init(key, batch)

    @override
    def train_step(self, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        return self.task.train_step(state, batch)

    @override
    def eval_step(self, state: Any, batch: Batch) -> Metrics:
        return self.task.eval_step(state, batch)

    @override
    def predict_step(self, state: Any, batch: Batch) -> PyTree:
        return self.task.predict_step(state, batch)

    after_evaluation = _forwarded("after_evaluation")
    sound = _forwarded("sound")
    prediction_inputs = _forwarded("prediction_inputs")
    inference = _forwarded("inference")
    learning_rate = _forwarded("learning_rate")
    network_inputs = _forwarded("network_inputs")
    check = _forwarded("check")
    check_inputs = _forwarded("check_inputs")
    diagnose = _forwarded("diagnose")
    map_network = _rewrapped("map_network")
    map_optimizer = _rewrapped("map_optimizer")


@dataclass(frozen=True)
class _SkipNonfinite(WholeStep):
    technique: ClassVar[str] = "guard_nonfinite"

    def train_step(self, state, batch):
        new, metrics = self.task.train_step(state, batch)
        finite = all_finite(metrics) & _still_finite(new, state)
        metrics = jax.tree.map(lambda m: jnp.where(finite, m, jnp.zeros_like(m)), metrics)
        kept = select(finite, new, replace(state, step=new.step))
        return kept, {**metrics, "skipped_steps": 1 - finite.astype(jnp.int32)}


@dataclass(frozen=True)
class _HaltOnNonfinite(WholeStep):
    """Checks the metrics in each step, which is free; `sound` checks the state."""

    technique: ClassVar[str] = "guard_nonfinite"
    reason: str

    def train_step(self, state, batch):
        new, metrics = self.task.train_step(state, batch)
        return new, {**metrics, self.reason: (~all_finite(metrics)).astype(jnp.int32)}

    def sound(self, before, after):
        finite = _still_finite(after, before)
        within = self.within.sound
        return finite & within(before, after) if within else finite


def guard_nonfinite(task: Steps[Any], policy: NonfinitePolicy) -> Task[Any]:
    """Protect the state from steps that produce NaN or infinity.

    Policies:
        `"skip"`: the step is counted but changes nothing; the history reports `skipped_steps`.
        `"stop"`: training ends with the state before the step, `stop_reason` is `"nonfinite"`, and
            the batch and that state are kept for a replay that names the first bad layer.
        `"raise"`: as `"stop"`, but `fit` raises `NonFiniteError`.

    It accepts any task and must be the outermost technique. `"stop"` and `"raise"` cost almost no
    time, and one copy of the state on the device, taken at the start of each dispatch: two states
    in all, because the best state of a large network is kept in host memory
    (`jaxnet.training.kept`). `"skip"` checks and selects the whole state in each step, which is
    noticeable for small networks.

    Raises:
        UsageError: an unknown policy.
    """
    if policy not in get_args(NonfinitePolicy):
        raise UsageError(
            f"guard_nonfinite: expected one of {', '.join(get_args(NonfinitePolicy))}, "
            f"got {policy!r}"
        )
    if policy == "skip":
        return _SkipNonfinite(task)
    return _HaltOnNonfinite(task, HALT + NONFINITE[policy])


def _still_finite(new: PyTree, old: PyTree) -> jax.Array:
    """Whether no leaf has become non-finite; some Optax states hold an infinity on purpose."""

    def check(new_leaf, old_leaf):
        if not jnp.issubdtype(new_leaf.dtype, jnp.inexact):
            return jnp.ones((), bool)
        return (jnp.isfinite(new_leaf) | ~jnp.isfinite(old_leaf)).all()

    return jnp.stack(jax.tree.leaves(jax.tree.map(check, new, old))).all()
