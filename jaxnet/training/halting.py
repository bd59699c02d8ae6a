"""Halting: find the step that ended training, and the state to end with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxnet.cluster import processes
from jaxnet.training.programs import Log, Programs, halt_names, halt_reason
from jaxnet.training.progress import Progress

PyTree = Any


@dataclass(frozen=True)
class Halt:
    """A step that ended training.

    Attributes:
        reason: the reason of the metric `halt/REASON` that the step reported.
        step: the number of steps before it. If the task has `sound` the final state is the one
            after these steps, and otherwise the one that this step returned.
        batch: the batch of the step.
    """

    reason: str
    step: int
    batch: dict[str, Any]


def halted(
    programs: Programs, before: PyTree, state: PyTree, feed: Any, log: Log, progress: Progress
) -> tuple[PyTree, int, Halt] | None:
    """The final state, the steps taken to it, and the halt; None if no step of the chunk halted.

    Args:
        programs: the compiled task.
        before: a copy of the state before the chunk.
        state: the state after it.
        feed: its batches.
        log: its metrics.
        progress: the progress before it.
    """
    metrics = log.fetch()
    reason = halt_reason(metrics)
    taken = kept = len(jax.tree.leaves(metrics)[0])
    sound = programs.sound
    if sound and (reason or not sound(before, state)):
        reason = reason or halt_names(metrics)[0]

        def replay(steps: int) -> PyTree:
            return programs.train(progress.form, programs.copy(before), feed, steps)[0]

        state, kept = _rewound(before, replay, sound, taken - (halt_reason(metrics) is not None))
    if reason is None:
        return None
    halting = min(kept, taken - 1)
    batch = processes.on_host(feed.batch(halting))
    return state, kept, Halt(reason, progress.step + halting, batch)


def _rewound(
    before: PyTree,
    train: Callable[[int], PyTree],
    sound: Callable[[PyTree, PyTree], Any],
    most: int,
) -> tuple[PyTree, int]:
    """The last sound state of a chunk, and the number of steps to it, by bisection.

    The chunk is replayed from its start, `before`, with fewer steps of the same program, so that a
    healthy run pays for one copy and one check per chunk, not per step.
    """
    low, high, kept = 0, most + 1, before
    steps = most
    while high - low > 1:
        state = train(steps)
        if sound(before, state):
            low, kept = steps, state
        else:
            high = steps
        steps = (low + high) // 2
    return kept, low
