"""Modules of Flax, Linen or NNX, as networks: the one place that knows the model libraries."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import flax.linen as nn
import jax
from flax import errors
from flax.core.tracers import current_trace

from jaxnet.layers.experts import LOSSES
from jaxnet.switch import train_option
from jaxnet.training.arguments import call_arguments
from jaxnet.training.modes import evaluated, watched
from jaxnet.training.network import Network, PyTree, Variables, takes_all
from jaxnet.training.state import stream

if TYPE_CHECKING:
    from flax import nnx

    from jaxnet.training.nnx_network import Nnx

    Model = nn.Module | nnx.Module | Nnx | Network
else:
    Model = Any


def as_network(model: Model, method: str = "__call__") -> Network:
    """A module of Flax, Linen or NNX, or a `Network` of your own, as a `Network`.

    Args:
        model: a Linen module whose `__call__` takes `(inputs)` or `(inputs, train=...)`, where
            `train` may be called `training` or `is_training`, or `deterministic` for its opposite;
            inputs that are a tuple become the first arguments one by one, and those that are a
            dict the arguments of these names, unless the call has a single argument of another
            name: it gets the dict. It may draw from any random stream in training
            (`self.make_rng("noise")`), which are derived from one key. Its method
            `check_inputs(inputs)`, if it has one, becomes that of the network. An NNX module starts
            with the parameters that it has; `Nnx(Class, arguments)` is initialised by the seed.
        method: the module's method that `apply` calls.

    Raises:
        TypeError: the model is none of these.
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
    if "flax.nnx" in sys.modules and (network := _from_nnx(model, method)) is not None:
        return network
    if not isinstance(model, nn.Module):
        raise TypeError(
            "expected a flax.linen.Module, a flax.nnx.Module or a jaxnet Network, got "
            f"{type(model).__name__}. Wrap plain functions: Network(init, apply)."
        )
    return _from_linen(model, method)


def _from_nnx(model: Any, method: str) -> Network | None:
    """The network of an NNX module, or of the class of one; None where it is neither."""
    from flax import nnx

    from jaxnet.training import nnx_network

    if isinstance(model, nnx.Module):
        return nnx_network.from_module(model, method)
    return nnx_network.from_class(model, method) if isinstance(model, nnx_network.Nnx) else None


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
