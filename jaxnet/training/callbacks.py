"""What watches a run: progress on the screen, files in the run folder, and your own.

A callback is told what happens, and may end the run. Write one by giving a class some of the
methods of `Callback`, which it need not inherit from; it is called at the end of chunks and
epochs, never within a compiled program.

    class Enough:
        def on_epoch(self, row, state):
            if row["val_accuracy"] > 0.99:
                return "good enough"  # which ends the run, and is its stop_reason
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
from jaxnet.errors import UsageError
from jaxnet.files import appending, expanded, json_text, write_atomically
from jaxnet.training.history import History, Row


@dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
        epochs: the number of epochs in all; the last may be cut short by `steps`.
        steps_per_epoch: batches an epoch.
        steps: the number of steps in all.
        first_step: 0, or where a resumed run goes on.
        history: what the run had measured before.
        name: what the run is called where several follow each other, such as "fold 3/10".
    """

    epochs: int
    steps_per_epoch: int
    steps: int
    first_step: int
    history: History
    name: str = ""


class Callback:
    """Told of a run as it goes on. Every method may be left out, and so may this base class.

    A text that `on_start`, `on_chunk` or `on_epoch` returns ends the run: it becomes
    `FitResult.stop_reason`, the best weights are restored and the run is saved, as whatever ends
    it. The same call goes on from there, unless a callback says so again; `on_start` may look at
    `plan.history` for that. (`"preempted"` makes a command end with exit code 75, "run me again".)

    Where several processes train together, all end at the same step: after `on_chunk` at their
    next agreement on the pace, the next save or the end of the epoch, whichever comes first.

    Where several processes train together, process 0 alone tells its callbacks. The network that
    they are lent is then whole and on one device, so that this process predicts with it by itself.

    Attributes:
        looks: whether `on_epoch` looks at the network, which costs time where it has to be
            gathered.

    Example:
        >>> class Watch(Callback):
        ...     def on_epoch(self, row, trained):
        ...         outputs = trained.predict(inputs)
        ...         return "good enough" if row["val_accuracy"] > 0.99 else None
    """

    looks = True

    def on_start(self, plan: Plan) -> str | None:
        """Training begins or goes on."""

    def on_chunk(self, step: int, loss: float | None) -> str | None:
        """Steps up to `step` are done; `loss` is the epoch's mean so far, if there is one."""

    def on_epoch(self, row: Row, trained: Any) -> str | None:
        """An epoch and its evaluation are done, and saved after this.

        Args:
            row: the epoch's row of the history.
            trained: the network as it is now (`jaxnet.training.Trained`). Its `state` is lent: copy
                what is to be kept.
        """

    def on_stop(self, reason: str) -> None:
        """Training is over: `FitResult.stop_reason`, or `"error"` if it failed."""


METHODS = ("on_start", "on_chunk", "on_epoch", "on_stop")


@dataclass
class Watchers:
    """The callbacks of a run, and what they want.

    Attributes:
        callbacks: objects with some of the methods of `Callback`.
        wish: why to end the run, if one of them said so; known to the process that tells them.
    """

    callbacks: Sequence[Any]
    wish: str | None = None

    @property
    def present(self) -> Sequence[Any]:
        """Those that this process tells; of several the first tells all."""
        return self.callbacks if processes.is_first() else ()

    @property
    def look(self) -> bool:
        """Whether one of them looks at the state."""
        return any(
            getattr(callback, "looks", hasattr(callback, "on_epoch")) for callback in self.callbacks
        )

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of all that have it."""
        for callback in self.present:
            self.tell_one(callback, method, *arguments)

    def tell_one(self, callback: Any, method: str, *arguments: Any) -> None:
        """Call a method of one of them, if it has it, and note what it wants.

        Raises:
            UsageError: it returned something else than a reason to end the run.
        """
        called = f"in the callback {type(callback).__name__}.{method}"
        with activity.own.within(called, activity.CALLBACK):
            answer = getattr(callback, method, lambda *_: None)(*arguments)
        if answer is None or method == "on_stop":
            return
        if not isinstance(answer, str) or not answer:
            raise UsageError(
                f"{type(callback).__name__}.{method} returned {answer!r}: expected None, or a text "
                "that says why to end the run"
            )
        self.wish = self.wish or answer

    def asked(self) -> str | None:
        """Why to end the run, if that is wanted; all processes have to call this."""
        return processes.from_first(lambda: self.wish)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse what can't be a callback.

    Raises:
        UsageError: a class in place of an object, one without any of the methods of `Callback`, or
            one with a method that is called almost like one of them.
    """
    for callback in callbacks:
        kind = callback if isinstance(callback, type) else type(callback)
        expected = f"expected objects with some of the methods {', '.join(METHODS)}"
        if isinstance(callback, type):
            raise UsageError(f"callbacks: {expected}, got the class {kind.__name__}: call it")
        own = [name for name in dir(kind) if name.startswith("on_") and name not in METHODS]
        if strays := [name for name in own if difflib.get_close_matches(name, METHODS)]:
            raise UsageError(
                f"callbacks: {expected}; {kind.__name__} has {strays[0]}, which is never called"
            )
        if not any(hasattr(callback, name) for name in METHODS):
            raise UsageError(f"callbacks: {expected}; {kind.__name__} has none of them")


@dataclass
class RunWriter(Callback):
    """Writes `metrics.jsonl` and `history.csv` into a run folder as the run goes on.

    Each epoch adds a line to both, so that it costs the same in a long run. A resumed run drops the
    lines of epochs that it is going to repeat, and a line torn by a kill. `seconds` is in
    `metrics.jsonl` only, so that `history.csv` is the same for runs that did the same.
    """

    looks = False

    folder: Path
    _since: float = field(default=0.0, init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _columns: list[str] = field(default_factory=list, init=False)

    def on_start(self, plan: Plan) -> None:
        """Bring the files to where the run goes on."""
        self._since = time.perf_counter()
        path = self._lines
        earlier = {row["step"]: row for row in _read_lines(path)}
        with write_atomically(path) as file:
            for row in plan.history.rows:
                file.write(_line(earlier.get(row["step"], row)))
        self._rows = list(plan.history.rows)
        self._write_history()

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Add the row to both files."""
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
        """Write all rows; without any there is no file, which would have no header either."""
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
