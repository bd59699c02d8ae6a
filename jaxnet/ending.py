"""A wish to end, by SIGTERM or Ctrl-C, from the first line of a command to its last.

A command of ours ends by either with exit code 75, "run me again", and one line that says so. While
it trains, the trainer fulfils the wish at the next step boundary (`jaxnet.training.preemption`).
Before the first steps and after the last there is nothing to save: the process ends at once, but
not within a file that is being written. A second signal ends at once in any case.

Python calls a handler between two lines of Python: not while XLA compiles, for minutes perhaps. So
a thread hears of the signals, by `signal.set_wakeup_fd`, and acts.

Commands alone have this: to import jaxnet, or to train by it in a program of one's own, changes no
handler but for the time of `Trainer.fit`. Nothing but the standard library is needed, so that it
can come before all other imports.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

# EX_TEMPFAIL of sysexits.h, "try again later".
CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals so close together are one wish: a scheduler sends one to all processes of a job, and the
# launcher among them passes its own on.
TOGETHER_SECONDS = 1.0
# So long the main thread may take to end by itself where it is to, and a file to be complete.
PATIENCE_SECONDS = 10.0
AGAIN = "run the same command again to go on"


class Ended(KeyboardInterrupt):
    """The process was asked to end, and the main thread cleans up."""


class Handlers:
    """The handlers of this process, and the thread that acts.

    What a signal does depends on where the process is: at first the main thread is left to come to
    where it knows whether there are other processes; then the process ends at once, unless
    something takes note of signals (`noting`) or wants an exception (`raising`).
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.doing = "starting"
        # Tells the other processes of the job, in words.
        self.tell: Callable[[str], None] | None = None
        self.at_once = False
        self.raises = False
        self.note: Callable[[str], None] | None = None
        self._since = 0.0
        # The main thread changes what a signal does, and another hears it.
        self._deciding = threading.RLock()
        self._raised = False
        self._hearing, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._before: dict[int, Any] = {n: signal.signal(n, self._handle) for n in SIGNALS}
        self._woken = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, name="jaxnet-signals", daemon=True).start()

    def remove(self) -> None:
        """Put back what was there before."""
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._told)  # which ends the thread

    def ignore(self) -> None:
        """At the very end of the process, where Python would put back what kills it."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def again(self) -> None:
        """Put the handlers back where a library has set its own."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def act(self) -> None:
        """From here on end at once; also if it was asked for already."""
        with self._deciding:
            self.at_once = True
            if self.requested:
                self._end(self.requested)

    def leave_to(self, note: Callable[[str], None] | None) -> None:
        """From here on tell `note`; also of what came before and had no effect yet."""
        with self._deciding:
            self.note = note
            if note and self.requested and not self.at_once:
                note(self.requested)

    def _handle(self, number: int, frame: Any) -> None:
        """In the main thread: nothing, unless it is to clean up."""
        if self.raises and self.note is None and not self._raised:
            self._raised = True
            raise Ended(signal.Signals(number).name)

    def _hear(self) -> None:
        known = {int(number) for number in SIGNALS}
        while True:
            left = None
            if self.requested and not self.at_once and self.note is None:
                left = max(0.0, self._since + PATIENCE_SECONDS - time.monotonic())
            if not select.select([self._hearing], [], [], left)[0]:
                self._end(str(self.requested), self._patient)
            if not (heard := os.read(self._hearing, 1)):
                os.close(self._hearing)
                return
            if heard[0] in known:
                with self._deciding:
                    self._signalled(signal.Signals(heard[0]).name)

    def _signalled(self, name: str) -> None:
        if first := self.requested is None:
            self.requested, self._since = name, time.monotonic()
        if self.note is not None:
            self.note(name)
        elif first and self.at_once:
            self._end(name, self._patient)
        elif self._late():
            self._end(name, lambda: False)

    def _end(self, name: str, patient: Callable[[], bool] = lambda: True) -> NoReturn:
        text = f"ended by {name} while {self.doing}"
        try:
            if self.tell is not None:
                self.tell(text)
        finally:
            leave(f"{text}: {AGAIN}", patient)

    def _patient(self) -> bool:
        """Whether no second signal has come."""
        if not select.select([self._hearing], [], [], 0)[0]:
            return True
        os.read(self._hearing, 1)
        return not self._late()

    def _late(self) -> bool:
        """Whether a signal is another wish than the first one."""
        return time.monotonic() - self._since > TOGETHER_SECONDS


_own: Handlers | None = None
_guard = threading.Lock()
_writing = 0
_held = threading.local()


def start() -> None:
    """From here on SIGTERM and Ctrl-C end this process, which is a command of ours, in order.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """
    global _own
    if _own is None and threading.current_thread() is threading.main_thread():
        _own = Handlers()


def started_as(package: str) -> bool:
    """Whether Python is looking for a module of `package` to run it: `python -m PACKAGE.MODULE`."""
    # Meanwhile -m stands where the module's path is going to be.
    if sys.argv[:1] != ["-m"]:
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] == package


@contextmanager
def handling() -> Iterator[None]:
    """As `start`, for a block of code, unless that was called before."""
    global _own
    before = _own
    start()
    try:
        yield
    finally:
        if _own is not None and before is None:
            _own.remove()
            _own = None


def in_force() -> bool:
    """Whether this process is a command of ours."""
    return _own is not None


def requested() -> str | None:
    """The first signal that asked this process to end, such as `"SIGTERM"`."""
    return _own.requested if _own else None


def begin(doing: str) -> None:
    """What the process is at, for the message: "ended by SIGTERM while ..."."""
    if _own:
        _own.doing = doing


def at_once(doing: str, tell: Callable[[str], None] | None = None) -> None:
    """From here on a signal ends the process at once, with the others of its job.

    Args:
        doing: see `begin`.
        tell: tells the others.
    """
    if _own:
        _own.doing, _own.tell = doing, tell
        _own.act()


def take_back() -> None:
    """Put the handlers in force back, where a library has set its own."""
    if _own:
        _own.again()


@contextmanager
def noting(note: Callable[[str], None]) -> Iterator[None]:
    """Within this block, `note` gets the name of each signal, and decides.

    It is called in another thread; where there are no handlers of ours, by one of its own.
    """
    if _own is None:
        before = {
            n: signal.signal(n, lambda number, frame: note(signal.Signals(number).name))
            for n in SIGNALS
        }
    else:
        before = {}
        note_signals(note)
    try:
        yield
    finally:
        note_signals(None)
        for number, handler in before.items():
            signal.signal(number, handler)


def note_signals(note: Callable[[str], None] | None) -> None:
    """As `noting`, until it is called with None, and with handlers of ours alone."""
    if _own:
        _own.leave_to(note)


@contextmanager
def deferring() -> Iterator[None]:
    """Within this block signals change nothing but what `requested` gives."""
    note_signals(lambda name: None)
    try:
        yield
    finally:
        note_signals(None)


@contextmanager
def raising() -> Iterator[None]:
    """Within this block the first signal is an `Ended` in the main thread, which cleans up."""
    own = _own
    if own is None:
        yield
        return
    own.raises = True
    try:
        if own.requested:
            raise Ended(own.requested)
        yield
    finally:
        own.raises = False


@contextmanager
def whole() -> Iterator[None]:
    """What is written within this block is complete, or killed, but not left by half.

    Example:
        >>> with whole():
        ...     pass
    """
    global _writing
    with _guard:  # not to be had any more when the process is about to end
        _writing += 1
    try:
        yield
    finally:
        with _guard:
            _writing -= 1


def leave(text: str, patient: Callable[[], bool] = lambda: True) -> NoReturn:
    """End at once because that was asked for: what the main thread is at may last.

    Args:
        text: the message.
        patient: asked again and again, whether to go on waiting for a file under way.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and patient():
        if _guard.acquire(timeout=0.01):
            if not _writing:
                break
            _guard.release()
            time.sleep(0.002)
    try:
        _end_children()
    finally:
        leave_process(CODE, text)


def leave_process(code: int, text: str = "") -> NoReturn:
    """End at once, without the steps of an ordered exit, in which JAX waits for lost peers.

    Args:
        code: the exit code.
        text: what to say, if there is still somebody to read it.
    """
    # The main thread may hold the lock of what is flushed, or nobody empty a pipe, for ever.
    saying = threading.Thread(target=_say_last, args=(text,), daemon=True)
    try:
        saying.start()
        saying.join(1.0)
    finally:  # also where Python is ending by itself, and starts no thread any more
        os._exit(code)


def _say_last(text: str) -> None:
    # With Ctrl-C the program that reads a pipe ends too, often earlier.
    with suppress(OSError, ValueError):
        if text:
            # A progress bar has hidden the cursor.
            shown = "\x1b[?25h\n" if os.isatty(2) else ""
            os.write(2, f"{shown}{text}\n".encode())
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            stream.flush()


def _end_children() -> None:
    """Those that read data, which would wait for ever for one to take it."""
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        with suppress(OSError, ValueError):
            child.terminate()


@atexit.register
def _last() -> None:
    if _own:
        _own.ignore()


def _hold() -> None:
    """Before a fork: what is meant for the new process waits until its handlers are its own."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if _own else None


def _let_go() -> None:
    if _held.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget() -> None:
    """In a process that was forked: it is no command, and its signals are none of its parent's."""
    global _own, _guard, _writing
    _guard, _writing = threading.Lock(), 0
    if _own is not None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _own = None
    _let_go()


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)
