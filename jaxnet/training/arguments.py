"""The arguments of a model's call: one array, several by position, or several by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jaxnet.errors import InputError
from jaxnet.switch import SWITCHES


def call_arguments(module: Any, method: str, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments for calling a module, without the training switch.

    Args:
        module: the module.
        method: the name of the method to call.
        inputs: an array; a tuple of arrays, passed by position; or a dict, passed by keyword if the
            method has these parameters, and otherwise as one argument.

    Raises:
        InputError: the method's parameters are not the names of the inputs.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, age, image, train=False): ...
        >>> call_arguments(Sum(), "__call__", {"age": 1, "image": 2})
        ((), {'age': 1, 'image': 2})
        >>> call_arguments(nn.Dense(1), "__call__", {"age": 1, "image": 2})
        (({'age': 1, 'image': 2},), {})
    """
    if isinstance(inputs, tuple):
        return inputs, {}
    if not isinstance(inputs, Mapping):
        return (inputs,), {}
    _, *takes = inspect.signature(getattr(type(module), method)).parameters.values()
    takes = [each for each in takes if each.name not in SWITCHES]
    by_name = {
        each.name for each in takes if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    needed = {each.name for each in takes if each.name in by_name and each.default is each.empty}
    if any(each.kind is each.VAR_KEYWORD for each in takes):
        by_name |= inputs.keys()
    if len(needed) == 1 and not by_name & inputs.keys():
        return (dict(inputs),), {}
    if needed - inputs.keys() or inputs.keys() - by_name:
        raise InputError(
            f"{type(module).__name__}.{method} takes {', '.join(sorted(by_name))}, and the data's "
            f"inputs are {', '.join(sorted(inputs))}. Use the same names, or take one argument, "
            "which gets all as a dict"
        )
    return (), dict(inputs)
