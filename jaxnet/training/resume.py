"""Resuming a run: checks of what must not change, and messages about what did."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxnet import trees
from jaxnet.errors import UsageError
from jaxnet.training.checkpoints import CheckpointStore
from jaxnet.training.early_stopping import EarlyStopping, Stopping
from jaxnet.training.fingerprints import other_data, other_task, other_versions
from jaxnet.training.programs import without_halts
from jaxnet.training.progress import Progress

PyTree = Any

log = logging.getLogger("jaxnet")
resume_log = logging.getLogger("jaxnet.resume")

_WAY_OUT = "another folder, or start over in this one with --no-resume (resume=False)."


@dataclass(frozen=True)
class Wanted:
    """The requested run, to be compared with a saved one.

    Attributes:
        start: its progress before the first step.
        steps: the total number of steps.
        metrics: a training step's metrics, as shapes.
        early_stopping: the rule, resolved for this run's metrics.
    """

    start: Progress
    steps: int
    metrics: PyTree
    early_stopping: EarlyStopping


def resumed(
    store: CheckpointStore, shapes: PyTree, wanted: Wanted, resume: bool
) -> tuple[PyTree, Progress] | None:
    """State and progress of the latest intact checkpoint; None if there is none to resume from.

    Args:
        store: the checkpoint store.
        shapes: the state, as shapes.
        wanted: the requested run.
        resume: whether to resume; if not, existing checkpoints are deleted.

    Raises:
        UsageError: the saved run is a different one; the message lists the differences.
        CheckpointError: no checkpoint can be read.
    """
    check = partial(_check_begun_alike, store, wanted.start)
    restored = store.restore("last", shapes, check) if resume else None
    if restored is None:
        store.drop_after(-1)
        return None
    progress = Progress.from_json(restored.progress)
    _check_task(store, progress, wanted)
    _check_sums(store, progress, wanted)
    if progress.step > wanted.steps:
        raise UsageError(
            f"{store.folder}: this run has taken {progress.step} steps, and {wanted.steps} are "
            f"requested. Request as many, {_WAY_OUT}"
        )
    store.drop_after(restored.step)
    stopping = _reevaluated(store, progress, wanted)
    resume_log.info("%s: resuming from step %d", store.folder, progress.step)
    progress = replace(progress, stopping=stopping, fingerprints=wanted.start.fingerprints)
    return restored.state, progress


def say_done(store: CheckpointStore, progress: Progress, reason: str) -> None:
    """Log that a resumed run was already complete."""
    why = f"all {progress.step} steps are done"
    if progress.stopping.reason is not None:
        why = f"it ended at step {progress.step} ({reason.replace('_', ' ')})"
        if reason == "early_stopping":
            why += "; with more patience it continues from there"
    log.warning(
        "%s: nothing is left to do: %s. Its result is used as it is; --no-resume (resume=False) "
        "trains from scratch.",
        store.folder,
        why,
    )


def _check_begun_alike(store: CheckpointStore, start: Progress, saved: Mapping[str, Any]) -> None:
    """Refuse to resume with other data or another order of it."""
    for name in ("seed", "batch_size", "examples"):
        before, now = saved[name], getattr(start, name)
        if before != now:
            raise UsageError(
                f"{store.folder}: this run was started with {name} {before}, and now it is {now}. "
                f"Use the same, {_WAY_OUT}"
            )
    before = saved.get("fingerprints") or {}
    if not before:
        log.warning(
            "%s: this run was started by an earlier version, which didn't save fingerprints of its "
            "data and task: whether they are the same as now can't be checked",
            store.folder,
        )
    if others := other_data(before, start.fingerprints):
        raise UsageError(
            f"{store.folder}: this run was started with other data:\n  "
            + "\n  ".join(others)
            + f"\nUse the same, {_WAY_OUT}"
        )


def _check_task(store: CheckpointStore, progress: Progress, wanted: Wanted) -> None:
    before, now = progress.fingerprints, wanted.start.fingerprints
    others = other_task(before, now)
    if not others:
        return
    said = "\n  ".join(others)
    if versions := other_versions(before, now):
        log.warning(
            "%s: the training step isn't the one that this run was started with:\n  %s\nThis may "
            "be due to other versions (%s). Whether the task is the same can't be checked.",
            store.folder,
            said,
            ", ".join(versions),
        )
        return
    raise UsageError(
        f"{store.folder}: this run was started with another task. What differs is:\n  {said}\n"
        f"Use the same, {_WAY_OUT}"
    )


def _check_sums(store: CheckpointStore, progress: Progress, wanted: Wanted) -> None:
    """Refuse other metrics within an epoch, because they are summed over it."""
    measured = trees.named(without_halts(wanted.metrics)).keys()
    if progress.sums is not None and (others := measured ^ progress.sums.keys()):
        raise UsageError(
            f"{store.folder}: this run was saved within an epoch with other metrics: "
            f"{', '.join(sorted(others))} were measured only before or only now. "
            f"Use the same metrics, {_WAY_OUT}"
        )


def _reevaluated(store: CheckpointStore, progress: Progress, wanted: Wanted) -> Stopping:
    """The memory of early stopping if the current rule had been used from the start.

    Early stopping doesn't influence training, so resuming with a new rule is exact. If the
    checkpoint of the best step was deleted, the best saved step replaces it.
    """
    rule, rows = wanted.early_stopping, progress.history.rows
    monitor, judged = rule.monitor, rule.over(rows)
    if judged == progress.stopping:
        return judged
    before = progress.stopping
    if judged.best_step not in (-1, *store.steps()):
        kept = set(store.steps())
        best = rule.over([row for row in rows if row["step"] in kept])
        log.warning(
            "%s: the early stopping rule has changed. By %s the best step so far was %d (%g), "
            "which wasn't kept; the best saved step is %s",
            *(store.folder, monitor, judged.best_step, judged.best),
            "none" if best.best is None else f"{best.best_step} ({best.best:g})",
        )
        return replace(judged, best=best.best, best_step=best.best_step)
    if not any(monitor in row for row in rows):
        log.warning("%s: %s wasn't measured so far: it counts from here on", store.folder, monitor)
    elif judged.best_step != before.best_step:
        log.warning(
            "%s: the early stopping rule has changed. By %s, over all epochs so far, the best step "
            "is %d",
            *(store.folder, monitor, judged.best_step),
        )
    if before.reason and not judged.reason:
        log.warning(
            "%s: this run had ended at step %d (%s) and now continues",
            *(store.folder, progress.step, before.reason.replace("_", " ")),
        )
    return judged
