"""Flax NNX modules as networks: split into a graph and arrays, and merged inside the traced step.

NNX keeps arrays in objects; a step needs them as pytrees. So a module's variables are taken out
once, by type: `nnx.Param` as `params`, `nnx.BatchStat` as `batch_stats`, and so on, as nested dicts
with the paths of the module's attributes. Each call merges them into a new module, which only lives
while the call is traced: a compiled step costs what that of a Linen module costs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnet.errors import InputError, UsageError
from jaxnet.switch import SWITCHES
from jaxnet.training.arguments import call_arguments
from jaxnet.training.network import Network, Variables
from jaxnet.training.state import stream

PyTree = Any
Path = tuple[Any, ...]

SEPARATOR = "/"


@dataclass(frozen=True)
class Nnx:
    """An NNX module's class and arguments: a model whose parameters depend on the seed of a run.

    Attributes:
        kind: the class; it takes an argument `rngs`.
        arguments: positional arguments.
        named: further arguments by name, without `rngs`.

    Raises:
        UsageError: it is no class of NNX modules.

    Example:
        >>> model = Nnx(nnx.Linear, (4, 3))
        >>> network = model.network
        >>> variables = network.init(jax.random.key(0), jax.numpy.ones((2, 4)))
        >>> jax.tree.map(jax.numpy.shape, variables)
        {'params': {'bias': (3,), 'kernel': (4, 3)}}
    """

    kind: type[nnx.Module]
    arguments: Sequence[Any] = ()
    named: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not (isinstance(self.kind, type) and issubclass(self.kind, nnx.Module)):
            raise UsageError(f"Nnx: expected a class of flax.nnx.Module, got {self.kind!r}")

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """A new module."""
        return self.kind(*self.arguments, **{**self.named, "rngs": rngs})

    @cached_property
    def network(self) -> Network:
        """The model as pure functions."""
        return from_class(self)


@dataclass(frozen=True)
class _Parts:
    """A module without its arrays.

    Attributes:
        graph: its structure.
        kinds: collection -> path in the collection -> path in the module.
        random: the paths of its random keys and of their counters.
    """

    graph: Any
    kinds: Mapping[str, Mapping[Path, Path]]
    random: Sequence[tuple[Path, type]]

    @staticmethod
    def of(module: nnx.Module) -> _Parts:
        graph, state = nnx.split(module)
        kinds: dict[str, dict[Path, Path]] = {"params": {}}
        random = []
        for path, variable in nnx.to_flat_state(state):
            if isinstance(variable, nnx.RngState):
                random.append((path, type(variable)))
            else:
                kinds.setdefault(_collection(type(variable)), {})[tuple(map(str, path))] = path
        return _Parts(graph, kinds, random)

    def variables(self, module: nnx.Module) -> dict[str, PyTree]:
        """The arrays of a module, by collection."""
        values = {path: variable for path, variable in nnx.to_flat_state(nnx.state(module))}
        return {
            kind: unflatten_dict({short: values[path][...] for short, path in paths.items()})
            for kind, paths in self.kinds.items()
        }

    def merged(self, variables: Variables, key: jax.Array) -> nnx.Module:
        """A module with these arrays, whose random streams are derived from a key."""
        values: dict[Path, Any] = {}
        for kind, paths in self.kinds.items():
            given = flatten_dict(variables[kind])
            values |= {path: given[short] for short, path in paths.items()}
        for path, kind in self.random:
            counts = issubclass(kind, nnx.RngCount)
            name = SEPARATOR.join(map(str, path[:-1]))
            values[path] = jax.numpy.zeros((), jax.numpy.uint32) if counts else stream(key, name)
        return nnx.merge(self.graph, nnx.from_flat_state(list(values.items())))


def from_class(model: Nnx) -> Network:
    """The network of a class: `init` makes a module with the key that it is given."""
    parts: list[_Parts] = []

    def found() -> _Parts:
        if not parts:
            parts.append(_Parts.of(nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))))
        return parts[0]

    def init(key: jax.Array, inputs: PyTree) -> Variables:
        return found().variables(model.build(nnx.Rngs(key)))

    return _network(model.kind.__name__, found, init, model)


def from_module(module: nnx.Module) -> Network:
    """The network of a module, which starts with the arrays that the module has now."""
    parts = _Parts.of(module)
    start = parts.variables(module)

    def init(key: jax.Array, inputs: PyTree) -> Variables:
        return start

    return _network(type(module).__name__, lambda: parts, init, None)


def _network(
    name: str,
    parts: Callable[[], _Parts],
    init: Callable[[jax.Array, PyTree], Variables],
    described: Nnx | None,
) -> Network:
    def apply(
        variables: Variables, inputs: PyTree, train: bool, key: jax.Array | None
    ) -> tuple[PyTree, Variables]:
        found = parts()
        module = found.merged(variables, jax.random.key(0) if key is None else key)
        before = _values(module)
        module.train() if train else module.eval()
        args, named = call_arguments(module, "__call__", inputs)
        outputs = module(*args, **named, **_switch(module, train))  # pyright: ignore[reportCallIssue]
        if not train:
            _check_unchanged(name, before, _values(module))
            return outputs, {kind: value for kind, value in variables.items() if kind != "params"}
        after = found.variables(module)
        return outputs, {kind: value for kind, value in after.items() if kind != "params"}

    return Network(init, apply, described=described)


def _switch(module: nnx.Module, train: bool) -> dict[str, bool]:
    takes = inspect.signature(type(module).__call__).parameters
    return {
        word: train == in_training
        for word, in_training in SWITCHES.items()
        if word in takes and takes[word].default in (inspect.Parameter.empty, True, False)
    }


def _values(module: nnx.Module) -> dict[Path, Any]:
    return {path: variable[...] for path, variable in nnx.to_flat_state(nnx.state(module))}


def _check_unchanged(name: str, before: Mapping[Path, Any], after: Mapping[Path, Any]) -> None:
    for path, value in before.items():
        if after[path] is not value:
            at = SEPARATOR.join(map(str, path))
            random = path[-1] == "count"
            what = f"draws random numbers ({at})" if random else f"changes {at}"
            raise InputError(
                f"{name} {what} in evaluation, in which it has to be a function of its inputs: let "
                "it depend on an attribute `deterministic` or `use_running_average`, which "
                "module.eval() sets"
            )


def _collection(kind: type) -> str:
    """The collection of a type of variables: `params`, `batch_stats`, `my_stats`."""
    if issubclass(kind, nnx.Param):
        return "params"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower() + "s"
