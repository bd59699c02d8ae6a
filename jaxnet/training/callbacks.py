"""What watches a run: progress on the screen, files in the run folder, and your own.

A callback is told what happens and changes nothing. Write one by giving a class some of the methods
of `Callback`; it is called at the end of stretches and epochs, never within a compiled program.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxnet.files import expanded, json_text, write_atomically
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
    """

    epochs: int
    steps_per_epoch: int
    steps: int
    first_step: int
    history: History


class Callback:
    """Told of a run as it goes on. Every method may be left out.

    Where several processes train together, process 0 alone tells its callbacks. The state that they
    are lent is then whole and on the host, so that this process can compute with it by itself.

    Attributes:
        looks: whether `on_epoch` looks at the state, which costs time where it has to be gathered.
    """

    looks = True

    def on_start(self, plan: Plan) -> None:
        """Training begins or goes on."""

    def on_stretch(self, step: int, loss: float | None) -> None:
        """Steps up to `step` are done; `loss` is the epoch's mean so far, if there is one."""

    def on_epoch(self, row: Row, state: Any) -> None:
        """An epoch and its evaluation are done. `state` is lent: copy what you keep."""

    def on_stop(self, reason: str) -> None:
        """Training is over: `FitResult.stop_reason`, or `"error"` if it failed."""


@dataclass
class ProgressBar(Callback):
    """A progress bar, and a line for each epoch of a short run."""

    looks = False

    _progress: Any = field(default=None, init=False)
    _task: Any = field(default=None, init=False)

    def on_start(self, plan: Plan) -> None:
        """Show the bar."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
            refresh_per_second=5,
        )
        self._plan = plan
        self._numbers = ""
        self._task = self._progress.add_task(
            "",
            total=plan.steps,
            completed=plan.first_step,
            epoch=f"epoch {len(plan.history) + 1}/{plan.epochs}",
            numbers="compiling",
        )
        self._progress.start()

    def on_stretch(self, step: int, loss: float | None) -> None:
        """Move the bar."""
        numbers = self._numbers if loss is None else f"loss {loss:.4f} {self._numbers}"
        epoch = min(step // self._plan.steps_per_epoch + 1, self._plan.epochs)
        self._progress.update(
            self._task,
            completed=step,
            epoch=f"epoch {epoch}/{self._plan.epochs}",
            numbers=numbers,
        )

    def on_epoch(self, row: Row, state: Any) -> None:
        """Show the epoch's validation beside the bar."""
        self._numbers = " ".join(
            f"{name} {value:.4f}" for name, value in row.items() if name.startswith("val_")
        )

    def on_stop(self, reason: str) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


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

    def on_epoch(self, row: Row, state: Any) -> None:
        """Add the row to both files."""
        now = time.perf_counter()
        self._rows.append(row)
        with open(self._lines, "a", encoding="utf-8") as file:
            file.write(_line({**row, "seconds": round(now - self._since, 4)}))
        if row.keys() <= set(self._columns):
            with open(self._history_file, "a", encoding="utf-8", newline="") as file:
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
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows
