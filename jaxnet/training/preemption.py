"""SIGTERM and Ctrl-C as a wish that the loop fulfils at the next step boundary."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Preemption:
    """Within this context, a signal to stop is noted; a second one acts as it usually does.

    The handler does nothing but set a flag: saving inside a handler can meet a save under way.
    Outside the main thread, where Python allows no handlers, it notes nothing.

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

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
