"""Sharding rules defined by models, found in their modules."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from flax import linen as nn

from jaxnet.parallel.rules import Rule

# The name of the rules in a model's module.
SHARDING = "SHARDING"


def family_rules(task: Any) -> tuple[Rule, ...]:
    """The sharding rules of the models in a task: `SHARDING` at the end of their modules.

    For a model nested in another module they apply to its subtree of the parameters.

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
    """The Python modules of the models in a task, each with the path prefix of its parameters.

    Example:
        >>> model_files(nn.Dense(3))
        {'flax.linen.linear': ''}
    """
    # Of several Linen modules from one file, the rules are written for the outermost.
    places: dict[str, str] = {}
    for place, module in _modules(task, ""):
        places.setdefault(type(module).__module__, place)
    return places


def _modules(value: Any, place: str) -> Iterator[tuple[str, nn.Module]]:
    """The Linen modules in the fields of dataclasses, with the path prefix of their parameters."""
    if isinstance(value, nn.Module):
        yield place, value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name != "parent":
                # Flax names a submodule after the field that holds it.
                within = f"{place}{field.name}/" if isinstance(value, nn.Module) else place
                yield from _modules(getattr(value, field.name), within)
