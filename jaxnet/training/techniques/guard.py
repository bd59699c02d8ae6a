"""Techniques that act on the step as a whole.

Here is the one that keeps a step that isn't finite from spoiling what was learnt; another one is in
`jaxnet.training.techniques.local_sgd`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

from jaxnet.errors import UsageError
from jaxnet.training.nonfinite import all_finite
from jaxnet.training.state import PyTree, select
from jaxnet.training.task import HALT, Batch, Metrics, Steps, Task, as_task

NonfinitePolicy = Literal["stop", "skip", "raise"]
# Why training ends, by policy.
NONFINITE = {"stop": "nonfinite", "raise": "nonfinite_error"}


def _handed_on(name: str) -> Any:
    """A member of `Task` that is the one of the task within."""
    return property(lambda self: getattr(self.within, name))


def _around(name: str) -> Any:
    """A member that changes the task within, and puts the technique around it again."""

    def member(self: WholeStep) -> Any:
        change_within = getattr(self.within, name)
        return change_within and (lambda change: replace(self, task=change_within(change)))

    return property(member)


@dataclass(frozen=True)
class WholeStep(Task[Any]):
    """A task around any task, which hands on all that it doesn't change.

    Attributes:
        technique: the name of the function that puts it around a task.
        task: the task within, whose state may be another one.
    """

    technique: ClassVar[str]
    task: Steps[Any]

    @cached_property
    def within(self) -> Task[Any]:
        """The task within, with all members of `Task`."""
        return as_task(self.task)

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Steps`."""
        return self.task.init(key, batch)

    def train_step(self, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        """See `Steps`."""
        return self.task.train_step(state, batch)

    def eval_step(self, state: Any, batch: Batch) -> Metrics:
        """See `Steps`."""
        return self.task.eval_step(state, batch)

    def predict_step(self, state: Any, batch: Batch) -> PyTree:
        """See `Steps`."""
        return self.task.predict_step(state, batch)

    after_evaluation = _handed_on("after_evaluation")
    sound = _handed_on("sound")
    prediction_inputs = _handed_on("prediction_inputs")
    inference = _handed_on("inference")
    learning_rate = _handed_on("learning_rate")
    network_inputs = _handed_on("network_inputs")
    check = _handed_on("check")
    check_inputs = _handed_on("check_inputs")
    diagnose = _handed_on("diagnose")
    map_network = _around("map_network")
    map_optimizer = _around("map_optimizer")


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
    """Looks at the metrics of each step, which is free, and leaves the state to `sound`."""

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
    """Keep a step that gives a NaN or an infinity from spoiling the state.

    Policies:
        `"skip"`: the step counts but changes nothing; `skipped_steps` in the history counts them.
        `"stop"`: training ends with the state before the step, `stop_reason` is `"nonfinite"`, and
            the batch and that state are kept for a replay that names the first bad layer.
        `"raise"`: the same, but `fit` raises `NonFiniteError`.

    It takes any task, and has to be the outermost technique. `"stop"` and `"raise"` cost no time to
    speak of, and a copy of the state on the device, from the beginning of each dispatch: with the
    state itself that is two, because the best state of a large network is kept in the host's memory
    (`jaxnet.training.kept`). `"skip"` checks and selects the whole state in each step, which a
    small network feels.

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
    """No leaf has become non-finite; Optax keeps an infinity in some states on purpose."""

    def check(new_leaf, old_leaf):
        if not jnp.issubdtype(new_leaf.dtype, jnp.inexact):
            return jnp.ones((), bool)
        return (jnp.isfinite(new_leaf) | ~jnp.isfinite(old_leaf)).all()

    return jnp.stack(jax.tree.leaves(jax.tree.map(check, new, old))).all()
