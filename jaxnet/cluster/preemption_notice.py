"""JAX's preemption notice, by which several processes agree on a step to stop at.

`jax.distributed.initialize` replaces Python's SIGTERM handler by one in C. In a jaxnet command
(`jaxnet.ending`) our handler is restored, so that it works before the first step and after the
last; during training it calls JAX's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxnet import ending

_jax: Callable[[int], None] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """A context in which JAX sets its handler: it is saved, and ours is restored."""
    global _jax
    if not ending.in_force():
        yield
        return
    import ctypes

    # Python can't return a C handler; C's `signal` returns the previous one.
    library = ctypes.CDLL(None)
    library.signal.restype, library.signal.argtypes = (
        ctypes.c_void_p,
        (ctypes.c_int, ctypes.c_void_p),
    )

    def handler() -> int | None:
        found = library.signal(signal.SIGTERM, int(signal.SIG_IGN))
        library.signal(signal.SIGTERM, found)
        return found

    before = handler()
    try:
        yield
    finally:
        after = handler()
        if after and after != before:
            _jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(after)
        ending.take_back()


def give() -> None:
    """Notify JAX, in this process and so in all, that the job has to stop."""
    if _jax is not None:
        _jax(signal.SIGTERM)
