"""Friendly lookup by name, and a check of the options that come with a name.

For the edge where a person types them.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxnet.errors import UsageError

T = TypeVar("T")

# Shares and decay rates, whatever takes them.
_BELOW_ONE = {"b1", "b2", "decay", "rho", "momentum"}


def lookup(name: str, known: Mapping[str, T], kind: str) -> T:
    """The entry of `known` called `name`.

    Args:
        name: what the user typed.
        known: the choices.
        kind: what is being chosen, for the message: `"optimizer"`.

    Raises:
        UsageError: nothing is called so; the message offers the nearest name and lists them all.

    Example:
        >>> lookup("adm", {"adam": 1, "sgd": 2}, "optimizer")
        Traceback (most recent call last):
        ...
        jaxnet.errors.UsageError: unknown optimizer 'adm'; did you mean 'adam'? Known: adam, sgd
    """
    if name in known:
        return known[name]
    raise UsageError(f"unknown {kind} {name!r}{_instead(name, known)}")


def _instead(name: str, known: Mapping[str, Any]) -> str:
    """The end of a sentence on a name that isn't known: what there is."""
    if not known:
        return "; there is none"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(sorted(known))}"


def check_number(name: str, value: Any) -> None:
    """Refuse what isn't a finite number of at least 0, or of [0, 1) for a rate of decay.

    Raises:
        UsageError: the value is none.
    """
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{name} must be a number, finite and not negative; got {value!r}")
    if name in _BELOW_ONE and value >= 1:
        raise UsageError(f"{name} must be in [0, 1); got {value!r}")


def check_least(least: int, **numbers: int | None) -> None:
    """Refuse numbers below `least`; None, which is not given, is let through.

    Raises:
        UsageError: a number is too small; the message has its name.

    Example:
        >>> check_least(1, num_layers=None, num_heads=0)
        Traceback (most recent call last):
        ...
        jaxnet.errors.UsageError: expected num_heads of at least 1, got 0
    """
    for name, value in numbers.items():
        if value is not None and value < least:
            raise UsageError(f"expected {name} of at least {least}, got {value}")


def checked_options(
    owner: str, make: Callable[..., Any], options: Mapping[str, Any], given: tuple[str, ...]
) -> dict[str, Any]:
    """All options of the function `make`, given and default, after a check of those given.

    Args:
        owner: whose options they are, for the message: `"optimizer 'adam'"`.
        make: the function that takes them.
        options: those given; numbers go through `check_number`.
        given: arguments of `make` that are no options.

    Raises:
        UsageError: an unknown or missing option, or a number that can't be.

    Example:
        >>> def make(rate, power=1.0): ...
        >>> checked_options("schedule", make, {}, given=("rate",))
        {'power': 1.0}
        >>> checked_options("constant", lambda rate: rate, {"steps": 3}, given=("rate",))
        Traceback (most recent call last):
        ...
        jaxnet.errors.UsageError: constant has no option 'steps'; there is none
    """
    known = {
        parameter.name: parameter.default
        for parameter in inspect.signature(make).parameters.values()
        if parameter.name not in given
    }
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"{owner} has no option {option!r}{_instead(option, known)}")
        if _is_number(value):
            check_number(option, value)
    chosen = {**known, **options}
    missing = [option for option, value in chosen.items() if value is inspect.Parameter.empty]
    if missing:
        raise UsageError(f"{owner} needs {', '.join(f'{option}=' for option in missing)}")
    return chosen


def _is_number(value: Any) -> bool:
    # NumPy registers its scalars as numbers.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
