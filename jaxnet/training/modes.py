"""What a Linen module does in training and in evaluation, as it says while it is traced."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
from flax import errors

from jaxnet.errors import InputError

FROZEN = 1
"""True, as the `use_running_average` of a layer that was frozen on purpose."""

SWITCH = (
    "Give its call an argument `train` (or `training`, or `deterministic`) and hand it on: "
    "nn.Dropout(rate, deterministic=not train), nn.BatchNorm(use_running_average=not train)."
)


@dataclass
class Seen:
    """What a module was seen to do in a call in training.

    Attributes:
        streams: the random streams that it asked for.
        off: the layers with a training mode that weren't in it: dropout that drops something, and
            what has running statistics, such as batch normalisation.
        on: the layers that were in it.
    """

    streams: set[str] = field(default_factory=set)
    off: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=list)

    def check(self, model: str) -> None:
        """Raise `InputError` where a network has layers with a training mode and none is in it."""
        if self.off and not self.on:
            raise InputError(
                f"{model} would be trained as it is evaluated: nothing tells {self.off[0]} that it "
                f"is training. {SWITCH}"
            )


@contextmanager
def watched() -> Iterator[Seen]:
    """Notes what a module does that is called within this context."""
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
def evaluated(model: str) -> Iterator[None]:
    """Turns what Flax says of a module that trains while it is evaluated into words of advice.

    Raises:
        InputError: the module draws random numbers, or changes its variables.
    """
    try:
        yield
    except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
        does = "draws random numbers" if isinstance(error, errors.InvalidRngError) else "changes"
        raise InputError(
            f"{model} {does} in evaluation, in which it has to be a function of its inputs: "
            f"{str(error).splitlines()[0]} {SWITCH}"
        ) from error


class _Asked(dict[str, Any]):
    """The random streams of a scope, which note for which ones a module asks."""

    def __init__(self, rngs: dict[str, Any], names: set[str]) -> None:
        super().__init__(rngs)
        self._names = names

    def __contains__(self, name: object) -> bool:
        self._names.add(str(name))
        return super().__contains__(name)


def _trains(module: Any, args: Any, kwargs: Any) -> bool | None:
    """Whether a layer is in its training mode; None for one that has none."""
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
