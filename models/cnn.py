"""The small convolutional network of the courses."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import Conv, max_pool


class CNN(nn.Module):
    """Convolutions with pooling between them, then dense layers.

    The network with which courses meet MNIST (Chollet, "Deep Learning with Python", 2017, section
    5.1): `(batch, height, width, channels)` images to logits `(batch, num_classes)`. The default
    has 93,322 parameters on 28x28x1. Weights start as He et al. 2015 proposed for ReLU.

    Args:
        filters: the features of every convolution; a pooling follows each one but the last.
        dense: the width of every hidden dense layer.
        num_classes: the number of outputs.
        dropout: the rate at which the inputs of dense layers are dropped in training.
        kernel_size: the convolutions' kernels are `kernel_size` squared.
        padding: of the convolutions: `"VALID"` or `"SAME"`.
        pool: the pooling's window and step.
        batch_norm: whether every convolution is normalised before its ReLU (Ioffe, Szegedy 2015);
            running statistics have momentum 0.9, so that some ten steps settle them.

    Raises:
        InputError: the image is too small for this number of layers; the message names the layer.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(CNN().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        93322
    """

    filters: Sequence[int] = (32, 64, 64)
    dense: Sequence[int] = (64,)
    num_classes: int = 10
    dropout: float = 0.0
    kernel_size: int = 3
    padding: str = "VALID"
    pool: int = 2
    batch_norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        if inputs.ndim != 4:
            raise InputError(f"CNN takes (batch, height, width, channels), got {inputs.shape}")
        x = inputs
        for i in range(len(self.filters)):
            try:
                x = self._block(x, i, train)
            except InputError as error:
                raise InputError(
                    f"CNN: an image of {inputs.shape[1:3]} is too small for layer {i + 1} of "
                    f"filters={tuple(self.filters)}, which gets {x.shape[1:3]}: {error}"
                ) from None
        x = x.reshape(x.shape[0], -1)
        for width in self.dense:
            x = self._drop(x, train)
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.num_classes)(self._drop(x, train))

    def _block(self, x: jax.Array, i: int, train: bool) -> jax.Array:
        """Convolution, normalisation, ReLU and, but for the last layer, pooling."""
        size = (self.kernel_size, self.kernel_size)
        kernel_init = nn.initializers.he_normal()
        x = Conv(self.filters[i], size, padding=self.padding, kernel_init=kernel_init)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.relu(x)
        return x if i == len(self.filters) - 1 else max_pool(x, self.pool)

    def _drop(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout)(x, deterministic=not train) if self.dropout > 0 else x
