"""Networks by the name of their file, as `jaxnet plan` takes them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnet.app import networks
from jaxnet.errors import InputError, UsageError
from jaxnet.training.network import takes_all


def network(name: str, size: str | None, options: Mapping[str, str]) -> nn.Module:
    """The module that a command line names; see `jaxnet.app.networks.network`.

    Args:
        name: a network such as `resnet50`, or a file of the zoo, with a class of it or without.
        size: one of the file's `SIZES`.
        options: arguments of the class, written as in Python.

    Raises:
        UsageError: there is no such file, class, size or argument.
    """
    arguments = {field: _value(field, text) for field, text in options.items()}
    return networks.network(name, arguments, size)


def inputs(
    model: nn.Module, batch_size: int, length: int | None, example: tuple[int, ...]
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of a batch: one array for each argument that the network can't do without.

    Args:
        model: the network; one with a `vocab_size` reads tokens.
        batch_size: examples.
        length: tokens of an example; by default the network's own `length`, or 1024.
        example: the shape of an example for a network that reads no tokens. Its numbers are
            float32, or int32 where the network's `check_inputs` wants integers.

    Raises:
        UsageError: the network reads no tokens, and no shape is given, or one that it refuses.
    """
    if getattr(model, "vocab_size", None) is not None:
        time = length or getattr(model, "length", None) or 1024
        array = jax.ShapeDtypeStruct((batch_size, time), jax.numpy.int32)
    elif example:
        array = jax.ShapeDtypeStruct((batch_size, *example), _number_type(model, example))
    else:
        raise UsageError(
            f"{type(model).__name__}: say what shape an example has, such as --example 224 224 3"
        )
    parameters = list(inspect.signature(type(model).__call__).parameters.values())[1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return (array,) * max(1, len(needed))


def _number_type(model: nn.Module, example: tuple[int, ...]) -> Any:
    check = getattr(model, "check_inputs", takes_all)
    refusal = ""
    for dtype in (np.float32, np.int32):
        try:
            check(np.zeros((1, *example), dtype))
            return dtype
        except InputError as error:
            refusal = str(error)
    said = " ".join(map(str, example))
    raise UsageError(f"--example {said}: {type(model).__name__}: {refusal}")


def _value(field: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        message = f"--options {field} {text}: expected a value as Python writes it"
        raise UsageError(message) from error
