"""A count of what was compiled, because each compile costs seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

PyTree = Any


@dataclass(frozen=True)
class Compiles:
    """What was compiled, by program, and for which shapes.

    A program's Python body runs once for each compile, which is when it reports here.
    """

    traces: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def record(self, program: str, arguments: PyTree) -> None:
        """Note that `program` is being compiled for `arguments`."""
        shapes = {
            jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(arguments)
        }
        self.traces.setdefault(program, []).append(shapes)

    @property
    def total(self) -> int:
        """The number of compiles so far."""
        return sum(len(traces) for traces in self.traces.values())

    def repeated(self) -> list[str]:
        """A line for each compile after a program's first: which argument changed, and how."""
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
