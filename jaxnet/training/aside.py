"""A thread for work that may hang, such as writing to a file system that does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Aside:
    """A worker thread that runs tasks in order; the caller may give up waiting for them.

    Always the same one, because Orbax raises the error of a save once in each thread that asks. A
    daemon: Python doesn't wait for it at its end.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], None], queue.SimpleQueue[Any]] | None]
        self._work = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="jaxnet-saving", daemon=True).start()

    def begin(self, work: Callable[[], None]) -> queue.SimpleQueue[BaseException | None]:
        """Do this; its error, or None, comes out of the queue."""
        outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._work.put((work, outcome))
        return outcome

    def end(self) -> None:
        """Let the thread go when it has done what was begun."""
        self._work.put(None)

    def _serve(self) -> None:
        while (given := self._work.get()) is not None:
            work, outcome = given
            try:
                work()
            except BaseException as error:
                outcome.put(error)
            else:
                outcome.put(None)
            del given, work, outcome  # what it holds would stay in memory, a state above all
