"""Linen modules as JSON: where the class is to be found, and its fields.

Reading it can make Linen modules and nothing else: functions are taken by name from the tables of
`jaxnet.layers`, classes only if they are Linen modules, from modules that are installed.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

import jaxnet
from jaxnet.errors import InputError
from jaxnet.layers.activations import ACTIVATIONS
from jaxnet.layers.initializers import INITIALIZERS
from jaxnet.names import lookup

JSON = Any

log = logging.getLogger("jaxnet")

_FUNCTIONS: Mapping[str, Mapping[str, Any]] = {
    "activation": ACTIVATIONS,
    "initializer": INITIALIZERS,
}


def to_json(module: nn.Module) -> dict[str, JSON]:
    """The class and the fields of a module.

    Fields may hold numbers, strings, None, types such as `jnp.bfloat16`, modules, the activations
    and initialisers of `jaxnet.layers`, and tuples of these. A field with any other value is left
    out where it is the class's default.

    Raises:
        InputError: a field holds something else, or the class can't be found by its name.

    Example:
        >>> described = to_json(nn.Dropout(0.5))
        >>> described["class"], described["fields"]["rate"]
        ('flax.linen.stochastic:Dropout', 0.5)
    """
    kind = type(module)
    path, fields = class_path(kind), {}
    for item in dataclasses.fields(module):
        value = getattr(module, item.name)
        if item.name == "parent" or not item.init:
            continue
        try:
            fields[item.name] = _encoded(value)
        except _NoForm:
            if value is not item.default:
                raise InputError(
                    f"{kind.__name__}.{item.name} = {value!r} can't be written as JSON, other than "
                    "numbers, strings, types, modules, tuples, and the activations and "
                    "initialisers of jaxnet.layers"
                ) from None
    return {"class": path, "fields": fields}


def class_path(kind: type) -> str:
    """The place of a class, `package.module:Class`; a warning where no other program finds it.

    Raises:
        InputError: the class is local to a function.

    Example:
        >>> class_path(nn.Dropout)
        'flax.linen.stochastic:Dropout'
    """
    if "<locals>" in kind.__qualname__:
        raise InputError(
            f"{kind.__qualname__} is a class inside a function, which can't be found by its name. "
            "Move it to the top of its file"
        )
    if kind.__module__ == "__main__":
        log.warning(
            "%s is defined in the program that runs (__main__), where no other program finds it. "
            "Move the class to a file of its own and import it, or load with "
            "Bundle.load(folder, model=...), giving it the model that was trained.",
            kind.__qualname__,
        )
    return f"{_portable_name(kind)}:{kind.__qualname__}"


def arguments_to_json(values: Any, owner: str) -> JSON:
    """Arguments of a class, a sequence or a dict, as JSON; errors as in `to_json`."""
    try:
        if isinstance(values, Mapping):
            return {name: _encoded(value) for name, value in values.items()}
        return [_encoded(value) for value in values]
    except _NoForm:
        raise InputError(
            f"an argument of {owner} can't be written as JSON: {values!r}. Possible are numbers, "
            "strings, types, modules, tuples, and the activations and initialisers of jaxnet.layers"
        ) from None


def arguments_from_json(values: JSON) -> Any:
    """The inverse of `arguments_to_json`."""
    if isinstance(values, dict):
        return {name: _decoded(value) for name, value in values.items()}
    return tuple(_decoded(value) for value in values)


def from_json(values: JSON) -> nn.Module:
    """The module that `to_json` wrote down.

    Raises:
        InputError: there is no such class, it is no Linen module, or it has other fields.

    Example:
        >>> from_json(to_json(nn.Dropout(0.5))).rate
        0.5
    """
    try:
        path = values["class"]
        fields = {name: _decoded(value) for name, value in values["fields"].items()}
        return found(path, nn.Module)(**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"this is no module of the code at hand: {error}") from error


class _NoForm(Exception):
    """A value that has no form in JSON."""


def _encoded(value: Any) -> JSON:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}  # JSON has no infinity
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_encoded(element) for element in value]
    if isinstance(value, nn.Module):
        return {"module": to_json(value)}
    for kind, table in _FUNCTIONS.items():
        for name, function in table.items():
            if value is function:
                return {kind: name}
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError):
        raise _NoForm from None
    if dtype.hasobject:  # what numpy makes of a class that it doesn't know
        raise _NoForm
    return {"dtype": dtype.name}


def _decoded(value: JSON) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(element) for element in value)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "module":
        return from_json(content)
    if kind == "number":
        return float(content)
    if kind == "dtype":
        return np.dtype(content)
    return lookup(content, lookup(kind, _FUNCTIONS, "kind of function"), kind)


def _portable_name(kind: type) -> str:
    """The name of a class's module; in the zoo the one that it has wherever jaxnet is."""
    name = kind.__module__
    zoo = Path(jaxnet.__file__).parents[1] / "models"
    if name.startswith("models.") and Path(inspect.getfile(kind)).is_relative_to(zoo):
        return f"jaxnet.{name}"  # imported in a checkout by its other name
    return name


# Where classes were that a bundle may name, and where they are.
_MOVED = {"jaxnet.training.targets": "jaxnet.training.techniques.scaled_target"}


def found(path: str, base: type) -> Any:
    """The class at `package.module:Class`, a subclass of `base`.

    Raises:
        InputError: there is none, or it is no subclass.
    """
    name, _, qualname = path.partition(":")
    try:
        kind: Any = importlib.import_module(_MOVED.get(name, name))
    except ImportError:
        raise InputError(f"there is no class {path} here") from None
    for part in qualname.split("."):
        kind = getattr(kind, part, None)
    if kind is None:
        raise InputError(f"there is no class {path} here")
    if isinstance(kind, type) and issubclass(kind, base):
        return kind
    what = "Linen" if base is nn.Module else "NNX"
    raise InputError(f"{path} is no {what} module, and nothing else is taken")
