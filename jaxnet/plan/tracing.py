"""What a plan has to know of a network: traced once, whatever the layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnet import trees
from jaxnet.compute import training_shapes
from jaxnet.summary import abstract, summary
from jaxnet.switch import train_option

PyTree = Any

# A block of `jaxnet.layers.Stack`, which a pipeline distributes over its stages.
_BLOCK = re.compile(r"(?:^|/)blocks_(\d+)(?:/|$)")


@dataclass(frozen=True)
class Layer:
    """A module that was called.

    Attributes:
        kind: the name of its class.
        inputs: the shape of the first argument of its first call.
        outputs: that of what this call returned.
        methods: the methods that were called, with the shape of their first argument.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    methods: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Traced:
    """A network with a whole batch; bytes where nothing else is said.

    Attributes:
        state: the shapes of `params`, `opt_state` and `collections`.
        layers: the modules by path, in the order in which they were called.
        flops: the operations of a forward pass, by the path of the module.
        activations: what the forward pass keeps for the backward pass, likewise.
        itemsize: of a number that is computed.
    """

    state: dict[str, PyTree]
    layers: Mapping[str, Layer]
    flops: Mapping[str, int]
    activations: Mapping[str, int]
    itemsize: int

    @property
    def blocks(self) -> int:
        """The number of blocks that a pipeline can distribute over its stages."""
        return 1 + max((block_number(path) for path in self.layers), default=-1)


def trace(
    model: nn.Module, *inputs: Any, optimizer: Any, precision: str = "float32", **call: Any
) -> Traced:
    """Look at a network, without running it.

    Args:
        model: the module.
        inputs: its inputs for the whole batch, as `jaxnet.summary.summary` takes them.
        optimizer: an Optax transformation.
        precision: the type that is computed in, `"float32"` or `"bf16"`.
        call: further keyword arguments of the call.

    Example:
        >>> import optax
        >>> traced = trace(nn.Dense(8), (32, 4), optimizer=optax.sgd(0.1))
        >>> traced.layers[""].inputs, traced.layers[""].outputs, traced.flops
        ((32, 4), (32, 8), {'': 2048})
    """
    variables, kept = training_shapes(model, *inputs, **call)
    # In training a mixture's experts have fewer slots.
    call = {**train_option(model, True), **call}
    layers = _called(model, *inputs, **call)
    params = variables.pop("params", {})
    itemsize = 2 if precision == "bf16" else 4
    activations: dict[str, int] = {}
    for activation in kept:
        owner = _owner(activation.scopes, layers)
        size = _bytes(activation.array, itemsize)
        activations[owner] = activations.get(owner, 0) + size
    # The loss keeps what it makes of the outputs, as float32: the softmax, say.
    last = list(layers)[-1]
    activations[last] = activations.get(last, 0) + 4 * math.prod(layers[""].outputs)
    opt_state = jax.eval_shape(optimizer.init, params)
    return Traced(
        state={"params": params, "opt_state": opt_state, "collections": variables},
        layers=layers,
        flops={row.path: row.flops for row in summary(model, *inputs, **call).rows},
        activations=activations,
        itemsize=itemsize,
    )


def block_number(path: str) -> int:
    """The number of the block in a stack that a path leads into, -1 for none.

    Example:
        >>> block_number("stack/blocks_3/mlp/up"), block_number("embed")
        (3, -1)
    """
    found = _BLOCK.search(path)
    return int(found[1]) if found else -1


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves by path."""
    return dict(zip(jax.tree.leaves(trees.paths(tree)), jax.tree.leaves(tree), strict=True))


def _called(model: nn.Module, *inputs: Any, **call: Any) -> dict[str, Layer]:
    """The modules by path, with the shapes of what went in and came out."""
    layers: dict[str, Layer] = {}
    started: list[str] = []

    def note(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "setup":
            return method(*args, **kwargs)
        path = "/".join(context.module.path)
        started.append(path)
        result = method(*args, **kwargs)
        given = {context.method_name: _shape(args)}
        new = Layer(type(context.module).__name__, _shape(args), _shape(result), given)
        seen = layers.get(path)
        layers[path] = replace(seen, methods={**given, **seen.methods}) if seen else new
        return result

    arrays = [abstract(value) for value in inputs]
    with nn.intercept_methods(note):
        jax.eval_shape(lambda *xs: model.init(jax.random.key(0), *xs, **call), *arrays)
    # A module has its result after those within it have theirs: order them by their beginnings.
    return {path: layers[path] for path in dict.fromkeys(started)}


def _shape(values: Any) -> tuple[int, ...]:
    leaves = [leaf for leaf in jax.tree.leaves(values) if hasattr(leaf, "shape")]
    return tuple(leaves[0].shape) if leaves else ()


def _owner(scopes: Sequence[str], layers: Mapping[str, Layer]) -> str:
    """The innermost module on the way, which may hold other scopes in between."""
    path = ""
    for name in scopes:
        inner = f"{path}/{name}".lstrip("/")
        path = inner if inner in layers else path
    return path


def _bytes(array: jax.ShapeDtypeStruct, itemsize: int) -> int:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    each = min(itemsize, array.dtype.itemsize) if floating else array.dtype.itemsize
    return math.prod(array.shape) * each
