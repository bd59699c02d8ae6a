"""The arguments of a model's call: one array, several by position, or several by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jaxnet.errors import InputError
from jaxnet.switch import SWITCHES


def call_arguments(module: Any, method: str, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call by position and by name, without the switch.

    Args:
        module: whose method is called.
        method: its name.
        inputs: an array, a tuple of them, which go by position, or a dict, which go by name if the
            method takes these names, and else as a whole.

    Raises:
        InputError: the method takes inputs by name, and others than there are.

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
            f"inputs are {', '.join(sorted(inputs))}. Call them alike, or take one argument, which "
            "gets all as a dict"
        )
    return (), dict(inputs)
