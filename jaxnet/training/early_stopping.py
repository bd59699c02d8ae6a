"""Early stopping and the best step: a small value that goes from evaluation to evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from jaxnet.errors import UsageError
from jaxnet.options import OnlyWith, OtherThan

if TYPE_CHECKING:
    from jaxnet.metrics.direction import Direction

# The number of the step grows all along, so that it never stops training.
_Measured = OnlyWith(monitor=OtherThan("step"))
_Waiting = OnlyWith(patience=OtherThan(None))

Mode = Literal["auto", "min", "max"]
# The number of the step grows all along, so that it never stops training.
_Measured = OnlyWith(monitor=OtherThan("step"))
_Waiting = OnlyWith(patience=OtherThan(None))


def monitored(wanted: str | None, columns: Sequence[str], watcher: str) -> str:
    """The column of the history that `wanted` means: by default the loss, of validation if any.

    Args:
        wanted: such as `"val_loss"`; `"val/loss"` is understood too. `"step"` every run has.
        columns: those that there are.
        watcher: who watches it, for the message.

    Raises:
        UsageError: there is no such column.

    Example:
        >>> monitored(None, ["loss", "val_loss"], "early stopping")
        'val_loss'
    """
    wanted = wanted or ("val_loss" if "val_loss" in columns else "loss")
    column = (
        wanted if wanted in ("step", *columns) else wanted.replace("/", "_").removeprefix("train_")
    )
    if column not in ("step", *columns):
        raise UsageError(
            f"{watcher} watches {wanted!r}, but this run measures only {', '.join(columns)}. "
            "Choose one of these as monitor, or add the metric to the task; metrics that begin "
            "with val_ need validation data."
        )
    return column


def direction(
    mode: Mode,
    monitor: str,
    declared: Mapping[str, Direction] = MappingProxyType({}),
    watcher: str = "early stopping",
) -> Direction:
    """Whether a larger or a smaller value of the metric `monitor` is better.

    Args:
        mode: what the user said.
        monitor: a column of the history.
        declared: what the metrics say of themselves (`jaxnet.metrics.Mean.better`), by column.
        watcher: who watches it, for the message.

    Raises:
        UsageError: nobody said so, and the words of the name don't either.

    Example:
        >>> direction("auto", "val_accuracy"), direction("auto", "val_loss")
        ('max', 'min')
        >>> direction("auto", "val_fit", {"val_fit": "max"}), direction("min", "val_fit")
        ('max', 'min')
    """
    # Here and not above: configurations are read without JAX, which the metrics need.
    from jaxnet.metrics.direction import direction_of

    if mode != "auto":
        return mode
    known = declared.get(monitor) or direction_of(monitor)
    if known is None:
        raise UsageError(
            f"{watcher} watches {monitor!r}, of which nothing says whether a larger or a smaller "
            'value is better: say mode="max" or mode="min"'
        )
    return known


def check_mode(mode: str, owner: str) -> None:
    """Raise `UsageError` for a mode that there isn't."""
    if mode not in get_args(Mode):
        raise UsageError(f"{owner}: expected mode 'auto', 'min' or 'max', got {mode!r}")


@dataclass(frozen=True)
class Stopping:
    """What early stopping remembers. It is part of every checkpoint.

    Attributes:
        best: the best value of the monitored metric so far; None before the first.
        best_step: the step at which it was measured; -1 before the first.
        waited: evaluations since the last improvement.
        reason: why training should stop, or None.
    """

    best: float | None = None
    best_step: int = -1
    waited: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop, and which step is the best one.

    The weights of the best step are restored whatever ends the run. Patience is counted in
    evaluations, of which there is one an epoch.

    Attributes:
        monitor: the metric to watch: a column of the history, such as `"val_loss"`; `"val/loss"`
            is understood too. The default is `val_loss` with validation data and `loss` without.
            `"step"` with mode `"max"` takes the last step for the best one, where no metric tells.
        patience: stop after this many evaluations in a row without an improvement (0 means 1, as
            in Keras); None never stops.
        min_delta: an improvement has to be larger than this.
        mode: whether smaller (`"min"`) or larger (`"max"`) is better; `"auto"` goes by what the
            metric says of itself, or by the words of its name, and refuses to guess otherwise.
        baseline: a value that has to be beaten within `patience` evaluations.
        start_epoch: evaluations of earlier epochs (counted from 1) don't count as waiting.
        divergence: stop at once when the metric is worse than this.
        check_finite: stop at once when the metric is NaN or infinite. If False, such a value is
            merely no improvement.

    Raises:
        UsageError: an impossible value.

    Example:
        >>> rule = EarlyStopping("val_loss", patience=2)
        >>> memory = Stopping()
        >>> for epoch, loss in enumerate([0.9, 0.5, 0.6, 0.7], start=1):
        ...     memory = rule.update(memory, loss, step=10 * epoch, epoch=epoch)
        >>> memory.best_step, memory.reason
        (20, 'early_stopping')
    """

    monitor: str | None = None
    patience: Annotated[int | None, _Measured] = None
    min_delta: Annotated[float, _Measured] = 0.0
    mode: Mode = "auto"
    baseline: Annotated[float | None, _Waiting] = None
    start_epoch: Annotated[int, _Waiting] = 1
    divergence: Annotated[float | None, _Measured] = None
    check_finite: Annotated[bool, _Measured] = True

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 0:
            raise UsageError(
                f"early stopping: expected a patience of 0 or more evaluations, got "
                f"{self.patience}. Leave it out (None) to never stop early."
            )
        if not (self.min_delta >= 0 and math.isfinite(self.min_delta)):
            raise UsageError(
                f"early stopping: expected a min_delta of 0 or more, got {self.min_delta}"
            )
        check_mode(self.mode, "early stopping")

    def resolved(
        self,
        columns: Sequence[str],
        declared: Mapping[str, Direction] = MappingProxyType({}),
    ) -> EarlyStopping:
        """The same rule with the column and the mode that it comes to in a run.

        Args:
            columns: what the run measures.
            declared: the directions that the metrics say of themselves, by column.

        Raises:
            UsageError: there is no such column, or nothing says which way it gets better.
        """
        column = monitored(self.monitor, columns, "early stopping")
        return replace(self, monitor=column, mode=direction(self.mode, column, declared))

    def update(self, memory: Stopping, value: float, step: int, epoch: int) -> Stopping:
        """What to remember after the evaluation at `step`, at the end of epoch `epoch` (from 1)."""
        sign = 1 if direction(self.mode, self.monitor or "loss") == "max" else -1
        if not math.isfinite(value):
            reason = "nonfinite_metric" if self.check_finite else None
            return self._no_better(memory, epoch, reason)
        if self.divergence is not None and sign * value < sign * self.divergence:
            return self._no_better(memory, epoch, "diverged")
        if memory.best is None or sign * (value - memory.best) > self.min_delta:
            beaten = self.baseline is None or sign * (value - self.baseline) > 0
            better = replace(memory, best=value, best_step=step, waited=0)
            return (
                better if beaten else self._no_better(replace(better, waited=memory.waited), epoch)
            )
        return self._no_better(memory, epoch)

    def over(self, rows: Iterable[Mapping[str, float]]) -> Stopping:
        """What to remember after the epochs of a history; the last one says whether to stop.

        Rows without the column `monitor` are passed over.

        Example:
            >>> rows = [{"epoch": n, "step": 10 * n, "loss": n / 2} for n in (1, 2)]
            >>> EarlyStopping("loss", patience=1).over(rows)
            Stopping(best=0.5, best_step=10, waited=1, reason='early_stopping')
        """
        memory, monitor = Stopping(), self.monitor or "loss"
        for row in rows:
            if monitor in row:
                step, epoch = int(row["step"]), int(row["epoch"])
                memory = self.update(replace(memory, reason=None), row[monitor], step, epoch)
        return memory

    def warning(self, memory: Stopping, row: Mapping[str, float]) -> str | None:
        """What to say of a run that ended badly after the epoch `row`; of any other nothing.

        Example:
            >>> memory = Stopping(best_step=20, reason="nonfinite_metric")
            >>> warning = EarlyStopping().warning(memory, {"epoch": 3, "loss": float("nan")})
            >>> print(warning.split(",")[0])
            epoch 3 ended training: loss is nan. The weights are those of step 20
        """
        if memory.reason not in ("nonfinite_metric", "diverged"):
            return None
        column = self.monitor or "loss"
        kept = f"those of step {memory.best_step}, the best before it"
        if memory.best_step == -1:
            kept = "the last ones, as no epoch had a good value"
        return (
            f"epoch {row['epoch']:g} ended training: {column} is {row[column]:g}. The weights are "
            f"{kept}. Lower the learning rate, look at the inputs, or take guard_nonfinite(task, "
            "'stop'), which names the first layer that isn't finite."
        )

    def _no_better(self, memory: Stopping, epoch: int, reason: str | None = None) -> Stopping:
        if epoch < self.start_epoch:
            return replace(memory, reason=reason)
        waited = memory.waited + 1
        if reason is None and self.patience is not None and waited >= max(self.patience, 1):
            reason = "early_stopping"
        return replace(memory, waited=waited, reason=reason)


# Where no metric tells how good a step is, as in a game of two networks, in which a low loss of one
# says only that the other has fallen behind: nothing stops early, and the last step is the best.
LAST_STEP = EarlyStopping(monitor="step", mode="max")
