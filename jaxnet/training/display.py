"""Progress display: a bar in a terminal or a notebook, lines in a log.

epoch 12/40  loss 0.0312  val_loss 0.0583  val_accuracy 0.9832  lr 0.0021  812 steps/s  left 0:28
"""

from __future__ import annotations

import datetime
import html
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.history import Row

# The minimum seconds between two lines, at the end of an epoch and within one.
BETWEEN_EPOCHS = 5.0
WITHIN_EPOCHS = 30.0
# The minimum seconds between two updates of a notebook cell.
REDRAWN = 0.2
# Columns that the line shows elsewhere.
LEFT_OUT = ("epoch", "step")


def displays(wanted: bool | None) -> list[Callback]:
    """The progress display for this environment: a bar if it can be redrawn, otherwise lines.

    Args:
        wanted: see `Trainer.progress`.
    """
    if wanted is False:
        return []
    if (show := _notebook()) is not None:
        return [NotebookBar(show)]
    if sys.stderr.isatty():
        return [ProgressBar()]
    return [ProgressLines()] if wanted else []


def _notebook() -> Callable[..., Any] | None:
    """IPython's `display` in a notebook, otherwise None; IPython isn't required elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None


@dataclass
class Course(Callback):
    """The progress of a run as text; base class of the displays."""

    looks = False

    plan: Plan = field(init=False)
    step: int = field(default=0, init=False)
    # The loss of the current epoch so far, and the row of the last finished one.
    loss: float | None = field(default=None, init=False)
    row: Row | None = field(default=None, init=False)
    # Time and number of the first steps done, which excludes compiling.
    _since: tuple[float, int] | None = field(default=None, init=False)

    def on_start(self, plan: Plan) -> None:
        """Reset to the first step of the plan."""
        self.plan, self.step, self._since = plan, plan.first_step, None
        self.loss, self.row = None, plan.history.rows[-1] if len(plan.history) else None

    def on_chunk(self, step: int, loss: float | None) -> None:
        """Record the step and the loss so far."""
        self.step, self.loss = step, loss
        if self._since is None:
            self._since = time.perf_counter(), step

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Record the epoch's row."""
        self.step, self.loss, self.row = int(row["step"]), None, row

    @property
    def ends_epoch(self) -> bool:
        """Whether the latest event was the end of an epoch."""
        return self.row is not None and self.row["step"] == self.step

    @property
    def epoch(self) -> str:
        """The name of the run and the epoch, such as `fold 2/5  epoch 3/40`."""
        number = (
            int(self.row["epoch"])
            if self.row is not None and self.ends_epoch
            else max(self.step - 1, 0) // self.plan.steps_per_epoch + 1
        )
        return f"{self.named}epoch {number}/{self.plan.epochs}"

    @property
    def named(self) -> str:
        """The name of the run, if any, with a separator."""
        return f"{self.plan.name}  " if self.plan.name else ""

    @property
    def numbers(self) -> str:
        """The metrics of the finished epoch, or of the current and the previous one."""
        if self.row is None or self.ends_epoch:
            return _numbers(self.row or {"loss": self.loss})
        now = _numbers({"loss": self.loss})
        before = _numbers({k: v for k, v in self.row.items() if k.startswith("val_")})
        return f"{now}  (epoch {int(self.row['epoch'])}: {before})" if before else now

    @property
    def speed(self) -> str:
        """Steps per second and the remaining time, including evaluation, excluding compiling."""
        if self._since is None:
            return ""
        begun, first = self._since
        done, seconds = self.step - first, time.perf_counter() - begun
        if done <= 0 or seconds <= 0:
            return ""
        left = datetime.timedelta(seconds=round((self.plan.steps - self.step) * seconds / done))
        pace = done / seconds
        return f"{pace:{'.0f' if pace >= 1000 else '.3g'}} steps/s  left {left}"


@dataclass
class ProgressLines(Course):
    """Prints a line at the start, at the end and after each epoch, at most one every few seconds.

    Within a long epoch it prints one every half minute. Lines go to stderr and are flushed, so
    that `tail -f` of a batch job's log shows them.
    """

    _written_at: float = field(default=0.0, init=False)
    _pending: str = field(default="", init=False)

    def on_start(self, plan: Plan) -> None:
        """Print the number of epochs and steps."""
        super().on_start(plan)
        whole = f"{plan.epochs} epochs of {plan.steps_per_epoch} steps"
        resumed = f", resuming after step {plan.first_step}" if plan.first_step else ""
        self._write(f"{self.named}{whole}{resumed}; compiling")
        self._written_at = float("-inf")  # the first epoch is shown however short it is

    def on_chunk(self, step: int, loss: float | None) -> None:
        """Print a line if the last one is old."""
        super().on_chunk(step, loss)
        written = max(self._written_at, self._since[0] if self._since else 0.0)
        if time.perf_counter() - written >= WITHIN_EPOCHS:
            share = f"step {step}/{self.plan.steps}"
            self._write("  ".join(filter(None, (self.epoch, share, self.numbers, self.speed))))

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Print the epoch's line, or defer it if the last one is recent."""
        super().on_epoch(row, trained)
        self._pending = "  ".join(filter(None, (self.epoch, self.numbers, self.speed)))
        if time.perf_counter() - self._written_at >= BETWEEN_EPOCHS:
            self._write(self._pending)

    def on_stop(self, reason: str) -> None:
        """Print the last epoch's line and the stop reason."""
        if self._pending:
            self._write(self._pending)
        self._write(f"{self.epoch}{_ended(reason)}")

    def _write(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._written_at, self._pending = time.perf_counter(), ""


@dataclass
class ProgressBar(Course):
    """A progress bar in a terminal."""

    _bar: Any = field(default=None, init=False)

    def on_start(self, plan: Plan) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().on_start(plan)
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}", markup=False),
            refresh_per_second=5,
            console=Console(stderr=True),
        )
        self._bar.add_task("", total=plan.steps, epoch=self.epoch, numbers="compiling")
        self._bar.start()

    def on_chunk(self, step: int, loss: float | None) -> None:
        """Advance the bar."""
        super().on_chunk(step, loss)
        self._draw()

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Show the epoch's metrics."""
        super().on_epoch(row, trained)
        self._draw()

    def on_stop(self, reason: str) -> None:
        """Draw the bar a last time, with the stop reason."""
        self._draw(_ended(reason))
        self._bar.stop()

    def _draw(self, end: str = "") -> None:
        task = self._bar.task_ids[0]
        numbers = self.numbers + end
        self._bar.update(task, completed=self.step, epoch=self.epoch, numbers=numbers)


@dataclass
class NotebookBar(Course):
    """A progress bar in a notebook: one output of the cell, updated in place.

    Attributes:
        show: IPython's `display`.
    """

    show: Callable[..., Any]
    _cell: Any = field(default=None, init=False)
    _drawn_at: float = field(default=0.0, init=False)

    def on_start(self, plan: Plan) -> None:
        """Show the bar."""
        super().on_start(plan)
        self._cell = self.show(self._drawn("compiling"), display_id=True)
        self._drawn_at = time.perf_counter()

    def on_chunk(self, step: int, loss: float | None) -> None:
        """Advance the bar."""
        super().on_chunk(step, loss)
        self._draw()

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Show the epoch's metrics."""
        super().on_epoch(row, trained)
        self._draw()

    def on_stop(self, reason: str) -> None:
        """Draw the bar a last time, with the stop reason."""
        self._cell.update(self._drawn(self.numbers + _ended(reason)))

    def _draw(self) -> None:
        now = time.perf_counter()
        if now - self._drawn_at >= REDRAWN:
            self._cell.update(self._drawn("  ".join(filter(None, (self.numbers, self.speed)))))
            self._drawn_at = now

    def _drawn(self, words: str) -> HtmlBar:
        return HtmlBar(self.step, self.plan.steps, self.epoch, words)


@dataclass(frozen=True)
class HtmlBar:
    """A progress bar as a notebook shows it: HTML, and plain text where it shows none.

    Attributes:
        step: steps done.
        steps: steps in all.
        before: the text before the bar.
        after: the text after it.

    Example:
        >>> HtmlBar(3, 8, "epoch 1/2", "loss 0.5")
        epoch 1/2  3/8 steps  loss 0.5
    """

    step: int
    steps: int
    before: str
    after: str

    def __repr__(self) -> str:
        return f"{self.before}  {self.step}/{self.steps} steps  {self.after}"

    def _repr_html_(self) -> str:
        """See IPython's rich display."""
        before, after = (html.escape(text) for text in (self.before, self.after))
        return (
            '<div style="font-family: monospace; white-space: pre-wrap">'
            f'{before}  <progress value="{self.step}" max="{self.steps}" '
            'style="width: 16em; vertical-align: middle"></progress>'
            f"  {self.step}/{self.steps} steps  {after}</div>"
        )


def _ended(reason: str) -> str:
    return f"  ended: {reason.replace('_', ' ')}"


def _numbers(row: Mapping[str, float | None]) -> str:
    """Names and values of a row as text, without per-layer metrics, which don't fit a line.

    Example:
        >>> _numbers({"epoch": 1, "step": 8, "loss": 0.51234, "learning_rate": 0.0021})
        'loss 0.5123  lr 0.0021'
    """
    parts = []
    for name, value in row.items():
        if name in LEFT_OUT or "/" in name or value is None:
            continue
        rate = name == "learning_rate"
        parts.append(f"lr {value:.3g}" if rate else f"{name} {_short(value)}")
    return "  ".join(parts)


def _short(value: float) -> str:
    """The value with four decimals, or in scientific notation if it is very small or large."""
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.3e}"
