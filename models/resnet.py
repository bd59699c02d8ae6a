"""Residual networks: the ones for ImageNet, and the small ones for CIFAR."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet.errors import UsageError
from jaxnet.layers import Conv, check_images, global_avg_pool, max_pool
from jaxnet.names import lookup

# The blocks of each stage, table 1 of the paper. From 50 layers on they are bottlenecks.
STAGES = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}


class ResNet(nn.Module):
    """The ResNet for ImageNet of He et al. 2016, "Deep residual learning for image recognition".

    `(batch, height, width, channels)` images of any size to logits `(batch, num_classes)`. With
    1,000 classes ResNet-18 has 11,689,512 parameters and ResNet-50 has 25,557,032 (section 4.1,
    table 1; shortcuts by option B: a projection where the size changes). In a bottleneck the 3x3
    convolution takes the stride and not the 1x1 before it, as everywhere since 2016. A 224x224
    image comes to 7x7 features, which are averaged; smaller images come to fewer, 32x32 to one.

    Args:
        depth: the layers with weights: 18, 34, 50, 101 or 152.
        num_classes: the number of outputs.
        width: the features of the first stage; each further one has twice as many.

    Raises:
        UsageError: there is no ResNet of this depth.

    Example:
        >>> images = jnp.zeros((1, 224, 224, 3))
        >>> for depth in (18, 50):
        ...     variables = jax.eval_shape(ResNet(depth).init, jax.random.key(0), images)
        ...     print(sum(leaf.size for leaf in jax.tree.leaves(variables["params"])))
        11689512
        25557032
    """

    depth: int = 18
    num_classes: int = 1000
    width: int = 64

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        stages = lookup(str(self.depth), STAGES, "depth of ResNet")
        check_images("ResNet", inputs)
        block = Bottleneck if self.depth >= 50 else BasicBlock
        x = nn.relu(_conv_norm(inputs, self.width, 7, 2, train))
        x = max_pool(x, 3, strides=2, padding=1)
        x = _stages(x, block, stages, self.width, train)
        return nn.Dense(self.num_classes)(global_avg_pool(x))


class CIFARResNet(nn.Module):
    """The ResNet for CIFAR-10 of He et al. 2016, section 4.2.

    `(batch, height, width, channels)` images of any size to logits `(batch, num_classes)`: a 3x3
    convolution, then three stages of n blocks with 16, 32 and 64 features. Shortcuts are by option
    A and have no parameters. ResNet-20 has 269,722 parameters (the paper's table 6: 0.27 M).

    Args:
        depth: the layers with weights, 6 n + 2: 20, 32, 44, 56 and so on.
        num_classes: the number of outputs.
        width: the features of the first stage; each further one has twice as many.

    Raises:
        UsageError: there is no such depth.

    Example:
        >>> images = jnp.zeros((1, 32, 32, 3))
        >>> variables = jax.eval_shape(CIFARResNet(20).init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        269722
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise UsageError(
                f"CIFARResNet has 6 n + 2 layers: 20, 32, 44, 56, ..., got depth {self.depth}"
            )
        check_images("CIFARResNet", inputs)
        x = nn.relu(_conv_norm(inputs, self.width, 3, 1, train))
        x = _stages(x, PaddedBlock, ((self.depth - 2) // 6,) * 3, self.width, train)
        return nn.Dense(self.num_classes)(global_avg_pool(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left).

    Args:
        features: of both convolutions, and of the outputs.
        strides: of the first convolution.
    """

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """`(batch, h, w, c)` to `(batch, h / strides, w / strides, features)`, rounded up."""
        x = nn.relu(_conv_norm(inputs, self.features, 3, self.strides, train))
        x = _conv_norm(x, self.features, 3, 1, train)
        return nn.relu(x + self.shortcut(inputs, x, train))

    def shortcut(self, inputs: jax.Array, outputs: jax.Array, train: bool) -> jax.Array:
        """Option B: the inputs themselves, or projected where the shape changes."""
        if inputs.shape == outputs.shape:
            return inputs
        return _conv_norm(inputs, outputs.shape[-1], 1, self.strides, train)


class PaddedBlock(BasicBlock):
    """`BasicBlock` with shortcuts by option A."""

    def shortcut(self, inputs: jax.Array, outputs: jax.Array, train: bool) -> jax.Array:
        """Option A: every `strides`-th pixel, with zeros for the features that are new."""
        x = inputs[:, :: self.strides, :: self.strides]
        new = outputs.shape[-1] - x.shape[-1]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class Bottleneck(BasicBlock):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (figure 5, right).

    Args:
        features: of the first two convolutions; the outputs have four times as many.
        strides: of the 3x3 convolution.
    """

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """`(batch, h, w, c)` to `(batch, h / strides, w / strides, 4 features)`, rounded up."""
        x = nn.relu(_conv_norm(inputs, self.features, 1, 1, train))
        x = nn.relu(_conv_norm(x, self.features, 3, self.strides, train))
        x = _conv_norm(x, 4 * self.features, 1, 1, train)
        return nn.relu(x + self.shortcut(inputs, x, train))


def _stages(
    x: jax.Array, block: Callable[..., nn.Module], stages: tuple[int, ...], width: int, train: bool
) -> jax.Array:
    """Stages of blocks; each halves the image with its first block, but for the first stage."""
    for stage, blocks in enumerate(stages):
        for i in range(blocks):
            strides = 2 if stage > 0 and i == 0 else 1
            x = block(width * 2**stage, strides, name=f"stage{stage + 1}_block{i + 1}")(x, train)
    return x


def _conv_norm(x: jax.Array, features: int, kernel: int, strides: int, train: bool) -> jax.Array:
    """A convolution without bias, and batch normalisation; weights as He et al. 2015 start them."""
    x = Conv(
        features,
        kernel,
        strides,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    )(x)
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
