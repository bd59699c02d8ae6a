"""Generators and discriminators of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import jax
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import Conv, ConvTranspose
from jaxnet.layers.activations import leaky_relu

# Radford et al. 2016, section 3: all weights start so.
_NORMAL = nn.initializers.normal(0.02)


class DenseGenerator(nn.Module):
    """The generator of dense layers with which courses begin.

    Noise `(batch, latent)` to images `(batch, *shape)` from -1 to 1. Goodfellow et al. 2014 made
    MNIST's digits with dense layers; sizes and activations here are those that became usual. The
    default has 1,486,352 parameters on 100 numbers.

    Args:
        shape: of an image, `(height, width, channels)`.
        hidden: the width of every hidden layer.

    Example:
        >>> noise = jax.numpy.zeros((1, 100))
        >>> variables = jax.eval_shape(DenseGenerator().init, jax.random.key(0), noise)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        1486352
    """

    shape: Sequence[int] = (28, 28, 1)
    hidden: Sequence[int] = (256, 512, 1024)

    @nn.compact
    def __call__(self, noise: jax.Array) -> jax.Array:
        """Images `(batch, *shape)` of noise `(batch, latent)`."""
        x = noise
        for width in self.hidden:
            x = leaky_relu(nn.Dense(width)(x), 0.2)
        x = nn.tanh(nn.Dense(prod(self.shape))(x))
        return x.reshape(len(x), *self.shape)


class DenseDiscriminator(nn.Module):
    """The discriminator of dense layers.

    Images `(batch, ...)` to the log-odds that they are real, `(batch, 1)`. The default has 533,505
    parameters on 28x28x1.

    Args:
        hidden: the width of every hidden layer.
        dropout: the rate at which hidden units are dropped in training, as Goodfellow et al. 2014
            did.

    Example:
        >>> images = jax.numpy.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(DenseDiscriminator().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        533505
    """

    hidden: Sequence[int] = (512, 256)
    dropout: float = 0.3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Log-odds `(batch, 1)` of images `(batch, ...)`."""
        x = images.reshape(len(images), -1)
        for width in self.hidden:
            x = leaky_relu(nn.Dense(width)(x), 0.2)
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(1)(x)


class DCGANGenerator(nn.Module):
    """The generator of Radford et al. 2016, section 3: noise that grows into an image.

    Noise `(batch, latent)` to images `(batch, *shape)` from -1 to 1. Each stage doubles height and
    width and halves the features; all but the last are normalised. With 4 stages, 128 features and
    `shape=(64, 64, 3)` it is the paper's figure 1, 1024 features on 4x4. Kernels are 4x4, which a
    step of 2 divides, so that all pixels of a stage are painted equally often (Odena et al. 2016);
    the paper's are 5x5. The default has 759,681 parameters on 100 numbers.

    Args:
        shape: of an image, `(height, width, channels)`; `2**stages` divides height and width.
        features: those before the last stage.
        stages: how often height and width double.
        kernel_size: 4, or the paper's 5.

    Raises:
        InputError: the stages don't divide the image's size.

    Example:
        >>> noise = jax.numpy.zeros((1, 100))
        >>> paper = DCGANGenerator((64, 64, 3), features=128, stages=4, kernel_size=5)
        >>> for generator in DCGANGenerator(), paper:
        ...     variables = jax.eval_shape(generator.init, jax.random.key(0), noise)
        ...     print(sum(leaf.size for leaf in jax.tree.leaves(variables["params"])))
        759681
        18855043
    """

    shape: Sequence[int] = (28, 28, 1)
    features: int = 64
    stages: int = 2
    kernel_size: int = 4

    @nn.compact
    def __call__(self, noise: jax.Array, train: bool = False) -> jax.Array:
        """Images `(batch, *shape)` of noise `(batch, latent)`."""
        height, width, channels = self.shape
        factor = 2**self.stages
        if height % factor or width % factor:
            raise InputError(
                f"DCGAN: {self.stages} stages double a whole number of pixels to {height}x{width} "
                f"only if {factor} divides both; take fewer stages, or images of another size"
            )
        features = self.features * factor // 2
        units = height * width // factor**2 * features
        # No bias where the normalisation that follows would take it away.
        x = nn.Dense(units, use_bias=False, kernel_init=_NORMAL)(noise)
        x = x.reshape(len(x), height // factor, width // factor, features)
        for stage in range(1, self.stages + 1):
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            last = stage == self.stages
            features = channels if last else features // 2
            x = ConvTranspose(features, self.kernel_size, 2, use_bias=last, kernel_init=_NORMAL)(x)
        return nn.tanh(x)


class DCGANDiscriminator(nn.Module):
    """The discriminator of Radford et al. 2016, section 3, the generator's mirror image.

    Images `(batch, height, width, channels)` to the log-odds that they are real, `(batch, 1)`. Each
    stage halves height and width and doubles the features. The first isn't normalised.
    `batch_norm=False` makes it the critic of Gulrajani et al. 2017, whose penalty is on each image
    by itself. The default has 138,689 parameters on 28x28x1.

    Args:
        features: those of the first stage.
        stages: how often height and width are halved.
        batch_norm: whether the stages after the first are normalised.
        kernel_size: 4, or the paper's 5.

    Raises:
        InputError: the image is too small for this number of stages.

    Example:
        >>> images = jax.numpy.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(DCGANDiscriminator().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        138689
    """

    features: int = 64
    stages: int = 2
    batch_norm: bool = True
    kernel_size: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Log-odds `(batch, 1)` of images `(batch, height, width, channels)`."""
        least = 2**self.stages
        if images.ndim != 4 or min(images.shape[1:3]) < least:
            raise InputError(
                f"DCGAN: {self.stages} stages take images (batch, height, width, channels) of at "
                f"least {least}x{least}, got {images.shape}"
            )
        x = images
        for stage in range(self.stages):
            normalised = self.batch_norm and stage > 0
            features = self.features * 2**stage
            x = Conv(features, self.kernel_size, 2, use_bias=not normalised, kernel_init=_NORMAL)(x)
            if normalised:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = leaky_relu(x, 0.2)
        return nn.Dense(1, kernel_init=_NORMAL)(x.reshape(len(x), -1))
