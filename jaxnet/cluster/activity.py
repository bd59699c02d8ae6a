"""The current activity of this process, to detect stalls.

A live process may still be stuck. So training announces its activities: each new announcement
counts as progress, and an activity that lasts too long as a stall. `jaxnet.cluster.watchdog` sends
them to the other processes.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

# The time limits of other activities, as multiples of a step's.
COMPILING = 6.0
EVALUATING = 3.0
SAVING = 2.0
CALLBACK = 2.0
# The number of calls shown per thread, and of threads.
CALLS = 5
THREADS = 4
# Threads of the data pipeline, whose calls are shown beside those of the main thread.
_SHOWN = ("jaxnet-pipeline", "jaxnet-reader")


@dataclass(frozen=True)
class State:
    """The activity of a process.

    Attributes:
        doing: its description.
        step: the steps taken so far.
        seconds: how long it has lasted.
        since: the time of day when it began.
        factor: its time limit as a multiple of a step's; infinite outside of training.
        waits: whether it may be blocked by another process.
        threads: the stack traces of its threads, as lines of text; only if it takes long.
    """

    doing: str = "not training"
    step: int = 0
    seconds: float = 0.0
    since: str = ""
    factor: float = math.inf
    waits: bool = False
    threads: tuple[str, ...] = ()

    @property
    def outside(self) -> bool:
        """Whether the process isn't training."""
        return math.isinf(self.factor)

    def over(self, patience: float) -> bool:
        """Whether it exceeds its time limit, if that of a step is `patience` seconds."""
        return self.seconds > self.factor * patience

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible values, for a message."""
        return {**asdict(self), "factor": None if self.outside else self.factor}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> State:
        """The inverse of `to_json`."""
        factor = math.inf if values["factor"] is None else values["factor"]
        return State(**{**values, "factor": factor, "threads": tuple(values["threads"])})


@dataclass
class Activity:
    """The activity of a process, set by its main thread and read by the watchdog thread.

    Example:
        >>> activity = Activity()
        >>> with activity.training():
        ...     activity.begin("waiting for data")
        ...     activity.step = 3
        ...     activity.now().doing, activity.now().step
        ('waiting for data', 3)
        >>> activity.now().doing
        'not training'
    """

    step: int = 0
    left_early: bool = False
    _state: State = State()
    _began: float = 0.0

    def begin(self, doing: str, factor: float = 1.0, waits: bool = False) -> None:
        """Begin an activity with a time limit of `factor` times that of a step."""
        state = State(doing, factor=factor, waits=waits, since=time.strftime("%H:%M:%S"))
        self._state, self._began = state, time.monotonic()

    def beat(self) -> None:
        """Report progress of the current activity."""
        self._began = time.monotonic()

    def forgive(self, seconds: float) -> None:
        """Exclude the time for which the process was suspended."""
        self._began += seconds

    @contextmanager
    def within(self, doing: str, factor: float) -> Iterator[None]:
        """A nested activity, after which the current one continues; no effect outside of training.

        After an error the current one isn't restored; `ending` announces what follows.
        """
        before = self._state
        if before.outside:
            yield
            return
        self.begin(doing, factor)
        yield
        self.begin(before.doing, before.factor, before.waits)

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context in which the process is training."""
        self.left_early = False
        self.begin("preparing to train", COMPILING, waits=True)
        try:
            yield
        except BaseException as error:
            self.left_early = True
            self._state = State(f"out of training after {_named(error)}")
            raise
        self._state = State()

    def ending(self, error: BaseException) -> None:
        """Announce that training ends with an error."""
        self.begin(f"ending after {_named(error)}")

    def now(self, details_after: float = math.inf) -> State:
        """The current state.

        Args:
            details_after: seconds after which stack traces are included.
        """
        state, seconds = self._state, time.monotonic() - self._began
        if state.outside:
            return replace(state, step=self.step)
        threads = shown_threads() if seconds > details_after else ()
        return replace(state, step=self.step, seconds=seconds, threads=threads)


own = Activity()
"""The activity of this process."""


def stalled(states: Mapping[Any, State], patience: float) -> str | None:
    """Describe the processes that stall a job; None if it makes progress.

    Args:
        states: the state of each process, by its name in messages.
        patience: the time limit of a step in seconds.

    Example:
        >>> at = {"process 0": State("taking steps", 7, 31.0, "12:00:00", 1.0, waits=True)}
        >>> at["process 1"] = State("waiting for data", 7, 31.0, "12:00:00", 1.0)
        >>> stalled(at, 30.0)
        'process 1 has got no further since 12:00:00 (31 s): waiting for data, after step 7'
        >>> stalled(at, 60.0) is None
        True
    """
    over = {who for who, state in states.items() if state.over(patience)}
    if not over:
        return None
    guilty = [who for who in states if who in over and not states[who].waits]
    if not guilty:
        busy = [who for who, state in states.items() if not (state.waits or state.outside)]
        if busy:
            return None  # within its time limit
        guilty = [who for who, state in states.items() if state.outside]
    if not guilty:
        least = min(state.step for state in states.values())
        guilty = [who for who, state in states.items() if state.step == least]
    lines = "; ".join(_described(who, states[who]) for who in guilty)
    threads = [f"{who}, {line}" for who in guilty for line in states[who].threads]
    return "\n".join([lines, *threads])


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _described(who: Any, state: State) -> str:
    if state.outside:
        return f"{who} is {state.doing}, after step {state.step}, and the others wait for it"
    since = f"since {state.since} ({state.seconds:.0f} s)"
    return f"{who} has got no further {since}: {state.doing}, after step {state.step}"


def shown_threads() -> tuple[str, ...]:
    """The last calls of the main thread and of the data pipeline's threads."""
    frames, shown = sys._current_frames(), []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        ours = thread is threading.main_thread() or thread.name.startswith(_SHOWN)
        if frame is not None and ours and not _idle(frame):
            shown.append(f"thread {thread.name}:{_calls(frame)}")
    return tuple(shown[:THREADS])


def _idle(frame: FrameType) -> bool:
    """Whether a pool thread is idle."""
    return frame.f_code.co_name == "_worker"


def _calls(frame: FrameType) -> str:
    calls = traceback.extract_stack(frame)[-CALLS:]
    return "".join(f"\n    {c.filename}:{c.lineno} in {c.name}: {c.line}" for c in calls)
