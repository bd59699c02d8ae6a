"""Callbacks: progress on the screen, files in the run folder, and your own.

A callback observes a run and may end it. It is any object with some of the methods of `Callback`;
inheriting from it is not required. Callbacks are called at the end of chunks and epochs, never
inside a compiled program.

    class Enough:
        def on_epoch(self, row, trained):
            if row["val_accuracy"] > 0.99:
                return "good enough"  # ends the run and becomes its stop_reason
"""

from __future__ import annotations

import csv
import difflib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxnet.cluster import activity, processes
from jaxnet.errors import PeerError, UsageError
from jaxnet.files import appending, expanded, json_text, write_atomically
from jaxnet.training.history import History, Row


@dataclass(frozen=True)
class Plan:
    """The schedule of a run, known before its first step.

    Attributes:
        epochs: the total number of epochs; the last may be cut short by `steps`.
        steps_per_epoch: batches per epoch.
        steps: the total number of steps.
        first_step: 0, or the step from which a resumed run continues.
        history: the history of a resumed run so far.
        name: the name of the run in a series of runs, such as "fold 3/10".
    """

    epochs: int
    steps_per_epoch: int
    steps: int
    first_step: int
    history: History
    name: str = ""


class Callback:
    """Base class of callbacks. All methods are optional, and so is inheriting from this class.

    A string returned by `on_start`, `on_chunk` or `on_epoch` ends the run: it becomes
    `FitResult.stop_reason`, the best weights are restored, and the run is saved, as with any other
    stop reason. Calling `fit` again continues from there unless a callback stops it again;
    `on_start` may check `plan.history` for that. (`"preempted"` makes a command exit with code 75,
    "run me again".)

    With several processes all stop at the same step: after `on_chunk`, at the next
    synchronisation of the dispatch size, save or end of epoch, whichever comes first. Only process
    0 calls its callbacks. The network passed to them is then gathered on one device, so that this
    process can predict with it alone.

    If a method raises an exception, the run ends as if it had returned a stop reason: it is saved
    after the steps under way, `on_stop` is called, and then the exception is raised from `fit`,
    with a note that names the callback. Calling `fit` again continues from there.

    Attributes:
        looks: whether `on_epoch` uses the network, which costs time if it has to be gathered.

    Example:
        >>> class Watch(Callback):
        ...     def on_epoch(self, row, trained):
        ...         outputs = trained.predict(inputs)
        ...         return "good enough" if row["val_accuracy"] > 0.99 else None
    """

    looks = True

    def on_start(self, plan: Plan) -> str | None:
        """Called when training starts or resumes."""

    def on_chunk(self, step: int, loss: float | None) -> str | None:
        """Called after a chunk of steps; `loss` is the epoch's mean so far, if the task has one."""

    def on_epoch(self, row: Row, trained: Any) -> str | None:
        """Called after an epoch and its evaluation, before the epoch is saved.

        Args:
            row: the epoch's row of the history.
            trained: the current network (`jaxnet.training.Trained`). Its `state` is donated to the
                next step: copy what you want to keep.
        """

    def on_stop(self, reason: str) -> None:
        """Called when training is over, with `FitResult.stop_reason`, or `"error"` if it failed."""


METHODS = ("on_start", "on_chunk", "on_epoch", "on_stop")
# An exception in these waits until the run is saved.
_WHILE_TRAINING = ("on_chunk", "on_epoch")


@dataclass
class Watchers:
    """The callbacks of a run, and their request to stop.

    Attributes:
        callbacks: objects with some of the methods of `Callback`.
        wish: the stop reason that a callback returned, or the name of the first one that raised an
            exception; known in process 0 only.
        failure: the exception that the first one raised.
    """

    callbacks: Sequence[Any]
    wish: str | None = None
    failure: Exception | None = None
    _failed: list[Any] = field(default_factory=list)

    @property
    def present(self) -> Sequence[Any]:
        """The callbacks that this process calls: all in process 0, none elsewhere."""
        return self.callbacks if processes.is_first() else ()

    @property
    def look(self) -> bool:
        """Whether a callback uses the network."""
        return any(
            getattr(callback, "looks", hasattr(callback, "on_epoch")) for callback in self.callbacks
        )

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of all callbacks that have it, except of those that failed."""
        for callback in self.present:
            if not any(callback is failed for failed in self._failed):
                self.tell_one(callback, method, *arguments)

    def tell_one(self, callback: Any, method: str, *arguments: Any) -> None:
        """Call a method of one callback, if it has it, and record a stop reason that it returns.

        An exception in `on_chunk` or `on_epoch` is recorded too, until `raise_failure`.

        Raises:
            UsageError: it returned something other than None or a stop reason.
            Exception: what another method raised, with a note that names the callback.
        """
        name = f"{type(callback).__name__}.{method}"
        with activity.own.within(f"in the callback {name}", activity.CALLBACK):
            try:
                answer = getattr(callback, method, lambda *_: None)(*arguments)
                if method != "on_stop":
                    _check_answer(name, answer)
            except Exception as error:
                error.add_note(f"The callback {name} raised this.")
                if method not in _WHILE_TRAINING:
                    raise
                self._failed.append(callback)
                self.failure = self.failure or error
                answer = f"the callback {name} raised {type(error).__name__}: {error}"
                if error is not self.failure:
                    self.failure.add_note(f"Besides, {answer}")
        if method != "on_stop":
            self.wish = self.wish or answer

    def asked(self) -> str | None:
        """The requested stop reason, if any; a collective call."""
        return processes.from_first(lambda: self.wish)

    def raise_failure(self, saved: str) -> None:
        """Raise the exception of the first callback that failed, if any; a collective call.

        Args:
            saved: where the run was saved, as a sentence; added to the exception.

        Raises:
            Exception: in process 0, what the callback raised.
            PeerError: in the other processes.
        """
        failed = processes.from_first(
            lambda: self.failure and f"{self.failure}. {self.failure.__notes__[0]}"
        )
        if self.failure is not None:
            self.failure.add_note(saved)
            raise self.failure
        if failed is not None:
            raise PeerError(f"process 0 failed: {failed} {saved}")


def _check_answer(name: str, answer: Any) -> None:
    if answer is not None and not (isinstance(answer, str) and answer):
        raise UsageError(
            f"{name} returned {answer!r}: expected None, or a string that says why to end the run"
        )


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Check that all are callbacks.

    Raises:
        UsageError: one is a class instead of an object, has none of the methods of `Callback`, or
            has a method with a misspelt name.
    """
    for callback in callbacks:
        kind = callback if isinstance(callback, type) else type(callback)
        expected = f"expected objects with some of the methods {', '.join(METHODS)}"
        if isinstance(callback, type):
            raise UsageError(
                f"callbacks: {expected}, got the class {kind.__name__}: pass an instance of it"
            )
        own = [name for name in dir(kind) if name.startswith("on_") and name not in METHODS]
        if strays := [name for name in own if difflib.get_close_matches(name, METHODS)]:
            raise UsageError(
                f"callbacks: {expected}; {kind.__name__} has {strays[0]}, which is never called"
            )
        if not any(hasattr(callback, name) for name in METHODS):
            raise UsageError(f"callbacks: {expected}; {kind.__name__} has none of them")


@dataclass
class RunWriter(Callback):
    """Writes `metrics.jsonl` and `history.csv` into a run folder during training.

    Each epoch appends a line to both, at constant cost in a long run. A resumed run drops the lines
    of epochs that it will repeat, and a line truncated by a kill. `seconds` is in `metrics.jsonl`
    only, so that identical runs write an identical `history.csv`.
    """

    looks = False

    folder: Path
    _since: float = field(default=0.0, init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _columns: list[str] = field(default_factory=list, init=False)

    def on_start(self, plan: Plan) -> None:
        """Truncate the files to the epochs before `plan.first_step`."""
        self._since = time.perf_counter()
        path = self._lines
        earlier = {row["step"]: row for row in _read_lines(path)}
        with write_atomically(path) as file:
            for row in plan.history.rows:
                file.write(_line(earlier.get(row["step"], row)))
        self._rows = list(plan.history.rows)
        self._write_history()

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Append the row to both files."""
        now = time.perf_counter()
        self._rows.append(row)
        with appending(self._lines) as file:
            file.write(_line({**row, "seconds": round(now - self._since, 4)}))
        if row.keys() <= set(self._columns):
            with appending(self._history_file) as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write_history()
        self._since = now

    @property
    def _lines(self) -> Path:
        return expanded(self.folder) / "metrics.jsonl"

    @property
    def _history_file(self) -> Path:
        return expanded(self.folder) / "history.csv"

    def _write_history(self) -> None:
        """Write all rows; without rows, and so without a header, there is no file."""
        history = History(tuple(self._rows))
        self._columns = history.columns
        if self._rows:
            history.write_csv(self._history_file)
        else:
            self._history_file.unlink(missing_ok=True)


def _line(row: Mapping[str, float | None]) -> str:
    return json_text(row) + "\n"


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "step" in row:
                    rows.append(row)
    return rows
