"""SIGTERM and Ctrl-C as a wish that the loop fulfils at the next step boundary."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

from jaxnet import ending
from jaxnet.cluster import preemption_notice, processes

# Processes count together how often they asked, over all runs, so that they agree on a boundary.
_boundaries = itertools.count(1)


class Preemption:
    """Within this context, a signal to stop is noted; a second one acts as it usually does.

    The handler does nothing but set a flag: saving inside a handler can meet a save under way.
    Outside the main thread, where Python allows no handlers, it notes nothing.

    Where several processes train together, a SIGTERM to any one of them is a wish to all, which
    JAX's preemption service passes on; it has a handler of its own.

    A command (`jaxnet.ending`) has handlers from its first line, and ends at once before the first
    steps are done: there, signals are noted from `take_over` on.

    Example:
        >>> with Preemption() as preemption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     preemption.requested
        'SIGTERM'
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[int, Any] = {}
        self._taken = False

    def __enter__(self) -> Preemption:
        if ending.in_force():
            # Several processes have to agree, and do so by JAX's service.
            self.requested = None if processes.several() else ending.requested()
        elif threading.current_thread() is threading.main_thread():
            if processes.several():
                self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._pass_on)}
            else:
                self._before = {n: signal.signal(n, self._note) for n in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        ending.note_signals(None)
        ending.begin("coming to an end" if self.requested else "writing the results")

    def take_over(self) -> None:
        """The first steps are done, and worth to be saved. Further calls change nothing."""
        if not self._taken:
            self._taken = True
            ending.begin("training")
            ending.note_signals(self._heard)

    def _heard(self, name: str) -> None:
        """A command heard a signal; at a second one it ends."""
        ending.note_signals(None)
        if processes.several():
            preemption_notice.give()
        else:
            self.requested = name

    def asked(self) -> bool:
        """Whether to stop at this boundary. Several processes ask at the same ones."""
        if processes.several() and self.requested is None:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_boundaries)):
                self.requested = "SIGTERM"
        return self.requested is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
