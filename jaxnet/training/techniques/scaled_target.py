"""Target standardisation: train on scaled labels, predict in their original units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.scaling import Scale
from jaxnet.errors import InputError, UsageError
from jaxnet.losses.labels import Wrong, wrong_labels
from jaxnet.switch import train_option
from jaxnet.training.task import Loss
from jaxnet.training.tasks.supervised import Supervised


class Unscaled(nn.Module):
    """A network with its outputs converted to the target's units: `outputs / scale + shift`.

    Args:
        network: the wrapped module.
        shift: one number, or one per output.
        scale: likewise, nonzero.

    Example:
        >>> network = Unscaled(nn.Dense(1, kernel_init=nn.initializers.zeros), 20.0, 0.1)
        >>> variables = network.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> print(network.apply(variables, jnp.ones((1, 3))))
        [[20.]]
    """

    network: nn.Module
    shift: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """The network's outputs (batch, ...), float32, in the target's units."""
        outputs = self.network(inputs, **train_option(self.network, train))
        # In float32, because half precision couldn't tell 1000 from 1001.
        outputs = outputs.astype(jnp.float32)
        shape = (1,) * (outputs.ndim - 1) + (-1,)
        shift, scale = (jnp.float32(value).reshape(shape) for value in (self.shift, self.scale))
        return outputs / scale + shift


def scaled_target(task: Supervised, scale: Scale) -> Supervised:
    """Compute the loss on `scale(labels)`, and keep outputs in the labels' units.

    Gradients, and so suitable learning rates, are then the same whether the target is given in
    grams or in tonnes. Metrics are in the target's units. The inverse scaling becomes the last
    layer of the network, and so part of a `Bundle`.

    Args:
        task: a regression task.
        scale: fitted on the training part (`jaxnet.data.fit_target`).

    Raises:
        UsageError: the task isn't a `Supervised`.
        InputError: the task's model is a `Network` of plain functions, which can't be wrapped.

    Example:
        >>> import numpy as np, optax
        >>> from jaxnet import losses
        >>> from jaxnet.data import Arrays, fit_target
        >>> from jaxnet.training import Trainer
        >>> inputs = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> train = Arrays(inputs, 5000 + 1000 * inputs[:, 0])
        >>> task = Supervised(nn.Dense(1), losses.squared_error, optax.sgd(0.3))
        >>> result = Trainer(scaled_target(task, fit_target(train))).fit(train, epochs=20)
        >>> result.model.predict([[0.5]]).round().tolist()
        [[5500.0]]
    """
    if not isinstance(task, Supervised):
        raise UsageError(
            f"scaled_target changes the loss and the network of a Supervised task, got "
            f"{type(task).__name__}: put techniques around it, remat(scaled_target(task, scale))"
        )
    if not isinstance(task.model, nn.Module):
        raise InputError(
            f"scaled_target needs a task of a Linen module, got {type(task.model).__name__}; "
            "scale the labels and the outputs of your own functions yourself"
        )
    model = Unscaled(task.model, scale.shift, scale.scale)
    return replace(task, model=model, loss=_ScaledLoss(task.loss, scale))


@dataclass(frozen=True)
class _ScaledLoss:
    """A loss of scaled outputs and labels; a dataclass, so that equal tasks compare equal."""

    loss: Loss
    scale: Scale

    def wrong_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
        """Scaled labels that the wrapped loss rejects (`jaxnet.losses.labels.ChecksLabels`)."""
        if labels.dtype.kind not in "ui":  # integers are class indices
            labels = np.asarray(self.scale(labels))
        wrong = wrong_labels(self.loss, labels, outputs)
        return wrong and wrong._replace(expected=f"on the scale of the target {wrong.expected}")

    def __call__(self, outputs: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss per example, (B,)."""
        return self.loss(self.scale(outputs), self.scale(labels))
