"""Networks by the name of their file, as `jaxnet plan` takes them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnet.errors import InputError, UsageError
from jaxnet.names import lookup
from jaxnet.training.network import takes_all


def network(name: str, size: str | None, options: Mapping[str, str]) -> nn.Module:
    """The module that a command line names.

    Args:
        name: a file of the zoo, `gpt2`; or with a class of it, `bert:BERTTagger`; or a class of
            your own, `package.module:Class`.
        size: one of the file's `SIZES`.
        options: arguments of the class, written as in Python.

    Raises:
        UsageError: there is no such file, class, size or argument.
    """
    file, _, wanted = name.partition(":")
    module = _imported(file)
    kind = _class(module, wanted)
    arguments: dict[str, Any] = {}
    if size is not None:
        sizes = getattr(module, "SIZES", {})
        if not sizes:
            raise UsageError(
                f"--size {size}: {file} has no named sizes; take a class of it, {file}:CLASS"
            )
        arguments.update(lookup(size, sizes, f"size of {file}"))
    fields = {each.name: None for each in dataclasses.fields(kind) if each.init}
    for field, text in options.items():
        lookup(field, fields, f"argument of {kind.__name__}")
        arguments[field] = _value(field, text)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}; give it by --options NAME VALUE") from error


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


def _imported(file: str) -> ModuleType:
    name = file if "." in file else f"jaxnet.models.{file}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not the file that was asked for, but something that it imports: that is its fault.
        if error.name not in (name, name.rpartition(".")[0]):
            raise
    raise UsageError(
        f"there is no network {file!r}: expected a file of the zoo, such as gpt2, llama, bert, "
        "vit, resnet or mlp, or package.module:Class"
    )


def _class(module: ModuleType, wanted: str) -> type[nn.Module]:
    found = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and not name.startswith("_")
    }
    if wanted:
        return lookup(wanted, found, f"class of {module.__name__}")
    own = {name: kind for name, kind in found.items() if kind.__module__ == module.__name__}
    file = module.__name__.rpartition(".")[2]
    named = [kind for name, kind in own.items() if name.lower() == file]
    if len(own) != 1 and not named:
        raise UsageError(
            f"{module.__name__} has several networks: say which, as {file}:CLASS with one of "
            f"{', '.join(own)}"
        )
    return (named or list(own.values()))[0]


def _value(field: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        message = f"--options {field} {text}: expected a value as Python writes it"
        raise UsageError(message) from error
