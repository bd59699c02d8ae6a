"""The perceptron: one layer of threshold units, and the rule by which it learns.

Sizes: `inputs * units + units` parameters. A single layer draws straight lines, so it computes
AND, OR, NAND and NOR but not XOR, which takes two layers (Minsky and Papert 1969).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnet.layers.activations import Activation, step
from jaxnet.losses import paired


class Perceptron(nn.Module):
    """One dense layer and its activation: `activation(inputs @ kernel + bias)`.

    With the default step it answers 0 or 1; with a smooth activation it is a layer that gradient
    descent can train. Layers stack with `nn.Sequential`.

    Args:
        units: the number of outputs.
        activation: what follows; by default the step at 0 (Rosenblatt 1958).

    Example:
        >>> import numpy as np
        >>> both = {"Dense_0": {"kernel": np.ones((2, 1)), "bias": np.array([-1.5])}}
        >>> inputs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> print(Perceptron().apply({"params": both}, inputs)[:, 0])
        [0. 0. 0. 1.]
    """

    units: int = 1
    activation: Activation = step

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Inputs (B, D) to outputs (B, units); `train` changes nothing."""
        return self.activation(nn.Dense(self.units)(inputs))


def perceptron_update(
    params: Any, inputs: jax.Array, labels: jax.Array, learning_rate: float = 1.0
) -> Any:
    """The parameters of a `Perceptron` with the step after one look at a batch.

    Rosenblatt's rule (1958): `w <- w + learning_rate (label - output) x`, summed over the batch,
    so that a batch of one example is the rule as he gave it. Where a line separates the classes,
    it stops changing after finitely many examples (Novikoff 1962).

    Args:
        params: `{"Dense_0": {"kernel": (D, units), "bias": (units,)}}`.
        inputs: (B, D).
        labels: (B, units), or (B,) for one unit; each 0 or 1.
        learning_rate: how far each mistake moves the weights.

    Raises:
        InputError: the labels do not fit the outputs.

    Example:
        >>> params = {"Dense_0": {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}}
        >>> params = perceptron_update(params, jnp.array([[0.0, 1.0]]), jnp.array([[0.0]]))
        >>> print(params["Dense_0"]["kernel"][:, 0], params["Dense_0"]["bias"])
        [ 0. -1.] [-1.]
    """
    layer = params["Dense_0"]
    units = layer["bias"].size
    outputs: Any = Perceptron(units).apply({"params": params}, inputs)
    outputs, labels = paired(outputs, labels)
    mistakes = jnp.reshape(labels - outputs, (-1, units))
    return {
        "Dense_0": {
            "kernel": layer["kernel"] + learning_rate * inputs.T @ mistakes,
            "bias": layer["bias"] + learning_rate * jnp.sum(mistakes, axis=0),
        }
    }
