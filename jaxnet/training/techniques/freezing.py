"""Freezing: train some layers and keep the others unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxnet import trees
from jaxnet.training.modes import FROZEN, keeping
from jaxnet.training.network import Network, intercepted, run_within
from jaxnet.training.state import PyTree
from jaxnet.training.task import GradientTask, Optimizer
from jaxnet.training.techniques.chosen import chosen
from jaxnet.training.techniques.transforms import Technique, require_gradients


@dataclass(frozen=True)
class Choice:
    """The set of frozen variables.

    Attributes:
        patterns: path patterns (`jaxnet.trees`).
        others: whether the matching variables are trained and all others frozen.
    """

    patterns: tuple[str, ...]
    others: bool

    def params(self, params: PyTree) -> PyTree:
        """A boolean mask over the parameters, True where frozen.

        Raises:
            InputError: a pattern matches no parameter.
        """
        does = "what trains is" if self.others else "frozen are"
        matched = chosen(does, params, *self.patterns)
        return jax.tree.map(lambda matches: matches != self.others, matched)

    def layer(self, path: str, names: list[str]) -> bool | None:
        """Whether all of a layer's own parameters are frozen; None if it has none."""
        return all(self.has(_joined(path, name)) for name in names) if names else None

    def stays(self, path: str, names: Mapping[str, list[str]]) -> bool:
        """Whether a layer with these variables by collection is frozen: see `variables`."""
        still = self.layer(path, names.get("params", []))
        others = [
            _joined(path, name) for kind, each in names.items() if kind != "params" for name in each
        ]
        return all(map(self.has, others)) if still is None else still

    def has(self, path: str) -> bool:
        """Whether the variable at `path` is frozen."""
        return any(trees.matches(each, path) for each in self.patterns) != self.others

    def variables(self, collections: PyTree, params: PyTree) -> PyTree:
        """A boolean mask over the network's other variables, True where frozen.

        They are frozen if all parameters of their layer are; in a layer without parameters their
        own path decides.
        """
        layers: dict[str, list[str]] = {}
        for path in trees.named(params):
            layer, _, name = path.rpartition("/")
            layers.setdefault(layer, []).append(name)

        def frozen(path: str) -> bool:
            layer = path.rpartition("/")[0]
            own = self.layer(layer, layers.get(layer, []))
            return self.has(path) if own is None else own

        return {kind: jax.tree.map(frozen, trees.paths(tree)) for kind, tree in collections.items()}


def freeze(task: GradientTask, *patterns: str) -> GradientTask:
    """Freeze the parameters whose path matches a pattern; they stay bit-identical.

    The optimizer never sees them: they are excluded from clipping and weight decay, and no moments
    are allocated for them. Patterns are those of `jaxnet.trees`: `"Dense_0/**"`, `"**/bias"`.

    A layer with all parameters frozen keeps its other variables too, and its batch normalisation
    uses running statistics in training as in evaluation: a frozen layer computes one fixed
    function, as in Keras, and as after `eval()` in PyTorch. (A layer without parameters is frozen
    if its variables match, such as `"BatchNorm_0/mean"`.) Dropout stays active. For a `Network` of
    plain functions only the variables are frozen.

    Raises:
        InputError: a pattern matches no parameter (when the state is initialised).
        UsageError: the task doesn't learn by gradient descent.
    """
    return _freeze(task, "freeze", Choice(patterns, others=False))


def freeze_except(task: GradientTask, *patterns: str) -> GradientTask:
    """Train only the parameters whose path matches a pattern; see `freeze`."""
    return _freeze(task, "freeze_except", Choice(patterns, others=True))


@dataclass(frozen=True)
class _Freeze(Technique):
    frozen: Choice

    def objective(self, params, collections, batch, key):
        # So that outer techniques such as `clip` see no gradients of frozen parameters.
        params = jax.tree.map(
            lambda frozen, p: jax.lax.stop_gradient(p) if frozen else p,
            self.frozen.params(params),
            params,
        )
        loss, aux = self.task.objective(params, collections, batch, key)
        kept = jax.tree.map(
            lambda frozen, new, old: old if frozen else new,
            self.frozen.variables(collections, params),
            aux.collections,
            collections,
        )
        return loss, replace(aux, collections=kept)

    def apply_gradients(self, state, grads, aux):
        new = self.task.apply_gradients(state, grads, aux)
        # Adding an update of 0 would turn -0.0 into 0.0.
        params = jax.tree.map(
            lambda frozen, n, old: old if frozen else n,
            self.frozen.params(state.params),
            new.params,
            state.params,
        )
        return replace(new, params=params)


def _freeze(task: GradientTask, name: str, frozen: Choice) -> GradientTask:
    require_gradients(task, name)

    def labels(params: PyTree) -> PyTree:
        return jax.tree.map(lambda frozen: "frozen" if frozen else "train", frozen.params(params))

    def partition(inner: Optimizer) -> Optimizer:
        return optax.partition(
            {"train": inner, "frozen": optax.set_to_zero()},
            labels,
            mask_compatible_extra_args=True,
        )

    def change(network: Network) -> Network:
        network = run_within(network, lambda: keeping(frozen.stays))
        return intercepted(network, by_running_statistics(frozen))

    return _Freeze(task.map_optimizer(partition).map_network(change), frozen)


def by_running_statistics(frozen: Choice) -> Any:
    """An interceptor (`flax.linen.intercept_methods`): frozen layers use running statistics."""

    def interceptor(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module: Any = context.module
        moves = not getattr(module, "use_running_average", True)
        if context.method_name != "__call__" or not moves or not _stays(frozen, module):
            return call(*args, **kwargs)
        given = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
        given.arguments.pop("use_running_average", None)
        same = module.clone(parent=module.scope, use_running_average=FROZEN)
        return same(*given.args[1:], **given.kwargs)

    return interceptor


def _stays(frozen: Choice, module: nn.Module) -> bool:
    """Whether a bound module is frozen."""
    names = {kind: _own(tree) for kind, tree in module.variables.items()}
    return frozen.stays("/".join(module.path), names)


def _own(tree: Mapping[str, Any]) -> list[str]:
    """The names of a layer's own variables, without those of its submodules."""
    return [name for name, value in tree.items() if not isinstance(value, Mapping)]


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
