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

    They hold wherever the model's parameters are in those of the task.

    Args:
        task: a task or a Linen module.

    Example:
        >>> family_rules(nn.Dense(3))
        ()
    """
    files = dict.fromkeys(type(module).__module__ for module in _modules(task))
    rules = (rule for file in files for rule in getattr(sys.modules[file], SHARDING, ()))
    return tuple((_anywhere(pattern), *rest) for pattern, *rest in rules)


def _anywhere(pattern: str) -> str:
    return pattern if pattern.startswith("**/") else f"**/{pattern}"


def _modules(value: Any) -> Iterator[nn.Module]:
    """The modules in the fields of dataclasses."""
    if isinstance(value, nn.Module):
        yield value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name != "parent":
                yield from _modules(getattr(value, field.name))
