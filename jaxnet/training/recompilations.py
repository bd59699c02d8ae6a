"""A record of compilations, because each one costs seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

PyTree = Any


@dataclass(frozen=True)
class Compiles:
    """The compilations of each program, with their argument shapes.

    A program's Python body runs once per compilation, and calls `record` then.
    """

    traces: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def record(self, program: str, arguments: PyTree) -> None:
        """Record that `program` is being compiled for `arguments`."""
        shapes = {
            jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(arguments)
        }
        self.traces.setdefault(program, []).append(shapes)

    @property
    def total(self) -> int:
        """The number of compilations so far."""
        return sum(len(traces) for traces in self.traces.values())

    def repeated(self) -> list[str]:
        """A line for each recompilation: which argument changed, and how."""
        return [
            f"{program} was compiled again: {_difference(first, other)}"
            for program, (first, *others) in self.traces.items()
            for other in others
        ]


def _difference(first: dict[str, str], other: dict[str, str]) -> str:
    changed = [
        f"{name} was {first.get(name, 'absent')}, is {other.get(name, 'absent')}"
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ]
    return "; ".join(changed) or "for the same shapes"
