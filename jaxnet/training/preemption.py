"""Preemption: SIGTERM and Ctrl-C stop training at the next step boundary."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

from jaxnet import ending
from jaxnet.cluster import preemption_notice, processes

# All processes count their calls alike, over all runs, so that they agree on a boundary.
_boundaries = itertools.count(1)


class Preemption:
    """A context that records a signal to stop; a second signal has its usual effect.

    The handler only sets a flag, because saving inside a handler could interrupt another save.
    Outside the main thread, where Python allows no handlers, nothing is recorded.

    With several processes, a SIGTERM to any one of them stops all: JAX's preemption service, which
    has its own handler, broadcasts it.

    A command (`jaxnet.ending`) has handlers from its first line and exits immediately before the
    first steps are done; there, signals are recorded from `take_over` on.

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
        """Start recording signals of a command: the first steps are done. Idempotent."""
        if not self._taken:
            self._taken = True
            ending.begin("training")
            ending.note_signals(self._heard)

    def _heard(self, name: str) -> None:
        """Record a command's signal; a second one ends the process."""
        ending.note_signals(None)
        if processes.several():
            preemption_notice.give()
        else:
            self.requested = name

    def asked(self) -> bool:
        """Whether to stop at this step boundary; a collective call."""
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
