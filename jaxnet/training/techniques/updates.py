"""Techniques that change the update: clipping, per-layer learning rates, reduce on plateau.

`jaxnet.training.techniques.transforms` has more of them.
"""

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
    """Clip each element of the gradient to [-limit, limit].

    Unlike `clip` it changes the gradient's direction (Goodfellow et al. 2016, section 10.11.1).

    Raises:
        UsageError: `limit` isn't positive, or the task doesn't learn by gradient descent.
    """
    require_gradients(task, "clip_values")
    if not limit > 0:
        raise UsageError(f"clip_values: expected a positive limit, got {limit}")
    return task.map_optimizer(lambda inner: optax.chain(optax.clip(limit), inner))


def scale_by_path(task: GradientTask, rates: Mapping[str, float]) -> GradientTask:
    """Scale the learning rate per parameter, by path patterns (layer-wise learning rates).

    The factor multiplies the whole update, including decoupled weight decay, as in PyTorch's
    parameter groups.

    Args:
        task: a task that learns by gradient descent.
        rates: pattern of `jaxnet.trees` -> factor, such as `{"encoder/**": 0.1}`. The first
            matching pattern decides; parameters that match none have the factor 1.

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
        factors(params)  # checks the patterns
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
    """Reduce the learning rate when an evaluation metric has stopped improving.

    The factor multiplies the learning rate of the optimizer and its schedule. It is part of the
    optimizer state, so it is saved in checkpoints and changes without recompiling; the history has
    it as `learning_rate_scale`.

    Raises:
        UsageError: the task already has this technique or doesn't learn by gradient descent; or
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
