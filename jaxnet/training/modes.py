"""Checks of a Linen module's training and evaluation modes, made while it is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
from flax import errors

from jaxnet.errors import InputError

FROZEN = 1
"""A true value for `use_running_average` that marks a layer as frozen on purpose."""

Stays = Callable[[str, Mapping[str, list[str]]], bool]
"""`(path of a layer, its variables by collection) -> whether it is frozen`."""

_STAYS: ContextVar[Stays | None] = ContextVar("_STAYS", default=None)

SWITCH = (
    "Give its call an argument `train` (or `training`, or `deterministic`) and pass it on: "
    "nn.Dropout(rate, deterministic=not train), nn.BatchNorm(use_running_average=not train)."
)


@dataclass
class Seen:
    """Observations of a module called in training mode.

    Attributes:
        streams: the random streams that it requested.
        off: the layers with a training mode (dropout with a nonzero rate, batch normalisation and
            others with running statistics) that ran in evaluation mode.
        on: the layers that ran in training mode.
    """

    streams: set[str] = field(default_factory=set)
    off: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=list)

    def check(self, model: str) -> None:
        """Raise `InputError` if all layers with a training mode ran in evaluation mode."""
        if self.off and not self.on:
            raise InputError(
                f"{model} would be trained in evaluation mode: nothing tells {self.off[0]} that it "
                f"is training. {SWITCH}"
            )


@contextmanager
def watched() -> Iterator[Seen]:
    """Record what modules called within this context do."""
    seen = Seen()

    def interceptor(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module: Any = context.module
        if module.scope is not None and not isinstance(module.scope.rngs, _Asked):
            module.scope.rngs = _Asked(module.scope.rngs, seen.streams)
        if (
            context.method_name == "__call__"
            and (trains := _trains(module, args, kwargs)) is not None
        ):
            path = "/".join(module.path)
            (seen.on if trains else seen.off).append(f"{type(module).__name__} {path}".strip())
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield seen


@contextmanager
def keeping(stays: Stays) -> Iterator[None]:
    """Let those layers of NNX modules that `stays` selects use their running statistics."""
    outer = _STAYS.get()

    def either(path: str, own: Mapping[str, list[str]]) -> bool:
        return stays(path, own) or (outer is not None and outer(path, own))

    token = _STAYS.set(either)
    try:
        yield
    finally:
        _STAYS.reset(token)


def frozen_layers() -> Stays | None:
    """What tells which layers of an NNX module are frozen, if any are (`keeping`)."""
    return _STAYS.get()


@contextmanager
def evaluated(model: str) -> Iterator[None]:
    """Turn Flax's errors for a module that is in training mode in evaluation into advice.

    Raises:
        InputError: the module uses random numbers, or changes its variables.
    """
    try:
        yield
    except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
        does = "uses random numbers" if isinstance(error, errors.InvalidRngError) else "changes"
        raise InputError(
            f"{model} {does} in evaluation, where it has to be a function of its inputs: "
            f"{str(error).splitlines()[0]} {SWITCH}"
        ) from error


class _Asked(dict[str, Any]):
    """The random streams of a scope; it records the names that modules look up."""

    def __init__(self, rngs: dict[str, Any], names: set[str]) -> None:
        super().__init__(rngs)
        self._names = names

    def __contains__(self, name: object) -> bool:
        self._names.add(str(name))
        return super().__contains__(name)


def _trains(module: Any, args: Any, kwargs: Any) -> bool | None:
    """Whether a layer is in training mode; None if it has no such mode."""
    rate = getattr(module, "rate", getattr(module, "dropout_rate", 0))
    words = ["use_running_average"]
    if isinstance(rate, int | float) and rate > 0:
        words.append("deterministic")
    takes = inspect.signature(type(module).__call__)
    for word in words:
        value = getattr(module, word, None)
        if word in takes.parameters:
            given = takes.bind(module, *args, **kwargs).arguments.get(word)
            value = value if given is None else given
        if value is not None:
            return value is not True
    return None
