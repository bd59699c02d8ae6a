"""Vision transformers: images as sequences of patches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import (
    Dense,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
    check_images,
)
from jaxnet.layers.transformer import SHARDING as BLOCK_SHARDING

# Table 1 of the paper; S is of Touvron et al. 2021, "Training data-efficient image transformers".
SIZES: Mapping[str, Mapping[str, Any]] = {
    "s": {"num_layers": 12, "width": 384, "mlp": 1536, "num_heads": 6},
    "b": {"num_layers": 12, "width": 768, "mlp": 3072, "num_heads": 12},
    "l": {"num_layers": 24, "width": 1024, "mlp": 4096, "num_heads": 16},
}


class ViT(nn.Module):
    """ViT of Dosovitskiy et al. 2021, "An image is worth 16x16 words".

    `(batch, height, width, channels)` images, which the patches have to divide, to logits `(batch,
    num_classes)`. The default is ViT-B/16, `ViT(**SIZES["l"])` ViT-L/16. On 224x224x3 with 1,000
    classes ViT-B/16 has 86,567,656 parameters; they depend on the image's size, since each patch
    has a position that is learnt (section 3.1, equations 1 to 4).

    Args:
        patch_size: the height and width of a patch.
        num_classes: the number of outputs.
        num_layers: the number of blocks.
        width: the features of a token.
        mlp: the width of the hidden layer in each block.
        num_heads: the heads of attention.
        dropout: the rate at which embeddings, hidden units and outputs of blocks' parts are
            dropped in training.

    Raises:
        InputError: the patches don't divide the image.

    Example:
        >>> images = jnp.zeros((1, 224, 224, 3))
        >>> variables = jax.eval_shape(ViT().init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        86567656
    """

    patch_size: int = 16
    num_classes: int = 1000
    num_layers: int = 12
    width: int = 768
    mlp: int = 3072
    num_heads: int = 12
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, height, width, channels)`."""
        check_images("ViT", inputs, smallest=self.patch_size)
        x = Dense(self.width, name="patches")(_patches(inputs, self.patch_size))
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        first = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = LearnedPositions(x.shape[1], name="positions")(x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        norm = partial(nn.LayerNorm, epsilon=1e-6)
        block = partial(
            TransformerBlock,
            attention=partial(MultiHeadAttention, self.width, self.num_heads),
            feed_forward=partial(FeedForward, self.mlp, dropout=self.dropout),
            norm=norm,
            dropout=self.dropout,
        )
        x = Stack(block, self.num_layers, name="encoder")(x, train=train)
        x = norm(name="norm")(x[:, 0])
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)


def _patches(images: jax.Array, size: int) -> jax.Array:
    """The pixels of each patch in a row: `(batch, patches, size * size * channels)`."""
    batch, height, width, channels = images.shape
    if height % size or width % size:
        raise InputError(
            f"ViT: patches of {size}x{size} don't divide images of {height}x{width}: choose a "
            f"patch_size that divides both, or scale the images to multiples of {size}"
        )
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the blocks.
SHARDING = BLOCK_SHARDING
