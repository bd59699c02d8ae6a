"""Early stopping and tracking of the best step, as a rule and an immutable memory."""

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

Mode = Literal["auto", "min", "max"]
# The step number always grows, so that monitoring it never stops training.
_Measured = OnlyWith(monitor=OtherThan("step"))
_Waiting = OnlyWith(patience=OtherThan(None))


def monitored(wanted: str | None, columns: Sequence[str], watcher: str) -> str:
    """The column of the history that `wanted` refers to; by default `val_loss`, or else `loss`.

    Args:
        wanted: such as `"val_loss"`, or in the form `"val/loss"`. `"step"` always exists.
        columns: the columns of the history.
        watcher: the component that monitors it, for the message.

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
            f"{watcher} monitors {wanted!r}, but this run measures only {', '.join(columns)}. "
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
        mode: the user's choice.
        monitor: a column of the history.
        declared: the directions that metrics declare (`jaxnet.metrics.Mean.better`), by column.
        watcher: the component that monitors it, for the message.

    Raises:
        UsageError: the direction is neither given nor declared, nor evident from the name.

    Example:
        >>> direction("auto", "val_accuracy"), direction("auto", "val_loss")
        ('max', 'min')
        >>> direction("auto", "val_fit", {"val_fit": "max"}), direction("min", "val_fit")
        ('max', 'min')
    """
    # Imported here: configurations are read without JAX, which the metrics need.
    from jaxnet.metrics.direction import direction_of

    if mode != "auto":
        return mode
    known = declared.get(monitor) or direction_of(monitor)
    if known is None:
        raise UsageError(
            f"{watcher} monitors {monitor!r}, and it isn't known whether a larger or a smaller "
            'value is better: set mode="max" or mode="min"'
        )
    return known


def check_mode(mode: str, owner: str) -> None:
    """Raise `UsageError` for an unknown mode."""
    if mode not in get_args(Mode):
        raise UsageError(f"{owner}: expected mode 'auto', 'min' or 'max', got {mode!r}")


@dataclass(frozen=True)
class Stopping:
    """The memory of early stopping, saved in every checkpoint.

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
    """Rule for early stopping and for selecting the best step.

    The weights of the best step are restored whatever ends the run. Patience is counted in
    evaluations, one per epoch.

    Attributes:
        monitor: the metric to monitor: a column of the history, such as `"val_loss"`; `"val/loss"`
            is accepted too. The default is `val_loss` with validation data and `loss` without.
            `"step"` with mode `"max"` makes the last step the best, for runs without a metric that
            tells.
        patience: stop after this many consecutive evaluations without an improvement (0 means 1,
            as in Keras); None never stops.
        min_delta: the minimum improvement that counts.
        mode: whether smaller (`"min"`) or larger (`"max"`) is better; `"auto"` uses the direction
            that the metric declares or that its name implies, and raises if there is none.
        baseline: a value that has to be beaten within `patience` evaluations.
        start_epoch: patience counts from this epoch on (from 1).
        divergence: stop immediately when the metric is worse than this.
        check_finite: stop immediately when the metric is NaN or infinite. If False, such a value
            counts as no improvement.

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
        """The same rule with `monitor` and `mode` resolved for a run.

        Args:
            columns: the columns of the run's history.
            declared: the directions that the metrics declare, by column.

        Raises:
            UsageError: there is no such column, or its direction isn't known.
        """
        column = monitored(self.monitor, columns, "early stopping")
        return replace(self, monitor=column, mode=direction(self.mode, column, declared))

    def update(self, memory: Stopping, value: float, step: int, epoch: int) -> Stopping:
        """The memory after the evaluation at `step`, at the end of epoch `epoch` (from 1)."""
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
        """The memory after all epochs of a history; its reason is that of the last epoch.

        Rows without the column `monitor` are skipped.

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
        """A warning for a run that diverged or became non-finite in the epoch `row`, else None.

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
            f"{kept}. Lower the learning rate, check the inputs, or use guard_nonfinite(task, "
            "'stop'), which names the first layer that isn't finite."
        )

    def _no_better(self, memory: Stopping, epoch: int, reason: str | None = None) -> Stopping:
        if epoch < self.start_epoch:
            return replace(memory, reason=reason)
        waited = memory.waited + 1
        if reason is None and self.patience is not None and waited >= max(self.patience, 1):
            reason = "early_stopping"
        return replace(memory, waited=waited, reason=reason)


# For tasks without a metric of quality, such as GANs, where a low loss of one network only means
# that the other is weak: never stop early, and the last step is the best.
LAST_STEP = EarlyStopping(monitor="step", mode="max")
