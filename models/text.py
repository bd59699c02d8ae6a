"""Classifiers of texts: an embedding, a recurrent network, and a dense layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.layers import RECURRENT
from jaxnet.layers.tokens import check_tokens
from jaxnet.names import lookup

_Pool = Callable[[jax.Array, jax.Array], jax.Array]


class RecurrentClassifier(nn.Module):
    """A recurrent network reads a text and says its class.

    `(batch, time)` int32 tokens to logits `(batch, num_classes)`, as in Chollet, "Deep Learning
    with Python" (2017), section 6.2: the state after the last word goes to a dense layer. Padding
    never changes a result. With `pool="max"` it is each unit's largest output over the text (Lai et
    al. 2015, "Recurrent convolutional neural networks for text classification", section 3.2). The
    default has 673,154 parameters with 10,000 tokens and 2 classes.

    Args:
        vocab_size: the number of different tokens.
        num_classes: the number of outputs.
        cell: `"rnn"`, `"lstm"` or `"gru"`.
        embedding: the width of a token's embedding.
        features: the units of a layer, in each direction.
        num_layers: how many recurrent layers stand on top of each other.
        bidirectional: whether the text is read from its end too.
        pool: what of the outputs goes to the dense layer: `"last"`, `"max"` or `"mean"`.
        dropout: the rate at which embeddings, and what goes from layer to layer and to the dense
            layer, are dropped in training.
        pad: the token that fills a text up.

    Example:
        >>> tokens = jnp.array([[5, 2, 9], [7, 0, 0]])
        >>> model = RecurrentClassifier(vocab_size=10_000, num_classes=2)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        673154
    """

    vocab_size: int
    num_classes: int
    cell: str = "lstm"
    embedding: int = 64
    features: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    pool: str = "last"
    dropout: float = 0.0
    pad: int = 0

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Logits `(batch, num_classes)` of `(batch, time)` tokens.

        Args:
            tokens: `(batch, time)` int32.
            mask: bool `(batch, time)`, True where a token is real; by default where it isn't `pad`.
            train: whether dropout acts; it draws from the random stream `"dropout"`.
        """
        kind = lookup(self.cell, RECURRENT, "cell")
        pool = lookup(self.pool, _POOLS, "pool")
        mask = tokens != self.pad if mask is None else mask
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = drop(nn.Embed(self.vocab_size, self.embedding)(tokens))
        layers = kind(
            self.features,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            return_sequences=pool is not None,
        )
        x = layers(x, mask, train=train)
        if pool is not None:
            x = pool(x, mask[..., None])
        return nn.Dense(self.num_classes)(drop(x))


def _max(x: jax.Array, mask: jax.Array) -> jax.Array:
    # A text without a token has no maximum: it gets zeros, as its states are.
    largest = jnp.where(mask, x, -jnp.inf).max(axis=1)
    return jnp.where(mask.any(axis=1), largest, 0)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    count = jnp.maximum(mask.sum(axis=1), 1).astype(x.dtype)
    return jnp.where(mask, x, 0).sum(axis=1) / count


_POOLS: Mapping[str, _Pool | None] = {"last": None, "max": _max, "mean": _mean}
