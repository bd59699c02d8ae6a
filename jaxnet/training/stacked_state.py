"""Conversion between the stacked state of pipeline parallelism and the plain state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxnet.parallel.mesh_layout import MeshLayout
from jaxnet.parallel.stacked import from_plain, to_plain

PyTree = Any


@dataclass(frozen=True)
class Forms:
    """The form of the state in the compiled programs, and its conversion to the plain form.

    In a pipeline the blocks' parameters are stacked (`jaxnet.parallel.stacked`) and each stage
    holds its own. Checkpoints, callbacks and exports use the plain form, that of a single device.
    Every other layout has only the plain form.

    Attributes:
        running: the layout of the state in the programs; None on one device.
        plain: the layout of the plain form; None if the programs use that form.
        compiled: `(function, out_shardings) -> function`, compiles a conversion.
    """

    running: MeshLayout | None
    plain: MeshLayout | None
    compiled: Callable[[Callable[[PyTree], PyTree], PyTree], Callable[[PyTree], PyTree]]
    _made: dict[str, Callable[[PyTree], PyTree]] = field(
        default_factory=dict, init=False, repr=False
    )

    def put(self, state: PyTree) -> PyTree:
        """Convert a state in either form, on any device, to that of the programs."""
        if self.running is None:
            return state
        if self.plain is None or not _is_plain(state):
            return self.running.put(state)
        return self._converted(from_plain, self.running, self.plain.put(state))

    def to_plain(self, state: PyTree) -> PyTree:
        """The plain form of a state of the programs; in a pipeline an unstacked copy."""
        if self.plain is None or _is_plain(state):
            return state
        return self._converted(to_plain, self.plain, state)

    def plain_shapes(self, state: PyTree) -> PyTree:
        """As `to_plain`, for the shapes of a state; with their shardings."""
        if self.plain is None:
            return state
        return self.plain.shapes(jax.eval_shape(to_plain, state))

    def _converted(
        self, convert: Callable[[PyTree], PyTree], to: MeshLayout, state: PyTree
    ) -> PyTree:
        if convert.__name__ not in self._made:
            shardings = to.state(jax.eval_shape(convert, state))
            self._made[convert.__name__] = self.compiled(convert, shardings)
        return self._made[convert.__name__](state)


def _is_plain(state: PyTree) -> bool:
    return jax.tree.structure(jax.eval_shape(to_plain, state)) == jax.tree.structure(state)
