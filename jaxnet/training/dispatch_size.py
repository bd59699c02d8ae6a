"""The number of steps per dispatch, chosen so that a dispatch takes about a second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from jaxnet.cluster import processes

# A dispatch should take no longer than this, so that signals are handled and progress is shown. But
# each one copies the state into its loop and out again: for the 11 million parameters of a
# ResNet-18 that takes a quarter as long as a step of 32 small images.
DISPATCH_SECONDS = 1.0
# Several processes synchronise the size after these first steps, and then at growing intervals.
TIMED_STEPS = 2
GROWTH = 8


class Pace(Protocol):
    """Chooses the number of steps of the next dispatch."""

    def steps(self, step: int) -> int:
        """The number of steps from `step` on, at least 1; 0 after `close`."""
        ...

    def due(self, step: int) -> bool:
        """Whether `agree` has to be called before asking for steps beyond `step`."""
        ...

    def agree(self, step: int) -> None:
        """Update the size from the measured time, in all processes at the same step."""
        ...

    def close(self) -> None:
        """Release a thread that waits in `steps`: no more steps are needed."""
        ...


class OwnPace:
    """The dispatch size of a single process, from its latest measurement.

    Args:
        measured: seconds per step, lately; None before it is known.
    """

    def __init__(self, measured: Callable[[], float | None]) -> None:
        self._measured = measured

    def steps(self, step: int) -> int:
        """The number of steps that fit into `DISPATCH_SECONDS`."""
        return _in_time(self._measured())

    def due(self, step: int) -> bool:
        """False: there is no other process to agree with."""
        return False

    def agree(self, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: `steps` never waits."""


class AgreedPace:
    """The dispatch size of several processes, which must be the same: that of process 0.

    A prefetching thread that runs ahead of training blocks in `steps` until the processes have
    agreed on the size for its steps.

    Args:
        measured: seconds per step, lately; None before it is known.
        first: the first step.
    """

    def __init__(self, measured: Callable[[], float | None], first: int) -> None:
        self._measured = measured
        self._first = first
        self._until = first + TIMED_STEPS
        self._steps = 1
        self._changed = threading.Condition()
        self._closed = False

    def steps(self, step: int) -> int:
        """The agreed number of steps; blocks until it is known for `step`."""
        with self._changed:
            self._changed.wait_for(lambda: step < self._until or self._closed)
            return 0 if self._closed else min(self._steps, self._until - step)

    def due(self, step: int) -> bool:
        """Whether the agreed size holds only for steps before this one."""
        return step >= self._until

    def agree(self, step: int) -> None:
        """Take over the size of process 0; a collective call, at the same step everywhere."""
        steps = processes.from_first(lambda: _in_time(self._measured()))
        with self._changed:
            self._steps = steps
            self._until = self._first + GROWTH * (step - self._first)
            self._changed.notify_all()

    def close(self) -> None:
        """Release a thread that waits in `steps`, which then returns 0."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def pace(measured: Callable[[], float | None], first: int) -> Pace:
    """The `Pace` of a run that starts or resumes at step `first`."""
    return AgreedPace(measured, first) if processes.several() else OwnPace(measured)


def _in_time(seconds: float | None) -> int:
    # The first dispatch compiles and the second is timed: one step each.
    return max(1, int(DISPATCH_SECONDS / seconds)) if seconds else 1
