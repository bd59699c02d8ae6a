"""Losses and optimizers given by name or as functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import losses, optimizers
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.training.task import Loss, Optimizer


def as_loss(loss: Loss | str) -> Loss:
    """Resolve a loss given by name; a function is returned unchanged.

    Raises:
        UsageError: the name is unknown, or it isn't a function.
    """
    if isinstance(loss, str):
        return lookup(loss, losses.LOSSES, "loss")
    if not callable(loss):
        raise UsageError(
            f"loss: expected a function of (outputs, labels) or the name of a loss, got {loss!r}"
        )
    return loss


def as_optimizer(optimizer: Optimizer | str) -> Optimizer:
    """Resolve an optimizer given by name, with its usual learning rate; others are unchanged.

    Raises:
        UsageError: the name is unknown or has no usual learning rate, or it isn't an Optax
            transformation.
    """
    if isinstance(optimizer, str):
        return optimizers.usual(optimizer)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise UsageError(
            "optimizer: expected an Optax transformation, such as jaxnet.optimizers.by_name("
            f"'adam', 1e-3), or the name of an optimizer, got {optimizer!r}"
        )
    return optimizer


def example_losses(loss: Loss, outputs: Any, labels: Any, examples: int) -> jax.Array:
    """The loss per example, (B,), with its shape checked.

    Raises:
        UsageError: the loss returns another shape, such as the mean over the batch.
    """
    made = loss(outputs, labels)
    shape = jnp.shape(made)
    if shape != (examples,):
        advice = "Average over the further axes: loss.mean(axis=tuple(range(1, loss.ndim)))"
        if not shape:
            advice = "Leave the mean out: it is taken here, weighted, and without padding"
        raise UsageError(
            f"your loss {getattr(loss, '__name__', loss)!r} gave "
            f"{'one number' if not shape else f'an array of shape {list(shape)}'} for outputs "
            f"{jax.tree.map(lambda leaf: list(leaf.shape), outputs)} and labels "
            f"{jax.tree.map(lambda leaf: list(leaf.shape), labels)}: expected one number per "
            f"example, (B,) = [{examples}]. {advice}"
        )
    return made
