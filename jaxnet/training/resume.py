"""Going on with a run: what has to be as it was begun, what may change, and saying which."""

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

_WAY_OUT = "another folder, or begin anew in this one with --no-resume (resume=False)."


@dataclass(frozen=True)
class Wanted:
    """What a run is asked to be.

    Attributes:
        start: its progress before the first step.
        steps: how many there are to be in all.
        metrics: what a training step measures, as shapes.
        early_stopping: when to stop, resolved for what this run measures.
    """

    start: Progress
    steps: int
    metrics: PyTree
    early_stopping: EarlyStopping


def resumed(
    store: CheckpointStore, shapes: PyTree, wanted: Wanted, resume: bool
) -> tuple[PyTree, Progress] | None:
    """State and progress of the newest good checkpoint, if there is one to go on from.

    Args:
        store: where to look.
        shapes: the state, as shapes.
        wanted: what the run is asked to be now.
        resume: whether to go on; otherwise what is there is dropped.

    Raises:
        UsageError: it was begun as another run; the message says what isn't the same.
        CheckpointError: no checkpoint can be used.
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
            f"asked for. Ask for as many, {_WAY_OUT}"
        )
    store.drop_after(restored.step)
    stopping = _judged_anew(store, progress, wanted)
    resume_log.info("%s: going on from step %d", store.folder, progress.step)
    progress = replace(progress, stopping=stopping, fingerprints=wanted.start.fingerprints)
    return restored.state, progress


def say_done(store: CheckpointStore, progress: Progress, reason: str) -> None:
    """Say that a run was over before it went on."""
    why = f"all {progress.step} steps are done"
    if progress.stopping.reason is not None:
        why = f"it ended at step {progress.step} ({reason.replace('_', ' ')})"
        if reason == "early_stopping":
            why += "; more patience goes on from there"
    log.warning(
        "%s: nothing is left to do: %s. Its result is used as it is; --no-resume (resume=False) "
        "trains anew.",
        store.folder,
        why,
    )


def _check_begun_alike(store: CheckpointStore, start: Progress, saved: Mapping[str, Any]) -> None:
    """Refuse another order of the data, and other data."""
    for name in ("seed", "batch_size", "examples"):
        before, now = saved[name], getattr(start, name)
        if before != now:
            raise UsageError(
                f"{store.folder}: this run was begun with {name} {before}, and now it is {now}. "
                f"Take the same, {_WAY_OUT}"
            )
    before = saved.get("fingerprints") or {}
    if not before:
        log.warning(
            "%s: this run was begun by an earlier version, which didn't note what its data and "
            "task were: whether they are the same as now can't be checked",
            store.folder,
        )
    if others := other_data(before, start.fingerprints):
        raise UsageError(
            f"{store.folder}: this run was begun with other data:\n  "
            + "\n  ".join(others)
            + f"\nTake the same, {_WAY_OUT}"
        )


def _check_task(store: CheckpointStore, progress: Progress, wanted: Wanted) -> None:
    before, now = progress.fingerprints, wanted.start.fingerprints
    others = other_task(before, now)
    if not others:
        return
    said = "\n  ".join(others)
    if versions := other_versions(before, now):
        log.warning(
            "%s: the training step isn't the one that this run was begun with:\n  %s\nThat may be "
            "due to other versions (%s). Whether the task is the same can't be told.",
            store.folder,
            said,
            ", ".join(versions),
        )
        return
    raise UsageError(
        f"{store.folder}: this run was begun with another task. What differs is:\n  {said}\n"
        f"Take the same, {_WAY_OUT}"
    )


def _check_sums(store: CheckpointStore, progress: Progress, wanted: Wanted) -> None:
    """Refuse other metrics in the middle of an epoch, over which they are summed."""
    measured = trees.named(without_halts(wanted.metrics)).keys()
    if progress.sums is not None and (others := measured ^ progress.sums.keys()):
        raise UsageError(
            f"{store.folder}: this run was saved within an epoch, and by then it did not measure "
            f"the same as now: {', '.join(sorted(others))} were measured only before or only now. "
            f"Take the same metrics, {_WAY_OUT}"
        )


def _judged_anew(store: CheckpointStore, progress: Progress, wanted: Wanted) -> Stopping:
    """What early stopping would remember by now, had it been as it is now from the beginning.

    It only watches, so to go on is then exact. But of a best step that wasn't kept there is no
    state: the best of those that are stands in for it.
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
            "%s: early stopping isn't what it was. By %s the best step so far was %d (%g), which "
            "wasn't kept; the best of those that were is %s",
            *(store.folder, monitor, judged.best_step, judged.best),
            "none" if best.best is None else f"{best.best_step} ({best.best:g})",
        )
        return replace(judged, best=best.best, best_step=best.best_step)
    if not any(monitor in row for row in rows):
        log.warning("%s: %s wasn't measured so far: it counts from here on", store.folder, monitor)
    elif judged.best_step != before.best_step:
        log.warning(
            "%s: early stopping isn't what it was. All epochs so far are judged anew, by %s: the "
            "best step is %d",
            *(store.folder, monitor, judged.best_step),
        )
    if before.reason and not judged.reason:
        log.warning(
            "%s: this run had ended at step %d (%s), and now it goes on",
            *(store.folder, progress.step, before.reason.replace("_", " ")),
        )
    return judged
