"""Friendly lookup by name, for the edge where a person types one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from jaxnet.errors import UsageError

T = TypeVar("T")


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
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known))}")
