"""Signal handling of commands: SIGTERM and Ctrl-C, from the first line to the last.

On either signal a jaxnet command exits with code 75, "run me again", and one line that says so.
During training the trainer stops at the next step boundary (`jaxnet.training.preemption`). Before
the first steps and after the last there is nothing to save: the process exits immediately, but
doesn't truncate a file that is being written. A second signal always exits immediately.

Python runs handlers between bytecodes, so not while XLA compiles, which may take minutes. Therefore
a thread receives the signals through `signal.set_wakeup_fd` and acts on them.

Only commands do this: importing jaxnet, or using it in your own program, changes no handlers except
during `Trainer.fit`. The module needs only the standard library, so that it can be imported first.
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
# Signals within this time count as one: a scheduler sends one to all processes of a job, and the
# launcher among them forwards its own.
TOGETHER_SECONDS = 1.0
# The maximum time for the main thread to exit by itself, and for a file to be completed.
PATIENCE_SECONDS = 10.0
AGAIN = "run the same command again to go on"


class Ended(KeyboardInterrupt):
    """Raised in the main thread, for cleanup, when the process was asked to end."""


class Handlers:
    """The signal handlers of this process, and the thread that acts on signals.

    The effect of a signal depends on the phase: at first the main thread continues until it knows
    whether there are other processes; after that the process exits immediately, unless signals are
    recorded (`noting`) or raised as an exception (`raising`).
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.doing = "starting"
        # Sends a message to the other processes of the job.
        self.tell: Callable[[str], None] | None = None
        self.at_once = False
        self.raises = False
        self.note: Callable[[str], None] | None = None
        self._since = 0.0
        # The main thread changes the effect of a signal, another thread receives it.
        self._deciding = threading.RLock()
        self._raised = False
        self._hearing, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._before: dict[int, Any] = {n: signal.signal(n, self._handle) for n in SIGNALS}
        self._woken = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, name="jaxnet-signals", daemon=True).start()

    def remove(self) -> None:
        """Restore the previous handlers."""
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._told)  # ends the thread

    def ignore(self) -> None:
        """Ignore signals during exit, where Python would restore handlers that kill the process."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def again(self) -> None:
        """Set the handlers again after a library has replaced them."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def act(self) -> None:
        """Exit immediately on a signal from now on, or now if there was one."""
        with self._deciding:
            self.at_once = True
            if self.requested:
                self._end(self.requested)

    def leave_to(self, note: Callable[[str], None] | None) -> None:
        """Pass signals to `note` from now on, including one that had no effect yet."""
        with self._deciding:
            self.note = note
            if note and self.requested and not self.at_once:
                note(self.requested)

    def _handle(self, number: int, frame: Any) -> None:
        """Handle a signal in the main thread: raise `Ended` if requested, else do nothing."""
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
        """Whether no second signal has arrived."""
        if not select.select([self._hearing], [], [], 0)[0]:
            return True
        os.read(self._hearing, 1)
        return not self._late()

    def _late(self) -> bool:
        """Whether a signal counts as a second one."""
        return time.monotonic() - self._since > TOGETHER_SECONDS


_own: Handlers | None = None
_guard = threading.Lock()
_writing = 0
_held = threading.local()


def start() -> None:
    """Install the handlers in a command's process.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """
    global _own
    if _own is None and threading.current_thread() is threading.main_thread():
        _own = Handlers()


def started_as(package: str) -> bool:
    """Whether this process was started as `python -m PACKAGE.MODULE`, for this package."""
    # During import, argv has -m where the module's path will be.
    if sys.argv[:1] != ["-m"]:
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] == package


@contextmanager
def handling() -> Iterator[None]:
    """Install the handlers for a block of code, unless `start` was called before."""
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
    """Whether this process is a jaxnet command with these handlers."""
    return _own is not None


def requested() -> str | None:
    """The first signal that asked this process to end, such as `"SIGTERM"`."""
    return _own.requested if _own else None


def begin(doing: str) -> None:
    """Set the current activity, for the message "ended by SIGTERM while ..."."""
    if _own:
        _own.doing = doing


def at_once(doing: str, tell: Callable[[str], None] | None = None) -> None:
    """Exit immediately on a signal from now on, with the other processes of the job.

    Args:
        doing: the current activity; see `begin`.
        tell: sends the message to the other processes.
    """
    if _own:
        _own.doing, _own.tell = doing, tell
        _own.act()


def take_back() -> None:
    """Set our handlers again after a library has replaced them."""
    if _own:
        _own.again()


@contextmanager
def noting(note: Callable[[str], None]) -> Iterator[None]:
    """A context in which `note` is called with the name of each signal, instead of exiting.

    With our handlers it is called in another thread, otherwise by a handler of its own.
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
    """As `noting`, until called with None; it has an effect only with our handlers."""
    if _own:
        _own.leave_to(note)


@contextmanager
def deferring() -> Iterator[None]:
    """A context in which signals only set `requested`."""
    note_signals(lambda name: None)
    try:
        yield
    finally:
        note_signals(None)


@contextmanager
def raising() -> Iterator[None]:
    """A context in which the first signal raises `Ended` in the main thread, for cleanup."""
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
    """A context in which a signal doesn't exit: a file written within it is never truncated.

    Example:
        >>> with whole():
        ...     pass
    """
    global _writing
    with _guard:  # held for good when the process is about to exit
        _writing += 1
    try:
        yield
    finally:
        with _guard:
            _writing -= 1


def leave(text: str, patient: Callable[[], bool] = lambda: True) -> NoReturn:
    """Exit on a signal, without waiting for the main thread.

    Args:
        text: the message.
        patient: polled while a file is being written; False stops waiting for it.
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
    """Exit immediately, skipping Python's shutdown, in which JAX waits for lost peers.

    Args:
        code: the exit code.
        text: the message for stderr, if that can still be written.
    """
    # Flushing may block forever: the main thread may hold the lock, or a pipe may have no reader.
    saying = threading.Thread(target=_say_last, args=(text,), daemon=True)
    try:
        saying.start()
        saying.join(1.0)
    finally:  # also during Python's shutdown, when no thread can be started
        os._exit(code)


def _say_last(text: str) -> None:
    # Ctrl-C also ends the program that reads a pipe, often earlier.
    with suppress(OSError, ValueError):
        if text:
            # A progress bar has hidden the cursor.
            shown = "\x1b[?25h\n" if os.isatty(2) else ""
            os.write(2, f"{shown}{text}\n".encode())
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            stream.flush()


def _end_children() -> None:
    """Terminate data-loading processes, which would otherwise wait forever."""
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        with suppress(OSError, ValueError):
            child.terminate()


@atexit.register
def _last() -> None:
    if _own:
        _own.ignore()


def _hold() -> None:
    """Before a fork: block signals until the child has its own handlers."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if _own else None


def _let_go() -> None:
    if _held.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget() -> None:
    """In a forked child: reset the handlers, because it isn't the command."""
    global _own, _guard, _writing
    _guard, _writing = threading.Lock(), 0
    if _own is not None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _own = None
    _let_go()


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)
