"""VGG: networks of 3x3 convolutions only."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxnet.layers import Conv, adaptive_avg_pool, check_images, max_pool
from jaxnet.names import lookup

from .mlp import SHARDING as DENSE_SHARDING

# The convolutions of each stage, table 1 of the paper: configurations A, B, D and E.
STAGES = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """VGG of Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale ...".

    `(batch, height, width, channels)` images of at least 32x32 to logits `(batch, num_classes)`.
    Five stages of 3x3 convolutions with ReLU, each ended by 2x2 max-pooling. On 224x224x3 with
    1,000 classes VGG-16 has 138,357,544 parameters. Before the dense layers the image is averaged
    to 7x7, which 224x224 comes to by itself, so that other sizes have the same parameters.

    Args:
        depth: the layers with weights: 11, 13, 16 or 19.
        batch_norm: whether every convolution is normalised before its ReLU (Ioffe, Szegedy 2015).
        num_classes: the number of outputs.
        width: the features of the first stage; each further one has twice as many, up to 8 times.
        dense: the width of every hidden dense layer.
        dropout: the rate at which the outputs of hidden dense layers are dropped in training.

    Raises:
        InputError: the image is too small.
        UsageError: there is no VGG of this depth.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 224, 224, 3))
        >>> variables = jax.eval_shape(VGG(16).init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        138357544
    """

    depth: int = 16
    batch_norm: bool = False
    num_classes: int = 1000
    width: int = 64
    dense: Sequence[int] = (4096, 4096)
    dropout: float = 0.5

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        stages = lookup(str(self.depth), STAGES, "depth of VGG")
        check_images("VGG", inputs, smallest=32)
        x = inputs
        for stage, convolutions in enumerate(stages):
            for _ in range(convolutions):
                x = self._convolution(x, self.width * min(2**stage, 8), train)
            x = max_pool(x, 2)
        x = adaptive_avg_pool(x, 7)
        x = x.reshape(x.shape[0], -1)
        for width in self.dense:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(self.num_classes)(x)

    def _convolution(self, x: jax.Array, features: int, train: bool) -> jax.Array:
        x = Conv(features, 3, padding=1, kernel_init=nn.initializers.he_normal())(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.relu(x)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the units between the first two dense
# layers, which have most of the parameters.
SHARDING = DENSE_SHARDING
