"""Layers one after the other, without a class of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Shaped

from jaxnet.switch import train_option


class Flatten(nn.Module):
    """All axes but the first as one, in row-major order.

    Channels come last here and first in PyTorch: a `Dense` after it that takes weights from there
    needs their rows in another order.

    Example:
        >>> import jax
        >>> Flatten().apply({}, jax.numpy.zeros((2, 3, 4, 5))).shape
        (2, 60)
    """

    def __call__(self, inputs: Shaped[Array, " batch *_dims"]) -> Shaped[Array, "batch features"]:
        """`(batch, ...)` to `(batch, features)`."""
        return inputs.reshape(len(inputs), -1)


class Sequential(nn.Module):
    """Each layer on what the one before gave, told whether it is training.

    Unlike `flax.linen.Sequential` it takes `train`, so that dropout and batch normalisation need no
    class around them: layers that take `train`, `training`, `deterministic` or
    `use_running_average` get it, unless the layer was made with a value of its own.

    Args:
        layers: modules and functions of one array. The parameters of layer `i` are `layers_i`.

    Example:
        >>> import jax
        >>> from jaxnet.layers import BatchNorm, Conv, Dense, Dropout, MaxPool
        >>> model = Sequential([
        ...     Conv(8, 3), BatchNorm(), jax.nn.relu, MaxPool(2), Flatten(), Dropout(0.5), Dense(10)
        ... ])
        >>> images = jax.numpy.zeros((1, 8, 8, 1))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> sorted(variables), sorted(variables["params"])
        (['batch_stats', 'params'], ['layers_0', 'layers_1', 'layers_6'])
    """

    layers: Sequence[Callable[..., Any]]

    @nn.compact
    def __call__(self, inputs: Any, train: bool = False) -> Any:
        """The last layer's outputs."""
        outputs = inputs
        for layer in self.layers:
            options = train_option(layer, train) if isinstance(layer, nn.Module) else {}
            outputs = layer(outputs, **options)
        return outputs
