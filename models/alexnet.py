"""AlexNet, the network with which deep learning won ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxnet.layers import Conv, adaptive_avg_pool, check_images, max_pool

from .mlp import SHARDING as DENSE_SHARDING


class AlexNet(nn.Module):
    """AlexNet of Krizhevsky 2014, "One weird trick for parallelizing convolutional networks".

    `(batch, height, width, channels)` images of at least 63x63 to logits `(batch, num_classes)`.
    61,100,840 parameters on 224x224x3 with 1,000 classes, as in torchvision. It is the network of
    Krizhevsky et al. 2012, section 3.5, in one column and without the normalisation of responses.
    Before the dense layers the image is averaged to 6x6, which 224x224 comes to by itself, so
    that other sizes have the same parameters.

    Args:
        num_classes: the number of outputs.
        dense: the width of every hidden dense layer.
        dropout: the rate at which the inputs of hidden dense layers are dropped in training.

    Raises:
        InputError: the image is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 224, 224, 3))
        >>> variables = jax.eval_shape(AlexNet().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        61100840
    """

    num_classes: int = 1000
    dense: Sequence[int] = (4096, 4096)
    dropout: float = 0.5

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        check_images("AlexNet", inputs, smallest=63)
        x = nn.relu(_conv(64, 11, strides=4, padding=2)(inputs))
        x = max_pool(x, 3, strides=2)
        x = nn.relu(_conv(192, 5, padding=2)(x))
        x = max_pool(x, 3, strides=2)
        x = nn.relu(_conv(384, 3)(x))
        x = nn.relu(_conv(256, 3)(x))
        x = nn.relu(_conv(256, 3)(x))
        x = max_pool(x, 3, strides=2)
        x = adaptive_avg_pool(x, 6)
        x = x.reshape(x.shape[0], -1)
        for width in self.dense:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.num_classes)(x)


def _conv(features: int, kernel: int, strides: int = 1, padding: int = 1) -> Conv:
    return Conv(
        features,
        kernel,
        strides=strides,
        padding=padding,
        kernel_init=nn.initializers.he_normal(),
    )


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the units between the first two dense
# layers, which have most of the parameters.
SHARDING = DENSE_SHARDING
