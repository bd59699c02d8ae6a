"""The one adapter between model libraries and the rest: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError

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
        described: the `Nnx` that it comes from, if it comes from one: what a bundle keeps.
    """

    init: Callable[[jax.Array, jax.Array], Variables]
    apply: Callable[[Variables, jax.Array, bool, jax.Array | None], tuple[PyTree, Variables]]
    layers: Callable[[Variables, jax.Array, jax.Array], list[tuple[str, Any]]] = no_layers
    module: nn.Module | None = None
    precision: Precision = "float32"
    part: Callable[[str], Network] = no_parts
    check_inputs: Callable[[np.ndarray], None] = takes_all
    described: Any = None


def compute_in(network: Network, precision: Precision) -> Network:
    """The network with parameters and inputs cast down, and what comes out cast back to float32.

    Example:
        >>> from jaxnet.training import as_network
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
    return run_within(network, lambda: nn.intercept_methods(interceptor))


def run_within(network: Network, context: Callable[[], AbstractContextManager[Any]]) -> Network:
    """The network which runs, but for `init`, within a context."""

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with context():
                return function(*args)

        return call

    def part(method: str) -> Network:
        return run_within(network.part(method), context)

    return replace(network, apply=within(network.apply), layers=within(network.layers), part=part)


def _cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
