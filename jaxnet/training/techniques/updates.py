"""Techniques that act on the update: further ones stand in `transforms`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.errors import UsageError
from jaxnet.metrics import Mean
from jaxnet.training.plateau import Plateau, ReduceOnPlateau
from jaxnet.training.state import PyTree, TrainState
from jaxnet.training.task import AfterEvaluation, GradientTask
from jaxnet.training.techniques.chosen import chosen
from jaxnet.training.techniques.transforms import Technique, chain, require_gradients


def clip_values(task: GradientTask, limit: float) -> GradientTask:
    """Cut each element of the gradient off at `limit` and `-limit`.

    Unlike `clip` it changes the direction (Goodfellow et al. 2016, section 10.11.1).

    Raises:
        UsageError: `limit` isn't positive, or the task doesn't learn by gradient descent.
    """
    require_gradients(task, "clip_values")
    if not limit > 0:
        raise UsageError(f"clip_values: expected a positive limit, got {limit}")
    return task.map_optimizer(lambda inner: optax.chain(optax.clip(limit), inner))


def scale_by_path(task: GradientTask, rates: Mapping[str, float]) -> GradientTask:
    """Multiply the learning rate of parameters by a factor that goes by their path.

    It multiplies the whole update, so that decoupled weight decay shrinks along, as with the
    parameter groups of PyTorch.

    Args:
        task: a task that learns by gradient descent.
        rates: pattern of `jaxnet.trees` -> factor, such as `{"encoder/**": 0.1}`. The first
            pattern that matches counts; what none matches keeps the factor 1.

    Raises:
        InputError: a pattern matches no parameter (when the state is initialised).
        UsageError: a factor isn't positive, or the task doesn't learn by gradient descent.
    """
    require_gradients(task, "scale_by_path")
    for pattern, factor in rates.items():
        if not 0 < factor < float("inf"):
            raise UsageError(
                f"scale_by_path: expected a positive factor for {pattern!r}, got {factor}. "
                "freeze(task, PATTERN) is what keeps parameters as they are."
            )

    def factors(tree: PyTree) -> PyTree:
        scaled = jax.tree.map(lambda _: 1.0, tree)
        for pattern, factor in reversed(list(rates.items())):
            mask = chosen(f"the learning rate is {factor:g} times as high for", tree, pattern)
            scaled = jax.tree.map(lambda s, m, f=factor: f if m else s, scaled, mask)
        return scaled

    def init(params: PyTree) -> optax.EmptyState:
        factors(params)  # which checks the patterns
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, factors(updates)), state

    scale = optax.GradientTransformation(init, update)
    return task.map_optimizer(lambda inner: optax.chain(inner, scale))


@dataclass(frozen=True)
class _Plateau(Technique):
    rule: ReduceOnPlateau

    def gradients(self, objective, state, batch):
        grads, aux = self.task.gradients(objective, state, batch)
        scale = Mean(total=_scale_of(state), count=jnp.ones(()))
        return grads, replace(aux, metrics={**aux.metrics, "learning_rate_scale": scale})

    def learning_rate(self, state):
        rate = self.task.learning_rate(state)
        return None if rate is None else rate * _scale_of(state)

    @property
    def after_evaluation(self) -> AfterEvaluation:
        inner = self.task.after_evaluation

        def after(state: TrainState, row: Mapping[str, jax.Array]) -> TrainState:
            state = inner(state, row) if inner else state
            rule = self.rule.resolved(list(row), getattr(row, "declared", {}))
            value = row[rule.monitor or "loss"]

            def update(node: Any) -> Any:
                return rule.update(node, value) if _remembers(node) else node

            opt_state = jax.tree.map(update, state.opt_state, is_leaf=_remembers)
            return replace(state, opt_state=opt_state)

        return after


def reduce_on_plateau(task: GradientTask, rule: ReduceOnPlateau) -> GradientTask:
    """Lower the learning rate when a metric of the evaluation has stopped improving.

    The factor multiplies whatever the optimizer and its schedule give. It lies in the optimizer's
    state, so that it is part of every checkpoint and changes without a compile, and is the column
    `learning_rate_scale` of the history.

    Raises:
        UsageError: the task reduces on a plateau already or doesn't learn by gradient descent; or
            the metric isn't measured (when training starts).
    """
    require_gradients(task, "reduce_on_plateau")
    if any(isinstance(one, _Plateau) for one in chain(task)):
        raise UsageError("reduce_on_plateau: the task does so already; one rule is enough")

    def init(params: PyTree) -> Plateau:
        return rule.init()

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    scale = optax.GradientTransformation(init, update)
    return _Plateau(task.map_optimizer(lambda inner: optax.chain(inner, scale)), rule)


def _scale_of(state: TrainState) -> jax.Array:
    nodes = jax.tree.leaves(state.opt_state, is_leaf=_remembers)
    (memory,) = [node for node in nodes if _remembers(node)]
    return memory.scale


def _remembers(node: Any) -> bool:
    return isinstance(node, Plateau)
