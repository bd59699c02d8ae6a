"""Work that runs ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], ready: int = 2) -> Generator[T]:
    """The items, made by a thread that runs ahead; it ends when the consumer does.

    Args:
        items: what to make. What it raises is raised where the items are used, and a generator is
            closed by the thread, also when the consumer stops early.
        ready: the maximum number of items that wait.

    Example:
        >>> list(ahead(iter([1, 2, 3])))
        [1, 2, 3]
    """
    waiting: queue.Queue[Any] = queue.Queue(ready)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put(None)
        except BaseException as error:
            put((None, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=produce, name="jaxnet-pipeline", daemon=True)
    thread.start()
    try:
        while (made := waiting.get()) is not None:
            item, error = made
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
