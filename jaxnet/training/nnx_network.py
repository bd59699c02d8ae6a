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
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from flax.core.tracers import current_trace
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnet.errors import InputError, UsageError
from jaxnet.switch import SWITCHES
from jaxnet.training.arguments import call_arguments
from jaxnet.training.modes import frozen_layers
from jaxnet.training.network import Network, Variables, takes_all
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
        UsageError: it is no class of NNX modules, or it takes no `rngs`.

    Example:
        >>> network = from_class(Nnx(nnx.Linear, (4, 3)))
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
        takes = inspect.signature(self.kind.__init__).parameters.values()
        if not any(each.name == "rngs" or each.kind is each.VAR_KEYWORD for each in takes):
            raise UsageError(
                f"Nnx: {self.kind.__name__} takes no argument `rngs`, from which it would make its "
                "parameters: write a class that does, or give a ready module in place of Nnx(...)"
            )

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """A new module."""
        return self.kind(*self.arguments, **{**self.named, "rngs": rngs})


@dataclass(frozen=True)
class _Parts:
    """A module without its arrays.

    Attributes:
        graph: its structure.
        kinds: collection -> path in the collection -> path in the module.
        random: the paths, types and shapes of its random keys and of their counters: layers that
            `nnx.vmap` made have one for each.
    """

    graph: Any
    kinds: Mapping[str, Mapping[Path, Path]]
    random: Sequence[tuple[Path, type, tuple[int, ...]]]

    @staticmethod
    def of(module: nnx.Module) -> _Parts:
        graph, state = nnx.split(module)
        kinds: dict[str, dict[Path, Path]] = {"params": {}}
        random = []
        for path, variable in nnx.to_flat_state(state):
            if isinstance(variable, nnx.RngState):
                random.append((path, type(variable), variable.get_value().shape))
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
        for path, kind, shape in self.random:
            if issubclass(kind, nnx.RngCount):
                values[path] = jax.numpy.zeros(shape, jax.numpy.uint32)
            else:
                own = stream(key, _joined(path[:-1]))
                values[path] = jax.random.split(own, shape) if shape else own
        return nnx.merge(self.graph, nnx.from_flat_state(list(values.items())))

    def own(self, layer: Path) -> dict[str, list[str]]:
        """The names of a layer's own variables by collection, without those of its submodules."""
        return {
            kind: [short[-1] for short in paths if short[:-1] == layer]
            for kind, paths in self.kinds.items()
        }


def from_class(model: Nnx, method: str = "__call__") -> Network:
    """The network of a class: `init` makes a module with the key that it is given."""
    parts: list[_Parts] = []

    def found() -> _Parts:
        if not parts:
            parts.append(_Parts.of(nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))))
        return parts[0]

    def init(key: jax.Array, inputs: PyTree) -> Variables:
        return found().variables(model.build(nnx.Rngs(key)))

    def part(method: str) -> Network:
        return from_class(model, method)

    def check_inputs(inputs: Any) -> None:
        module = nnx.eval_shape(lambda: model.build(nnx.Rngs(0)))
        getattr(module, "check_inputs", takes_all)(inputs)

    form = _Form(model.kind, found, method)
    return Network(
        init,
        form.apply,
        form.layers,
        part=part,
        check_inputs=check_inputs,
        described=model,
    )


def from_module(module: nnx.Module, method: str = "__call__") -> Network:
    """The network of a module, which starts with the arrays that the module has now."""
    parts = _Parts.of(module)
    start = parts.variables(module)

    def init(key: jax.Array, inputs: PyTree) -> Variables:
        return start

    def part(method: str) -> Network:
        return from_module(module, method)

    form = _Form(type(module), lambda: parts, method)
    checks = getattr(module, "check_inputs", takes_all)
    return Network(init, form.apply, form.layers, part=part, check_inputs=checks)


@dataclass(frozen=True)
class _Form:
    """What a module computes: its class, its parts, and the method that is called."""

    kind: type[nnx.Module]
    parts: Callable[[], _Parts]
    method: str

    def apply(
        self, variables: Variables, inputs: PyTree, train: bool, key: jax.Array | None
    ) -> tuple[PyTree, Variables]:
        """See `Network.apply`."""
        return self._run(variables, inputs, train, key)

    def layers(self, variables: Variables, inputs: PyTree, key: jax.Array) -> list[tuple[str, Any]]:
        """See `Network.layers`."""
        seen: list[tuple[str, Any]] = []
        self._run(variables, inputs, True, key, partial(_record, seen))
        return seen

    def _run(
        self,
        variables: Variables,
        inputs: PyTree,
        train: bool,
        key: jax.Array | None,
        prepare: Callable[[nnx.Module], None] = lambda module: None,
    ) -> tuple[PyTree, Variables]:
        parts, key = self.parts(), jax.random.key(0) if key is None else key
        module = parts.merged(variables, key)
        module.train() if train else module.eval()
        _keep_frozen(module, parts)
        prepare(module)
        args, named = call_arguments(module, self.method, inputs)
        named = {**named, **_switch(self.kind, self.method, train)}
        rngs = nnx.Rngs(stream(key, "rngs"))
        if _draws_from_argument(self.kind, self.method, train):
            named["rngs"] = rngs
        before = _values(module) | _values(rngs)
        outputs = getattr(module, self.method)(*args, **named)
        after = parts.variables(module)
        if not train:
            _check_unchanged(self.kind.__name__, before, _values(module) | _values(rngs))
            after = variables
        return outputs, {kind: value for kind, value in after.items() if kind != "params"}


def _switch(kind: type, method: str, train: bool) -> dict[str, bool]:
    takes = inspect.signature(getattr(kind, method)).parameters
    return {
        word: train == in_training
        for word, in_training in SWITCHES.items()
        if word in takes and takes[word].default in (inspect.Parameter.empty, True, False, None)
    }


def _draws_from_argument(kind: type, method: str, train: bool) -> bool:
    """Whether a call is given `rngs`: in evaluation only one that can't do without."""
    rngs = inspect.signature(getattr(kind, method)).parameters.get("rngs")
    return rngs is not None and (train or rngs.default is rngs.empty)


def _keep_frozen(module: nnx.Module, parts: _Parts) -> None:
    """Let frozen layers use their running statistics."""
    if (stays := frozen_layers()) is None:
        return
    layer: Any
    for path, layer in nnx.iter_modules(module):
        place: Path = tuple(map(str, path))
        if hasattr(layer, "use_running_average") and stays(_joined(place), parts.own(place)):
            layer.use_running_average = True


def _record(seen: list[tuple[str, Any]], module: nnx.Module) -> None:
    """Let each layer of a module note what goes into it and what comes out.

    A layer is called as a method of its class, so each gets a class of its own for this one call.
    """
    outside = current_trace()

    def noting(kind: Any, name: str) -> type:
        def call(self: Any, *args: Any, **named: Any) -> Any:
            # What runs within a loop or a rematerialised block can't be looked at from outside.
            if current_trace() != outside:
                return kind.__call__(self, *args, **named)
            given = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array)]
            seen.append((f"the input of {name}", given[0] if len(given) == 1 else given))
            seen.append((name, kind.__call__(self, *args, **named)))
            return seen[-1][1]

        return type(kind)(kind.__name__, (kind,), {"__call__": call})

    for path, layer in list(nnx.iter_modules(module)):
        if callable(layer):
            layer.__class__ = noting(type(layer), _joined(path) or "the network")


def _values(node: Any) -> dict[Path, Any]:
    return {path: variable[...] for path, variable in nnx.to_flat_state(nnx.state(node))}


def _check_unchanged(name: str, before: Mapping[Path, Any], after: Mapping[Path, Any]) -> None:
    for path, value in before.items():
        if after[path] is not value:
            at = _joined(path)
            random = path[-1] == "count"
            what = f"draws random numbers ({at})" if random else f"changes {at}"
            raise InputError(
                f"{name} {what} in evaluation, in which it has to be a function of its inputs: let "
                "it depend on an attribute `deterministic` or `use_running_average`, which "
                "module.eval() sets"
            )


def _joined(path: Path) -> str:
    return SEPARATOR.join(map(str, path))


def _collection(kind: type) -> str:
    """The collection of a type of variables: `params`, `batch_stats`, `my_stats`."""
    if issubclass(kind, nnx.Param):
        return "params"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower() + "s"
