"""JAX's own notice of a preemption, by which several processes agree on a step to end at.

`jax.distributed.initialize` sets a handler in C for SIGTERM, in place of Python's. In a command of
ours (`jaxnet.ending`) ours comes back, so that it works before the first step and after the last,
and calls JAX's while the job trains.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxnet import ending

_jax: Callable[[int], None] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Within this block JAX may set its handler: it is kept, and ours comes back."""
    global _jax
    if not ending.in_force():
        yield
        return
    import ctypes

    # Python can't name a handler that isn't its own; C's `signal` gives the one that was set.
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
    """Tell JAX, in this process and so in all, that the job is to end."""
    if _jax is not None:
        _jax(signal.SIGTERM)
