"""GoogLeNet: convolutions of several sizes side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet.layers import Conv, adaptive_avg_pool, check_images, global_avg_pool, max_pool

# Table 1 of the paper: the features of `Inception`, and after which of them the image is halved.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOLS = {"3b": 3, "4e": 2}
AUXILIARY = ("4a", "4d")


class GoogLeNet(nn.Module):
    """GoogLeNet of Szegedy et al. 2015, "Going deeper with convolutions", with batch norm.

    `(batch, height, width, channels)` images of at least 15x15 to logits `(batch, num_classes)`. In
    training it gives a tuple: these, and the logits of two auxiliary heads on inner layers, whose
    losses the paper adds with weight 0.3 (section 5): `jaxnet.training.with_auxiliary` does.

    It is the variant of torchvision: every convolution is normalised (Ioffe and Szegedy 2015), and
    the "5x5" convolutions are 3x3. On three channels with 1,000 classes it has 13,004,888
    parameters, 6,624,904 of them without the auxiliary heads.

    Args:
        num_classes: the number of outputs.
        auxiliary: whether there are auxiliary heads.
        dropout: the rate at which the inputs of the last layer are dropped in training.
        auxiliary_dropout: the same in the auxiliary heads.

    Raises:
        InputError: the image is too small.

    Example:
        >>> images = jnp.zeros((1, 224, 224, 3))
        >>> for auxiliary in (True, False):
        ...     model = GoogLeNet(auxiliary=auxiliary)
        ...     variables = jax.eval_shape(model.init, jax.random.key(0), images)
        ...     print(sum(leaf.size for leaf in jax.tree.leaves(variables["params"])))
        13004888
        6624904
    """

    num_classes: int = 1000
    auxiliary: bool = True
    dropout: float = 0.2
    auxiliary_dropout: float = 0.7

    @nn.compact
    def __call__(
        self, inputs: jax.Array, train: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array, jax.Array]:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`; see above."""
        check_images("GoogLeNet", inputs, smallest=15)
        x = _conv(inputs, 64, 7, train, strides=2)
        x = _halved(x, 3)
        x = _conv(x, 64, 1, train)
        x = _conv(x, 192, 3, train)
        x = _halved(x, 3)
        heads = []
        for name, features in INCEPTIONS.items():
            x = Inception(*features, name=f"inception{name}")(x, train)
            # Their parameters are there from the start, though evaluation has no use for them.
            if self.auxiliary and name in AUXILIARY and (train or self.is_initializing()):
                head = AuxiliaryHead(self.num_classes, self.auxiliary_dropout)
                heads.append(head(x, train))
            if name in POOLS:
                x = _halved(x, POOLS[name])
        x = nn.Dropout(self.dropout)(global_avg_pool(x), deterministic=not train)
        logits = nn.Dense(self.num_classes)(x)
        return (logits, *heads) if train and heads else logits


class Inception(nn.Module):
    """Four branches on the same image, joined along the channels (figure 2b).

    Args:
        one: features of the 1x1 convolution.
        three_reduce: features to which a 1x1 convolution reduces what goes into the 3x3 one.
        three: features of the 3x3 convolution.
        five_reduce: the same for the "5x5" one.
        five: features of the "5x5" convolution.
        pool: features to which a 1x1 convolution projects the max-pooled image.
    """

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """`(batch, h, w, c)` to `(batch, h, w, one + three + five + pool)`."""
        branches = [
            _conv(inputs, self.one, 1, train),
            _conv(_conv(inputs, self.three_reduce, 1, train), self.three, 3, train),
            _conv(_conv(inputs, self.five_reduce, 1, train), self.five, 3, train),
            _conv(max_pool(inputs, 3, strides=1, padding=1), self.pool, 1, train),
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner layer, which brings the gradient there (section 5).

    Args:
        num_classes: the number of outputs.
        dropout: the rate at which the inputs of the last layer are dropped in training.
    """

    num_classes: int
    dropout: float = 0.7

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, h, w, c)`."""
        x = _conv(adaptive_avg_pool(inputs, 4), 128, 1, train)
        x = nn.relu(nn.Dense(1024)(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(self.num_classes)(x)


def _conv(x: jax.Array, features: int, kernel: int, train: bool, strides: int = 1) -> jax.Array:
    """A convolution, batch normalisation and ReLU."""
    x = Conv(
        features,
        kernel,
        strides,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
    )(x)
    return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3)(x))


def _halved(x: jax.Array, window: int) -> jax.Array:
    """Max-pooling by steps of 2 that drops no pixel: a last window may reach beyond the image."""
    padding = [(0, (size - window) % 2) for size in x.shape[1:3]]
    return max_pool(x, window, strides=2, padding=padding)
