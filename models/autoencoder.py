"""Autoencoders: networks that press an image into a short code and draw it again from that."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import Conv, ConvTranspose

_HE = nn.initializers.he_normal()


class DenseEncoder(nn.Module):
    """Images `(batch, ...)` to codes `(batch, features)` by dense layers.

    Hinton and Salakhutdinov 2006, with ReLU for their sigmoid. 784-256-128-32 has 237,984
    parameters.

    Args:
        features: the length of the code.
        hidden: the width of every hidden layer.

    Example:
        >>> inputs = jnp.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(DenseEncoder(32).init, jax.random.key(0), inputs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        237984
    """

    features: int
    hidden: Sequence[int] = (256, 128)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Codes `(batch, features)`."""
        x = images.reshape(len(images), -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, kernel_init=_HE)(x))
        return nn.Dense(self.features)(x)


class DenseDecoder(nn.Module):
    """Codes `(batch, latent)` to the log-odds `(batch, *shape)` of pixels, by dense layers.

    It is `DenseEncoder` backwards: 32-128-256-784 has 238,736 parameters.

    Args:
        shape: of an image, `(height, width, channels)`.
        hidden: the width of every hidden layer.

    Example:
        >>> inputs = jnp.zeros((1, 32))
        >>> variables = jax.eval_shape(DenseDecoder((28, 28, 1)).init, jax.random.key(0), inputs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        238736
    """

    shape: Sequence[int]
    hidden: Sequence[int] = (128, 256)

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Log-odds `(batch, *shape)`."""
        x = codes
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, kernel_init=_HE)(x))
        return nn.Dense(prod(self.shape))(x).reshape(len(x), *self.shape)


class ConvEncoder(nn.Module):
    """Images `(batch, height, width, channels)` to codes `(batch, features)` by convolutions.

    Each convolution, 3x3, halves height and width, where Masci et al. 2011, "Stacked convolutional
    auto-encoders for hierarchical feature extraction", pool. On 28x28x1 to codes of 32 it has
    119,200 parameters.

    Args:
        features: the length of the code.
        filters: the features of every convolution.

    Example:
        >>> inputs = jnp.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(ConvEncoder(32).init, jax.random.key(0), inputs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        119200
    """

    features: int
    filters: Sequence[int] = (32, 64)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Codes `(batch, features)`."""
        x = images
        for filters in self.filters:
            x = nn.relu(Conv(filters, 3, 2, kernel_init=_HE)(x))
        return nn.Dense(self.features)(x.reshape(len(x), -1))


class ConvDecoder(nn.Module):
    """Codes `(batch, latent)` to the log-odds `(batch, *shape)` of pixels: `ConvEncoder` backwards.

    Of codes of 32 to 28x28x1 it has 136,801 parameters.

    Args:
        shape: of an image, `(height, width, channels)`; height and width must halve as often as
            there are convolutions.
        filters: the features before every transposed convolution, 4x4, which doubles height and
            width.

    Raises:
        InputError: the shape can't be halved so often.

    Example:
        >>> inputs = jnp.zeros((1, 32))
        >>> variables = jax.eval_shape(ConvDecoder((28, 28, 1)).init, jax.random.key(0), inputs)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        136801
    """

    shape: Sequence[int]
    filters: Sequence[int] = (64, 32)

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Log-odds `(batch, *shape)`."""
        height, width, channels = self.shape
        factor = 2 ** len(self.filters)
        if height % factor or width % factor:
            raise InputError(
                f"ConvDecoder: {len(self.filters)} layers double a whole number of pixels to "
                f"{height}x{width} only if {factor} divides both; take fewer filters, or images of "
                "another size"
            )
        start = (height // factor, width // factor, self.filters[0])
        x = nn.relu(nn.Dense(prod(start), kernel_init=_HE)(codes)).reshape(len(codes), *start)
        for filters in self.filters[1:]:
            x = nn.relu(ConvTranspose(filters, 4, 2, kernel_init=_HE)(x))
        return ConvTranspose(channels, 4, 2)(x)


class Autoencoder(nn.Module):
    """A network that gives its inputs back, with a short code between.

    Images `(batch, ...)` from 0 to 1 to images of the same shape. With one linear layer on each
    side it finds the plane of principal component analysis; with more it bends it (Hinton and
    Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks"). 784-256-128-32
    and back has 476,720 parameters, and the convolutional one 256,001.

    Args:
        encoder: images to codes `(batch, latent)`.
        decoder: codes to the log-odds of pixels, in the images' shape.

    Example:
        >>> images = jnp.zeros((1, 28, 28, 1))
        >>> dense = Autoencoder(DenseEncoder(32), DenseDecoder((28, 28, 1)))
        >>> conv = Autoencoder(ConvEncoder(32), ConvDecoder((28, 28, 1)))
        >>> for network in dense, conv:
        ...     variables = jax.eval_shape(network.init, jax.random.key(0), images)
        ...     print(sum(leaf.size for leaf in jax.tree.leaves(variables)))
        476720
        256001
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, images: jax.Array) -> jax.Array:
        """The images as their codes have them, from 0 to 1."""
        return nn.sigmoid(self.decode(self.encode(images)))

    def encode(self, images: jax.Array) -> jax.Array:
        """The codes `(batch, latent)` of images."""
        return self.encoder(images)

    def decode(self, codes: jax.Array) -> jax.Array:
        """The log-odds of the pixels of images with these codes."""
        return self.decoder(codes)


class VAE(nn.Module):
    """A variational autoencoder: the code of an image is a normal distribution.

    Images `(batch, ...)` from 0 to 1 to images of the same shape (Kingma and Welling 2014,
    "Auto-encoding variational Bayes", section 3). `jaxnet.training.Variational` trains it.
    784-500-20 and back, close to the paper's appendix C.1, has 815,824 parameters.

    Args:
        encoder: images to `(batch, 2 latent)`: means, and then the logarithms of variances.
        decoder: codes `(batch, latent)` to the log-odds of pixels, in the images' shape.

    Raises:
        InputError: the encoder's outputs are no even number.

    Example:
        >>> images = jnp.zeros((1, 28, 28, 1))
        >>> network = VAE(DenseEncoder(2 * 20, (500,)), DenseDecoder((28, 28, 1), (500,)))
        >>> variables = jax.eval_shape(network.init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        815824
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, images: jax.Array) -> jax.Array:
        """The images as the means of their codes have them, from 0 to 1."""
        return nn.sigmoid(self.decode(self.encode(images)[0]))

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance `(batch, latent)` of the codes of images."""
        outputs = self.encoder(images)
        if outputs.shape[-1] % 2:
            raise InputError(
                "VAE: the encoder has to give a mean and a log-variance for each entry of the code,"
                f" which is an even number of outputs; got {outputs.shape[-1]}"
            )
        mean, log_variance = jnp.split(outputs, 2, axis=-1)
        return mean, log_variance

    def decode(self, codes: jax.Array) -> jax.Array:
        """The log-odds of the pixels of images with these codes."""
        return self.decoder(codes)
