"""Reduce-on-plateau: lower the learning rate when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from jaxnet.errors import UsageError
from jaxnet.training.early_stopping import Mode, check_mode, direction, monitored

if TYPE_CHECKING:
    import jax

    from jaxnet.metrics.direction import Direction


class Plateau(NamedTuple):
    """The memory of the rule, as scalars in the optimizer state.

    Attributes:
        scale: float32, the factor on the learning rate.
        best: float32, the best value of the metric so far.
        waited: int32, evaluations since the last improvement.
        cooldown: int32, remaining evaluations that don't count towards the patience.
    """

    scale: jax.Array
    best: jax.Array
    waited: jax.Array
    cooldown: jax.Array


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Lower the learning rate when a metric has stopped improving.

    After `patience` evaluations in a row without an improvement the learning rate is multiplied
    by `factor`. Patience is counted as in `EarlyStopping` and in Keras; that of PyTorch's
    `ReduceLROnPlateau(threshold_mode="abs")` is one less for the same decisions.

    Attributes:
        monitor: the metric to monitor, as in `EarlyStopping`.
        factor: the factor of each reduction, in (0, 1).
        patience: the number of evaluations without an improvement before a reduction (0 means 1).
        min_delta: the minimum improvement that counts.
        mode: as in `EarlyStopping`.
        cooldown: evaluations after a reduction that don't count towards the patience.
        min_scale: the lower bound of the product of all factors.

    Raises:
        UsageError: an impossible value.

    Example:
        >>> rule = ReduceOnPlateau(factor=0.5, patience=2)
        >>> memory = rule.init()
        >>> for loss in [0.9, 0.5, 0.6, 0.7]:
        ...     memory = rule.update(memory, loss)
        >>> float(memory.scale)
        0.5
    """

    monitor: str | None = None
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    mode: Mode = "auto"
    cooldown: int = 0
    min_scale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise UsageError(f"reduce on plateau: expected a factor in (0, 1), got {self.factor}")
        for name in ("patience", "cooldown"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"reduce on plateau: expected {name} to be 0 or more evaluations, got "
                    f"{getattr(self, name)}"
                )
        if not (self.min_delta >= 0 and math.isfinite(self.min_delta)):
            raise UsageError(
                f"reduce on plateau: expected a min_delta of 0 or more, got {self.min_delta}"
            )
        if not 0 <= self.min_scale < 1:
            raise UsageError(
                f"reduce on plateau: expected a min_scale in [0, 1), got {self.min_scale}"
            )
        check_mode(self.mode, "reduce on plateau")

    def init(self) -> Plateau:
        """The initial memory; its `best` is infinity, so any finite value is an improvement."""
        import jax.numpy as jnp

        zero = jnp.zeros((), jnp.int32)
        return Plateau(jnp.ones(()), jnp.full((), jnp.inf, jnp.float32), zero, zero)

    def resolved(
        self,
        columns: Sequence[str],
        declared: Mapping[str, Direction] = MappingProxyType({}),
    ) -> ReduceOnPlateau:
        """The same rule with `monitor` and `mode` resolved; see `EarlyStopping.resolved`."""
        watcher = "reduce on plateau"
        column = monitored(self.monitor, columns, watcher)
        return replace(self, monitor=column, mode=direction(self.mode, column, declared, watcher))

    def update(self, memory: Plateau, value: jax.Array | float) -> Plateau:
        """The memory after an evaluation with this value of the metric."""
        import jax.numpy as jnp

        value = jnp.asarray(value, jnp.float32)
        sign = 1 if direction(self.mode, self.monitor or "loss") == "max" else -1
        gain = sign * (value - memory.best)
        better = jnp.isfinite(value) & ((gain > self.min_delta) | jnp.isinf(memory.best))
        waited = jnp.where(better | (memory.cooldown > 0), 0, memory.waited + 1)
        reduce = waited >= max(self.patience, 1)
        lower = jnp.maximum(memory.scale * self.factor, self.min_scale)
        return Plateau(
            scale=jnp.where(reduce, lower, memory.scale),
            best=jnp.where(better, value, memory.best),
            waited=jnp.where(reduce, 0, waited),
            cooldown=jnp.where(reduce, self.cooldown, jnp.maximum(memory.cooldown - 1, 0)),
        )
