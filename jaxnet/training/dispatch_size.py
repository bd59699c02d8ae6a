"""How many steps a dispatch takes, so that it lasts neither too long nor too short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from jaxnet.cluster import processes

# A dispatch should last no longer than this, so that a signal is answered and the screen moves. But
# each one copies the state into its loop and out again: with the 11 million parameters of a
# ResNet-18 that takes a quarter as long as a step of 32 small images.
DISPATCH_SECONDS = 1.0
# Several processes agree on their pace when these first steps are timed, and then ever more rarely.
TIMED_STEPS = 2
GROWTH = 8


class Pace(Protocol):
    """How many steps to take next."""

    def steps(self, step: int) -> int:
        """How many from `step` on, at least 1; 0 where there is nothing more to do."""
        ...

    def due(self, step: int) -> bool:
        """Whether `agree` has to be called before steps after this one are asked for."""
        ...

    def agree(self, step: int) -> None:
        """Note the pace so far."""
        ...

    def close(self) -> None:
        """No more steps are wanted."""
        ...


class OwnPace:
    """The pace of a process that is alone: as its clock says at any moment.

    Args:
        measured: seconds a step, lately; None before it is known.
    """

    def __init__(self, measured: Callable[[], float | None]) -> None:
        self._measured = measured

    def steps(self, step: int) -> int:
        """See `Pace`."""
        return _in_time(self._measured())

    def due(self, step: int) -> bool:
        """See `Pace`."""
        return False

    def agree(self, step: int) -> None:
        """See `Pace`."""

    def close(self) -> None:
        """See `Pace`."""


class AgreedPace:
    """The pace of several processes, which have to dispatch the same steps: process 0's.

    A thread that runs ahead of training waits here until the pace for its steps is agreed on.

    Args:
        measured: seconds a step, lately; None before it is known.
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
        """See `Pace`."""
        with self._changed:
            self._changed.wait_for(lambda: step < self._until or self._closed)
            return 0 if self._closed else min(self._steps, self._until - step)

    def due(self, step: int) -> bool:
        """See `Pace`."""
        return step >= self._until

    def agree(self, step: int) -> None:
        """See `Pace`; all processes call this at the same step."""
        steps = processes.from_first(lambda: _in_time(self._measured()))
        with self._changed:
            self._steps = steps
            self._until = self._first + GROWTH * (step - self._first)
            self._changed.notify_all()

    def close(self) -> None:
        """See `Pace`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def pace(measured: Callable[[], float | None], first: int) -> Pace:
    """The pace of a run from its step `first` on."""
    return AgreedPace(measured, first) if processes.several() else OwnPace(measured)


def _in_time(seconds: float | None) -> int:
    # The first dispatch compiles and the second is timed: one step each.
    return max(1, int(DISPATCH_SECONDS / seconds)) if seconds else 1
