"""The one adapter between model libraries and the rest: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flax.core.tracers import current_trace

from jaxnet.errors import InputError
from jaxnet.layers.experts import LOSSES
from jaxnet.switch import train_option
from jaxnet.training.arguments import call_arguments
from jaxnet.training.modes import evaluated, watched
from jaxnet.training.state import stream

PyTree = Any
Variables = Mapping[str, PyTree]
Precision = Literal["float32", "bf16", "fp16"]


def no_layers(variables: Variables, inputs: jax.Array, key: jax.Array) -> list[tuple[str, Any]]:
    """The layer outputs of a network that can't tell its layers apart: none."""
    return []


def no_parts(method: str) -> Network:
    """Refuse to run a method of a network that has none.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"a Network of plain functions has no method {method}: write it as a flax.linen.Module, or "
        "give the Network a `part`"
    )


def takes_all(inputs: np.ndarray) -> None:
    """The check of a network that takes any inputs of the right shape and type."""


@dataclass(frozen=True)
class Network:
    """A model as pure functions over pytrees.

    Attributes:
        init: `(key, inputs) -> variables`, a mapping with `"params"` and perhaps other collections.
        apply: `(variables, inputs, train, key) -> (outputs, collections)`, where `collections`
            are the updated variables other than `"params"`; in evaluation `key` is None. In
            training there may be a collection `"losses"` besides, of what layers add to the loss of
            each example, (B,).
        layers: `(variables, inputs, key) -> [(path, output), ...]` in the order in which the
            layers ran, to find the one that produced the first NaN; what goes into a layer may
            stand there too, as `"the input of PATH"`.
        module: the Linen module that it comes from, if it comes from one.
        precision: the type that `compute_in` makes it compute in.
        part: method -> another method of the model as a network, changed as this one was.
        check_inputs: raises `InputError` where inputs, a numpy array, hold a value that the network
            can't take, such as a token outside of its vocabulary; called before compiling.
    """

    init: Callable[[jax.Array, jax.Array], Variables]
    apply: Callable[[Variables, jax.Array, bool, jax.Array | None], tuple[PyTree, Variables]]
    layers: Callable[[Variables, jax.Array, jax.Array], list[tuple[str, Any]]] = no_layers
    module: nn.Module | None = None
    precision: Precision = "float32"
    part: Callable[[str], Network] = no_parts
    check_inputs: Callable[[np.ndarray], None] = takes_all


def as_network(model: nn.Module | Network, method: str = "__call__") -> Network:
    """A Linen module, or a `Network` of your own, as a `Network`.

    Args:
        model: a Linen module whose `__call__` takes `(inputs)` or `(inputs, train=...)`, where
            `train` may be called `training` or `is_training`, or `deterministic` for its opposite;
            inputs that are a tuple become the first arguments one by one, and those that are a
            dict the arguments of these names, unless the call has a single argument of another
            name: it gets the dict. It may draw from any
            random stream in training (`self.make_rng("noise")`), which are derived from one key.
            Its method `check_inputs(inputs)`, if it has one, becomes that of the network.
        method: the module's method that `apply` calls.

    Raises:
        TypeError: the model is neither.
        InputError: (when it is called) it has dropout or batch normalisation and isn't told that it
            is training; or it draws random numbers, or changes its variables, in evaluation.

    Example:
        >>> network = as_network(nn.Dense(3))
        >>> variables = network.init(jax.random.key(0), jax.numpy.ones((2, 4)))
        >>> network.apply(variables, jax.numpy.ones((2, 4)), False, None)[0].shape
        (2, 3)
    """
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a flax.linen.Module or a jaxnet Network, got {type(model).__name__}. "
            "Wrap plain functions: Network(init, apply)."
        )
    return _from_linen(model, method)


def compute_in(network: Network, precision: Precision) -> Network:
    """The network with parameters and inputs cast down, and what comes out cast back to float32.

    Example:
        >>> network = compute_in(as_network(nn.Dense(1)), "bf16")
        >>> variables = {"params": {"kernel": jnp.full((1, 1), 1.001), "bias": jnp.zeros(1)}}
        >>> print(network.apply(variables, jnp.ones((1, 1)), False, None)[0])
        [[1.]]
    """
    if precision == "float32":
        return network
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float16

    def lowered(variables, inputs):
        # Running statistics stay as they are: a moving average in 8 bits of mantissa stands still.
        params = _cast_floating(variables["params"], dtype)
        return {**variables, "params": params}, _cast_floating(inputs, dtype)

    def apply(variables, inputs, train, key):
        # Normalisation meets half-precision values with float32 statistics, on purpose.
        with jax.numpy_dtype_promotion("standard"):
            outputs, collections = network.apply(*lowered(variables, inputs), train, key)
        kept = {
            name: jax.tree.map(lambda new, old: new.astype(old.dtype), new, variables[name])
            if name in variables
            else _cast_floating(new, jnp.float32)
            for name, new in collections.items()
        }
        return _cast_floating(outputs, jnp.float32), kept

    def layers(variables, inputs, key):
        with jax.numpy_dtype_promotion("standard"):
            return network.layers(*lowered(variables, inputs), key)

    def part(method: str) -> Network:
        return compute_in(network.part(method), precision)

    return replace(network, apply=apply, layers=layers, part=part, precision=precision)


def intercepted(network: Network, interceptor: Any) -> Network:
    """The network with an interceptor (`flax.linen.intercept_methods`) around all but `init`."""

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with nn.intercept_methods(interceptor):
                return function(*args)

        return call

    def part(method: str) -> Network:
        return intercepted(network.part(method), interceptor)

    return replace(network, apply=within(network.apply), layers=within(network.layers), part=part)


def _cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _from_linen(module: nn.Module, method: str) -> Network:
    def options(train: bool) -> dict[str, Any]:
        return {**train_option(module, train, method), "method": method}

    def arguments(inputs: PyTree) -> tuple[tuple[PyTree, ...], dict[str, PyTree]]:
        return call_arguments(module, method, inputs)

    def init(key: jax.Array, inputs: jax.Array) -> Variables:
        args, named = arguments(inputs)
        return module.init({"params": key}, *args, **named, **options(False))

    name = type(module).__name__
    streams = {"dropout"}  # those that it is known to ask for

    def apply(
        variables: Variables, inputs: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[PyTree, Variables]:
        if train:
            return in_training(variables, inputs, cast(Any, key))
        with evaluated(name):
            args, named = arguments(inputs)
            outputs = module.apply(variables, *args, **named, **options(False))
        return outputs, _others(variables)

    def in_training(variables: Variables, inputs: jax.Array, key: jax.Array) -> Any:
        args, named = arguments(inputs)
        given = set(streams)
        rngs = {each: key if each == "dropout" else stream(key, each) for each in given}
        with watched() as seen:
            try:
                result = module.apply(
                    variables,
                    *args,
                    **named,
                    **options(True),
                    rngs=rngs,
                    mutable=[*_others(variables), LOSSES],
                )
            except errors.InvalidRngError:
                result = None
                if not seen.streams - given:
                    raise
        # Flax takes the stream "params" for any that it isn't given, which copies may share.
        asked = seen.streams - given - {"params"} or (seen.streams - given if not result else set())
        if asked:
            streams.update(asked)
            return in_training(variables, inputs, key)
        seen.check(name)
        return result

    def layers(variables: Variables, inputs: jax.Array, key: jax.Array) -> list[tuple[str, Any]]:
        seen: list[tuple[str, Any]] = []
        outside = current_trace()

        def record(call, args, kwargs, context):
            # What runs within a loop or a rematerialised block can't be looked at from outside.
            if context.method_name != "__call__" or current_trace() != outside:
                return call(*args, **kwargs)
            name = "/".join(context.module.path) or "the network"
            # A function between two layers is no layer: only what it hands on shows its failure.
            given = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array)]
            seen.append((f"the input of {name}", given[0] if len(given) == 1 else given))
            seen.append((name, call(*args, **kwargs)))
            return seen[-1][1]

        with nn.intercept_methods(record):
            apply(variables, inputs, True, key)
        return seen

    check_inputs = getattr(module, "check_inputs", takes_all)
    return Network(
        init,
        apply,
        layers,
        module,
        part=lambda method: _from_linen(module, method),
        check_inputs=check_inputs,
    )


def _others(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name != "params"}
