"""Auxiliary losses: classifiers on intermediate layers that are used in training only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxnet.errors import UsageError
from jaxnet.losses.labels import Wrong, wrong_labels
from jaxnet.training.state import PyTree
from jaxnet.training.task import Loss, Metric
from jaxnet.training.tasks.supervised import Supervised


def with_auxiliary(task: Supervised, weight: float = 0.3) -> Supervised:
    """Add auxiliary losses for a network that returns `(main, auxiliary, ...)` in training.

    The loss becomes `loss(main) + weight * (loss(auxiliary) + ...)` (Szegedy et al. 2015, section
    5, with weight 0.3). Metrics use the main outputs. In evaluation the network returns the main
    outputs only, and the loss has no auxiliary terms.

    Raises:
        UsageError: the task isn't a `Supervised`.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, optax
        >>> from jaxnet.losses import squared_error
        >>> task = with_auxiliary(Supervised(nn.Dense(1), squared_error, optax.sgd(0.1)))
        >>> labels = jnp.zeros(1)
        >>> print(task.loss((jnp.full(1, 1.0), jnp.full(1, 2.0), jnp.full(1, 4.0)), labels))
        [7.]
        >>> print(task.loss(jnp.full(1, 1.0), labels))
        [1.]
    """
    if not isinstance(task, Supervised):
        raise UsageError(
            "with_auxiliary changes the loss and the metrics of a Supervised task, got "
            f"{type(task).__name__}: put techniques around it, with_ema(with_auxiliary(task), ...)"
        )
    return replace(
        task,
        loss=_AuxiliaryLoss(task.loss, weight),
        metrics={name: _MainMetric(metric) for name, metric in task.metrics.items()},
    )


# Dataclasses rather than closures, so that equal tasks compare equal.


@dataclass(frozen=True)
class _AuxiliaryLoss:
    loss: Loss
    weight: float

    def wrong_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
        """Labels that the wrapped loss rejects (`jaxnet.losses.labels.ChecksLabels`)."""
        return wrong_labels(self.loss, labels, outputs)

    def __call__(self, outputs: Any, labels: jax.Array) -> jax.Array:
        """The loss per example, (B,)."""
        main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        return self.loss(main, labels) + sum(
            (self.weight * self.loss(one, labels) for one in auxiliary), start=0.0
        )


@dataclass(frozen=True)
class _MainMetric:
    metric: Metric

    def __call__(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> PyTree:
        """The metric of the main outputs, as mergeable sums."""
        main = outputs[0] if isinstance(outputs, tuple) else outputs
        return self.metric(main, labels, weights)
