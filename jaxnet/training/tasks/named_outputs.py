"""Losses and metrics for models with several named outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxnet.errors import InputError, UsageError
from jaxnet.metrics import Mean
from jaxnet.metrics.by_name import by_name
from jaxnet.training.own import as_loss, example_losses
from jaxnet.training.task import Loss, Metric

PyTree = Any


@dataclass(frozen=True)
class NamedLosses:
    """The weighted sum of the losses of several outputs, as one loss.

    Attributes:
        losses: output -> loss, a name or a function.
        weights: output -> weight of its loss; the default is 1.

    Raises:
        UsageError: no loss, or a weight of an output that has none.

    Example:
        >>> both = NamedLosses({"age": "squared_error", "sex": "binary_cross_entropy"},
        ...                    {"age": 0.1})
        >>> ones = {"age": np.ones((2, 1)), "sex": np.zeros((2, 1))}
        >>> sums = both(ones, {"age": np.zeros(2), "sex": np.ones(2)})
        >>> [round(x, 3) for x in sums.tolist()]
        [0.793, 0.793]
    """

    losses: Mapping[str, Loss]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.losses:
            raise UsageError("loss: expected a loss for at least one output, got an empty dict")
        object.__setattr__(self, "losses", {n: as_loss(one) for n, one in self.losses.items()})
        if unknown := self.weights.keys() - self.losses.keys():
            raise UsageError(
                f"loss_weights of {', '.join(sorted(unknown))}, and the losses are of "
                f"{', '.join(self.losses)}"
            )
        for output, weight in self.weights.items():
            if not (isinstance(weight, int | float) and np.isfinite(weight)):
                raise UsageError(f"loss_weights[{output!r}]: expected a number, got {weight!r}")

    def __call__(self, outputs: PyTree, labels: PyTree) -> jax.Array:
        """The weighted sum per example, (B,)."""
        self.check(outputs, labels, "the batch")
        return sum(
            self.weights.get(output, 1.0) * self.loss_of(output, outputs, labels)
            for output in self.losses
        )  # pyright: ignore[reportReturnType]

    def loss_of(self, output: str, outputs: PyTree, labels: PyTree) -> jax.Array:
        """The unweighted loss of one output per example, (B,)."""
        examples = len(jax.tree.leaves(outputs[output])[0])
        return example_losses(self.losses[output], outputs[output], labels[output], examples)

    def check(self, outputs: PyTree, labels: PyTree, name: str) -> None:
        """Raise `InputError` if outputs, labels and losses don't have the same names.

        Args:
            outputs: the model's outputs, or their shapes.
            labels: the labels of the data.
            name: the name of the data, for the message.
        """
        for what, given in (("the model's outputs", outputs), (f"{name}: the labels", labels)):
            if not isinstance(given, Mapping):
                raise InputError(
                    f"{what} have no names, and there is a loss for each of "
                    f"{', '.join(self.losses)}: expected a dict with these"
                )
            if lacking := self.losses.keys() - given.keys():
                raise InputError(
                    f"{what} are {', '.join(sorted(given))}, and there is a loss for "
                    f"{', '.join(sorted(lacking))}"
                )
        if unused := labels.keys() - self.losses.keys():
            raise InputError(
                f"{name}: there are labels for {', '.join(sorted(unused))} and no loss: losses are "
                f"for {', '.join(self.losses)}. Leave these labels out, or give a loss"
            )

    def each(
        self, outputs: PyTree, labels: PyTree, name: str
    ) -> Iterator[tuple[Loss, Any, Any, str]]:
        """Iterate over the outputs: loss, output, labels and a name for messages."""
        for output, loss in self.losses.items():
            yield loss, outputs[output], labels[output], f"{name}: {output}"


@dataclass(frozen=True)
class _OfOutput:
    """A metric of one of several outputs."""

    output: str
    metric: Metric

    def __call__(self, outputs: PyTree, labels: PyTree, weights: jax.Array) -> Any:
        return self.metric(outputs[self.output], labels[self.output], weights)


def named_metrics(metrics: Any, losses: NamedLosses) -> dict[str, Metric]:
    """The metrics of all outputs, by the names `OUTPUT_METRIC`.

    Args:
        metrics: output -> its metrics, in any of the forms for a single output.
        losses: the losses, which name the outputs.

    Raises:
        UsageError: an output has no loss, or a metric isn't one.

    Example:
        >>> losses = NamedLosses({"age": "squared_error", "sex": "binary_cross_entropy"})
        >>> list(named_metrics({"sex": ["accuracy"]}, losses))
        ['sex_accuracy']
    """
    if not isinstance(metrics, Mapping) or (unknown := metrics.keys() - losses.losses.keys()):
        got = metrics if not isinstance(metrics, Mapping) else f"some of {', '.join(unknown)}"
        raise UsageError(
            f"metrics: there are several outputs: expected a dict by their names "
            f"({', '.join(losses.losses)}), got {got}"
        )
    return {
        f"{output}_{name}": _OfOutput(output, metric)
        for output, given in metrics.items()
        for name, metric in by_name(given).items()
    }


def loss_metrics(losses: NamedLosses) -> dict[str, Metric]:
    """The loss of each output as a metric, by the names `OUTPUT_loss`."""

    def metric(output: str) -> Callable[..., Any]:
        return lambda outputs, labels, weights: Mean.of(
            losses.loss_of(output, outputs, labels), weights, "min"
        )

    return {f"{output}_loss": metric(output) for output in losses.losses}
