"""The arguments of a module's call: its inputs, and its switch between training and evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxnet.errors import InputError

# What modules call the switch between training and evaluation, and what it is in training.
_SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def train_option(module: nn.Module, train: bool, method: str = "__call__") -> dict[str, bool]:
    """What tells a call of a module, or of another method, whether it is training.

    It is in the module's own words: `train`, `training`, `is_training`, `deterministic` or
    `use_running_average`. A module that was made with a value of its own for one isn't told.

    Example:
        >>> train_option(nn.Dense(1), True), train_option(nn.Dropout(0.5), True)
        ({}, {'deterministic': False})
    """
    takes = inspect.signature(getattr(type(module), method)).parameters
    return {
        word: train == in_training
        for word, in_training in _SWITCHES.items()
        if word in takes and getattr(module, word, None) is None
    }


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
    takes = [each for each in takes if each.name not in _SWITCHES]
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
