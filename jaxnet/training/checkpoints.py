"""Checkpoints: the only file that knows Orbax.

A checkpoint is all that a resume needs: the state, and the loop's progress (position in the data,
history, early stopping). Each step is saved once, asynchronously and atomically; `last` is the
newest step and `best` the one that early stopping holds for the best. Both are kept whatever the
keep policy says.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxnet import ending, locks, trees
from jaxnet.cluster import activity, join, processes
from jaxnet.errors import CheckpointError, UsageError
from jaxnet.files import expanded
from jaxnet.training.aside import Aside
from jaxnet.training.inventory import Unreadable, check_inventory, write_inventory
from jaxnet.training.stored_state import (
    as_stored,
    describe,
    from_description,
    from_stored,
    stored_shapes,
)

PyTree = Any
Slot = Literal["best", "last"]

log = logging.getLogger("jaxnet")

_START_AGAIN = "Put the file back, or start again with --no-resume (resume=False)."


class Restored(NamedTuple):
    """What a checkpoint holds."""

    step: int
    state: PyTree
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often to save.

    Attributes:
        folder: a folder of its own for one run's checkpoints, a sub-folder for each step.
        keep: how many of the newest steps to keep, and with each the one that was the best by then.
        every_steps: save this often within an epoch too.
        min_seconds: the end of an epoch is saved unless the last save is younger than this, so that
            short epochs don't spend their time on the disk; the end of the run always is, and so is
            the best step before any step that comes after it. A run that is killed takes the steps
            since its last save again, to the same bits.

    Raises:
        UsageError: an impossible value.
    """

    folder: Path
    keep: int = 2
    every_steps: int | None = None
    min_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(f"checkpoints: expected to keep at least 1, got {self.keep}")
        if self.every_steps is not None and self.every_steps < 1:
            raise UsageError(f"checkpoints: expected every_steps >= 1, got {self.every_steps}")
        if not self.min_seconds >= 0:
            raise UsageError(f"checkpoints: expected min_seconds >= 0, got {self.min_seconds}")

    def open(self) -> CheckpointStore:
        """The store in this folder, which is made if it isn't there.

        Raises:
            CheckpointError: the folder can't be written.
        """
        folder = expanded(self.folder).absolute()
        if problem := _unwritable(folder, make=True):
            raise CheckpointError(
                f"{folder}: checkpoints can't be written here: {problem}. Choose a folder that you "
                "may write, on a disk with space."
            )
        return CheckpointStore(folder, self.keep)


@dataclass
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path
    keep: int
    _saving: int | None = field(default=None, init=False)
    _hangs: bool = field(default=False, init=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts, no other run may write into the folder.

        Of the processes of one job the first one holds it for all.

        Raises:
            UsageError: another run does; the message names its process and host.
        """
        advice = "wait until it has ended, or choose another folder (--run-dir)"
        with ExitStack() as held:
            processes.by_first(lambda: held.enter_context(locks.alone(self.folder, advice)))
            yield

    def steps(self) -> list[int]:
        """The steps that are saved, oldest first, as process 0 finds them; all must call this."""
        return processes.from_first(self._listed)

    def _listed(self) -> list[int]:
        # Orbax writes under a temporary name, which isn't a number, and renames at the end.
        names = [entry.name for entry in self.folder.iterdir() if entry.is_dir()]
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, state: PyTree, progress: Mapping[str, Any], best_step: int) -> None:
        """Save in the background; a save still under way is finished first.

        Args:
            step: the name of the checkpoint. One that is there already is left as it is, because
                a step's state is determined by the run.
            state: on the host when this returns, so that the caller may donate it.
            progress: what else to keep, as JSON values.
            best_step: the step that must stay as long as this one does, or -1.

        Raises:
            CheckpointError: this or the previous checkpoint can't be written, or that takes too
                long; see `finish`.
        """
        self._bounded(lambda: self._save(step, state, progress, best_step))

    def _save(self, step: int, state: PyTree, progress: Mapping[str, Any], best_step: int) -> None:
        import orbax.checkpoint as ocp

        self._finish()
        if step in self.steps():
            return
        # Orbax makes its folders in the background, and where it can't, threads of it wait for them
        # for minutes, and the end of the process for these.
        if problem := processes.from_first(lambda: _unwritable(self.folder)):
            raise self._cant_write(step, OSError(problem))
        plain = as_stored(state)
        self._saving = step
        noted = _Noted(describe(plain), progress, best_step, step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(plain), progress=ocp.args.JsonSave(noted._asdict())
        )
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            self._saving = None
            raise self._cant_write(step, error) from error

    def finish(self) -> None:
        """Wait until the save under way is on disk.

        A file system may hang, and whoever waits for it with it. Several processes are ended by
        their watchdog then; a process that is alone waits for as long as that would
        (`jaxnet.cluster.activity.SAVING` times `JAXNET_PROGRESS_TIMEOUT`). A command of ours ends
        with exit code 1. A program of your own gets an exception; Python waits at its end for the
        threads that write, so `os._exit` is what ends it.

        Raises:
            CheckpointError: it can't be written, or isn't in that time.
        """
        self._bounded(self._finish)

    def _finish(self) -> None:
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._cant_write(self._saving, error) from error
        finally:
            self._saving = None
        self._drop_old()

    def restore(
        self,
        slot: Slot | int,
        like: PyTree,
        check: Callable[[Mapping[str, Any]], None] = lambda progress: None,
    ) -> Restored | None:
        """The newest readable checkpoint for `"last"`, or a certain step; None if there is none.

        Args:
            slot: `"last"`, `"best"`, or a step.
            like: the state to restore, as arrays or `jax.ShapeDtypeStruct`s.
            check: is given the progress first, and raises where this can't be gone on with.

        Raises:
            CheckpointError: the checkpoint is of another model, or none can be read.
        """
        if slot == "best":
            last = self.restore("last", like)
            best = -1 if last is None else processes.from_first(lambda: self._best_at(last.step))
            return last if last is None or best in (-1, last.step) else self.restore(best, like)
        if slot != "last":
            try:
                return self._read(slot, like, check)
            except Unreadable as error:
                raise CheckpointError(f"{error}. {_START_AGAIN}") from error
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                restored = self._read(step, like, check)
            except Unreadable as error:
                problems.append(str(error))
                continue
            for problem in problems:
                log.warning("%s. Using the newest good checkpoint, step %d.", problem, step)
            return restored
        if problems:
            raise CheckpointError(
                f"{'; '.join(problems)}. No other is left in {self.folder}. {_START_AGAIN}"
            )
        return None

    def drop_after(self, step: int) -> None:
        """Forget the checkpoints newer than `step`, which could not be read or aren't wanted."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)

    def close(self) -> None:
        """Wait for what is under way and let Orbax's threads go.

        Unlike `finish` it asks nothing of other processes, which after an error in this one may be
        at anything.
        """
        if self._hangs:
            return
        try:
            if "_manager" in self.__dict__:
                self._bounded(self._manager.close)
                del self.__dict__["_manager"]
        finally:
            if "_aside" in self.__dict__:
                self.__dict__.pop("_aside").end()

    @cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        _hush()
        _ignore_echoes()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_inventory),
        )

        class Manager(ocp.CheckpointManager):
            def reached_preemption(self, step: int) -> bool:
                # It would ask JAX's service, with the step as the number of the question. The loop
                # asks too, with numbers of its own, and by the last number that it heard the
                # service chooses where all processes stop: a SIGTERM after a save would be lost.
                return False

        return Manager(self.folder, options=options)

    def _read(
        self, step: int, like: PyTree, check: Callable[[Mapping[str, Any]], None]
    ) -> Restored:
        import orbax.checkpoint as ocp

        folder = self.folder / str(step)
        if problem := processes.from_first(lambda: _damage(folder)):
            raise Unreadable(problem)
        with _read_by_all(folder):
            noted = _noted(folder)
        check(noted.progress)
        target, saved = stored_shapes(like), from_description(noted.tree)
        differences = trees.differences(from_description(describe(target)), saved)
        if differences:
            raise CheckpointError(
                f"{folder} is a checkpoint of another model, optimizer or technique, or of an "
                "earlier version of them:\n  "
                + "\n  ".join(differences)
                + "\nUse the configuration that it was made with, another folder, or --no-resume "
                "(resume=False)."
            )
        with _read_by_all(folder):
            try:
                items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
                state = self._manager.restore(step, args=items)["state"]
            except Exception as error:
                raise Unreadable(f"{_file_in(str(error), folder)}: {_brief(error)}") from error
        return Restored(step, from_stored(state, like), noted.progress)

    def _write_inventory(self) -> None:
        """Note length and checksums of each file, so that damage is found and named.

        Orbax calls this when all processes have written, right before the folder gets its name: a
        checkpoint that is there has its inventory.
        """
        if not processes.is_first():
            return
        (folder,) = (f for f in self.folder.iterdir() if f.name.split(".")[0] == str(self._saving))
        write_inventory(folder, "state", "progress")

    def _drop_old(self) -> None:
        """Keep the newest few, and what was the best one at each: each is enough to go on from."""
        for step in processes.from_first(self._superfluous):
            self._manager.delete(step)

    def _superfluous(self) -> list[int]:
        steps = self._listed()
        kept = steps[-self.keep :]
        best = {self._best_at(step) for step in kept}
        return [step for step in steps[: -self.keep] if step not in best]

    def _best_at(self, step: int) -> int:
        """The best step when this one was saved; -1 where that isn't known."""
        try:
            return _noted(self.folder / str(step)).best_step
        except Unreadable:
            return -1

    def _bounded(self, work: Callable[[], None]) -> None:
        """Do what may hang with a file system; a process that is alone gives up after a while."""
        if processes.several():
            work()
            return
        since, seconds = time.strftime("%H:%M:%S"), activity.SAVING * join.patience()
        outcome = self._aside.begin(work)
        try:
            error = outcome.get(timeout=seconds)
        except queue.Empty:
            self._hangs = True
            text = (
                f"{self.folder}: saving has got no further since {since} ({seconds:g} s): its file "
                "system doesn't answer. See to it, or choose another folder, and run again to "
                f"resume from the newest checkpoint; {join.PROGRESS_TIMEOUT} says how many seconds "
                f"a step may take, and a save {activity.SAVING:g} times as long"
            )
            if ending.in_force():  # all that would clean up may hang too
                ending.leave_process(1, f"error: {text}.")
            raise CheckpointError(text) from None
        if error is not None:
            raise error

    @cached_property
    def _aside(self) -> Aside:
        return Aside()

    def _cant_write(self, step: int, error: Exception) -> CheckpointError:
        good = [s for s in self._listed() if s != step]
        left = f"the newest good one is step {good[-1]}" if good else "there is no earlier one"
        where = _file_in(str(error), self.folder / str(step))
        return CheckpointError(
            f"{where}: the checkpoint of step {step} can't be written: {_brief(error)}. Nothing "
            f"else is lost: {left}. Make room or choose another folder, and run again to resume."
        )


def _unwritable(folder: Path, make: bool = False) -> str | None:
    """Why no file can be written in a folder, if that is so."""
    probe = folder / f".probe-{jax.process_index()}"
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


def read_arrays(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by path, for looking at it without the model.

    On whatever devices it was saved, they are read onto one of this process.

    Args:
        folder: a run's `checkpoints` folder.
        step: which of them.
    """
    import orbax.checkpoint as ocp

    _hush()
    saved = expanded(folder).absolute() / str(step) / "state"
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            checkpointer.metadata(saved).item_metadata,
        )
        tree = checkpointer.restore(saved, target)
    return {path: np.asarray(leaf) for path, leaf in trees.named(tree).items()}


def _hush() -> None:
    """Orbax reports each save and its environment at length; errors reach us as exceptions."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


@cache
def _ignore_echoes() -> None:
    """Keep a failed save to one message.

    A full disk ends several writes. Orbax raises the error of the first one and closes its event
    loop; tensorstore then finds it closed when the others end, and has nobody to tell but the
    interpreter, which prints that.
    """
    rest = sys.unraisablehook

    def hook(event: Any) -> None:
        echo = isinstance(event.exc_value, RuntimeError) and event.object is None
        if not (echo and str(event.exc_value) == "Event loop is closed"):
            rest(event)

    sys.unraisablehook = hook


@contextmanager
def _read_by_all(folder: Path) -> Iterator[None]:
    """What one process can't read, none restores."""
    problem = None
    try:
        yield
    except Unreadable as error:
        problem = error
    failed = processes.where(problem is not None)
    if problem is None and failed:
        problem = Unreadable(f"{folder}: process {failed[0]} can't read it")
    if problem is not None:
        raise problem


class _Noted(NamedTuple):
    """What a checkpoint says of itself besides the state."""

    tree: Mapping[str, list[Any]]
    progress: Mapping[str, Any]
    best_step: int = -1
    step: int | None = None
    """the step that it was saved at; earlier versions noted none"""


def _noted(folder: Path) -> _Noted:
    file = folder / "progress" / "metadata"
    try:
        noted = _Noted(**json.loads(file.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise Unreadable(f"{file}: {error}") from error
    if noted.step not in (None, int(folder.name)):
        raise Unreadable(f"{folder} is not what its name says: it was saved at step {noted.step}")
    return noted


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, if anything is."""
    try:
        check_inventory(folder)
    except Unreadable as error:
        return str(error)
    return None


def _file_in(message: str, folder: Path) -> str:
    """The file inside `folder` that an error message speaks of, or the folder."""
    start = message.find(str(folder))
    if start < 0:
        return str(folder)
    return message[start:].split('"')[0].split("'")[0].split("\n")[0].rstrip(":., ")


def _brief(error: Exception) -> str:
    """What a file system says, or the first line without tensorstore's specification."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if os.strerror(number) in str(error):
            return os.strerror(number)
    return str(error).split(" [")[0].splitlines()[0].rstrip(". ")[:300]
