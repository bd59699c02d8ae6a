"""The rules that models bring along."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from flax import linen as nn

from jaxnet.parallel.rules import Rule

# What a model's file calls the rules of its family.
SHARDING = "SHARDING"


def family_rules(task: Any) -> tuple[Rule, ...]:
    """The rules of the models in a task: those that stand at the end of their files.

    Where a model is a module within another one, they hold for its part of the parameters.

    Args:
        task: a task or a Linen module.

    Example:
        >>> family_rules(nn.Dense(3))
        ()
    """
    return tuple(
        (place + pattern, *rest)
        for file, place in model_files(task).items()
        for pattern, *rest in getattr(sys.modules[file], SHARDING, ())
    )


def model_files(task: Any) -> dict[str, str]:
    """Where the models in a task come from, as Python modules, and where their parameters are.

    Example:
        >>> model_files(nn.Dense(3))
        {'flax.linen.linear': ''}
    """
    # Of several modules of a file the outermost is the one that its rules were written for.
    places: dict[str, str] = {}
    for place, module in _modules(task, ""):
        places.setdefault(type(module).__module__, place)
    return places


def _modules(value: Any, place: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules in the fields of dataclasses, and where their parameters are."""
    if isinstance(value, nn.Module):
        yield place, value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name != "parent":
                # Flax names a module by the field of the module that holds it.
                within = f"{place}{field.name}/" if isinstance(value, nn.Module) else place
                yield from _modules(getattr(value, field.name), within)
