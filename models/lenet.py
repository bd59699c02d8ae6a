"""LeNet-5, the convolutional network that read cheques."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import Conv, avg_pool


class LeNet5(nn.Module):
    """LeNet-5 of LeCun et al. 1998, "Gradient-based learning applied to document recognition".

    `(batch, 32, 32, channels)` images, or smaller ones such as MNIST's 28x28, which are padded
    with zeros to 32x32 (section II.B), to logits `(batch, num_classes)`. 61,706 parameters.

    As in the paper: the layers' sizes, averaging, tanh. As is usual now: C3 sees all maps of S2
    (the paper's table I connects only some), S2 and S4 only average (the paper's then scale, shift
    and squash), tanh is not scaled, and the outputs are logits instead of distances to drawings of
    the digits. `activation=nn.relu, pool=max_pool` makes it the modern variant of the same size.

    Args:
        num_classes: the number of outputs.
        activation: what follows every convolution and hidden layer.
        pool: the subsampling of S2 and S4, called with an array and a window of 2.

    Raises:
        InputError: the images are larger than 32x32.

    Example:
        >>> images = jnp.zeros((1, 28, 28, 1))
        >>> variables = jax.eval_shape(LeNet5().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        61706
    """

    num_classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.tanh
    pool: Callable[[jax.Array, int], jax.Array] = avg_pool

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        x = _centred(inputs)
        x = self.activation(Conv(6, 5, padding="VALID", name="C1")(x))
        x = self.pool(x, 2)
        x = self.activation(Conv(16, 5, padding="VALID", name="C3")(x))
        x = self.pool(x, 2)
        x = self.activation(Conv(120, 5, padding="VALID", name="C5")(x))
        x = x.reshape(x.shape[0], -1)
        x = self.activation(nn.Dense(84, name="F6")(x))
        return nn.Dense(self.num_classes, name="output")(x)


def _centred(images: jax.Array) -> jax.Array:
    """The images in the middle of 32x32."""
    if images.ndim != 4 or max(images.shape[1:3]) > 32:
        raise InputError(
            f"LeNet-5 takes images (batch, height, width, channels) of at most 32x32, got "
            f"{images.shape}: scale them down or add the channel axis"
        )
    margins = [((32 - n) // 2, (33 - n) // 2) for n in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), *margins, (0, 0)))
