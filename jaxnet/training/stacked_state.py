"""The two forms of a training state: that of the programs of a pipeline, and the plain one."""

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
    """The form of a state in the programs of a layout, and how it becomes the other one.

    In a pipeline the blocks' parameters are stacked (`jaxnet.parallel.stacked`), and each device
    holds its own. All others have the plain form of one device: what is saved, what callbacks are
    shown, and what is made of the trained network. With any other layout there is one form.

    Attributes:
        running: where a state lies in the programs; None on one device.
        plain: where its plain form lies; None where that is the form of the programs.
        compiled: makes a program of a function, and of how what it gives lies.
    """

    running: MeshLayout | None
    plain: MeshLayout | None
    compiled: Callable[[Callable[[PyTree], PyTree], PyTree], Callable[[PyTree], PyTree]]
    _made: dict[str, Callable[[PyTree], PyTree]] = field(
        default_factory=dict, init=False, repr=False
    )

    def put(self, state: PyTree) -> PyTree:
        """A state from anywhere, in either form, for the programs."""
        if self.running is None:
            return state
        if self.plain is None or not _is_plain(state):
            return self.running.put(state)
        return self._converted(from_plain, self.running, self.plain.put(state))

    def to_plain(self, state: PyTree) -> PyTree:
        """A state of the programs in its plain form; in a pipeline a copy that is whole."""
        if self.plain is None or _is_plain(state):
            return state
        return self._converted(to_plain, self.plain, state)

    def plain_shapes(self, state: PyTree) -> PyTree:
        """The same of the shapes of a state, with how they lie."""
        if self.plain is None:
            return state
        return self.plain.shapes(jax.eval_shape(to_plain, state))

    def _converted(
        self, convert: Callable[[PyTree], PyTree], to: MeshLayout, state: PyTree
    ) -> PyTree:
        if convert.__name__ not in self._made:
            lies = to.state(jax.eval_shape(convert, state))
            self._made[convert.__name__] = self.compiled(convert, lies)
        return self._made[convert.__name__](state)


def _is_plain(state: PyTree) -> bool:
    return jax.tree.structure(jax.eval_shape(to_plain, state)) == jax.tree.structure(state)
