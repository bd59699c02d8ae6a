"""BERT: an encoder that is trained to fill in words, and then to classify texts or tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.layers import (
    Dense,
    Embed,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
)
from jaxnet.layers.activations import gelu
from jaxnet.layers.dense import add_bias
from jaxnet.layers.tokens import check_tokens
from jaxnet.layers.transformer import SHARDING as BLOCK_SHARDING
from jaxnet.names import check_least

# Section 3 of the paper: `BERT(**SIZES["large"])`. With the pooler they have 109,482,240 and
# 335,141,888 parameters. The small ones are of Turc et al. 2019, table 1.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_layers": 2, "features": 128, "num_heads": 2, "hidden": 512},
    "mini": {"num_layers": 4, "features": 256, "num_heads": 4, "hidden": 1024},
    "small": {"num_layers": 4, "features": 512, "num_heads": 8, "hidden": 2048},
    "medium": {"num_layers": 8, "features": 512, "num_heads": 8, "hidden": 2048},
    "base": {"num_layers": 12, "features": 768, "num_heads": 12, "hidden": 3072},
    "large": {"num_layers": 24, "features": 1024, "num_heads": 16, "hidden": 4096},
}


_norm = partial(nn.LayerNorm, epsilon=1e-12)


class BERT(nn.Module):
    """The encoder of Devlin et al. 2019, "BERT: pre-training of deep bidirectional transformers".

    `(batch, time)` int32 tokens to states `(batch, time, features)`. What goes on top is a module
    that takes this one: `BERTMaskedLM`, `BERTClassifier`, `BERTTagger`.

    Args:
        vocab_size: the number of different tokens.
        length: the number of positions: the longest sequence.
        features: the width of a token (the paper's H).
        num_layers: the number of blocks (L).
        num_heads: the heads of attention (A).
        hidden: the width of the feed-forward networks.
        segments: how many parts a text may have: the paper's two sentences.
        dropout: the rate at which embeddings, weights of attention and outputs of layers are
            dropped in training.
        pad: the token that is padding.
        init_std: the deviation of the initial weights. The paper's suits its width; narrow networks
            start to learn much sooner with about `features ** -0.5`.

    Raises:
        InputError: a sequence is longer than `length`.
        UsageError: a size is below 1.

    Example:
        >>> tokens = jnp.zeros((1, 8), jnp.int32)
        >>> init = partial(BERT().init, method="pooled")
        >>> variables = jax.eval_shape(init, jax.random.key(0), tokens)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        109482240
    """

    vocab_size: int = 30522
    length: int = 512
    features: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int = 3072
    segments: int = 2
    dropout: float = 0.1
    pad: int = 0
    init_std: float = 0.02

    @property
    def kernel_init(self) -> nn.initializers.Initializer:
        """How weights start, those of a head on top too."""
        return nn.initializers.normal(self.init_std)

    def setup(self) -> None:
        """The layers."""
        check_least(1, features=self.features, num_layers=self.num_layers)
        block = partial(
            TransformerBlock,
            attention=partial(
                MultiHeadAttention,
                self.features,
                self.num_heads,
                dropout=self.dropout,
                kernel_init=self.kernel_init,
            ),
            feed_forward=partial(FeedForward, self.hidden, gelu, kernel_init=self.kernel_init),
            norm=_norm,
            pre_norm=False,
            dropout=self.dropout,
        )
        self.embed = Embed(self.vocab_size, self.features, embedding_init=self.kernel_init)
        self.positions = LearnedPositions(self.length, self.kernel_init)
        self.segment = Embed(self.segments, self.features, embedding_init=self.kernel_init)
        self.norm = _norm()
        self.drop = nn.Dropout(self.dropout)
        self.stack = Stack(block, self.num_layers)
        self.pooler = nn.Dense(self.features, kernel_init=self.kernel_init)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """States `(batch, time, features)` of `(batch, time)` tokens.

        Args:
            tokens: `(batch, time)` int32, padded on the right.
            mask: bool `(batch, time)`, False where a token is padding; None for `tokens != pad`.
            segments: int32 `(batch, time)`, the part each token belongs to; None for the first.
            train: whether dropout acts; it draws from the random stream `"dropout"`.
        """
        mask = tokens != self.pad if mask is None else mask
        segments = jnp.zeros((1, 1), jnp.int32) if segments is None else segments
        x = self.positions(add_bias(self.embed(tokens), self.segment(segments)))
        x = self.drop(self.norm(x), deterministic=not train)
        return self.stack(x, mask, train=train)

    def pooled(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """What stands for the whole text, `(batch, features)`: the first token's state, pooled."""
        states = self(tokens, mask, segments, train)
        return jnp.tanh(self.pooler(states[:, 0]))

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)


class _Head(nn.Module):
    encoder: BERT

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        self.encoder.check_inputs(inputs)


class BERTMaskedLM(_Head):
    """Logits `(batch, time, vocab_size)` of what stands at each place (section 3.1, task 1).

    The last layer is the embedding table, behind a dense layer with GELU and a normalisation.

    Args:
        encoder: a `BERT`.

    Example:
        >>> model, tokens = BERTMaskedLM(BERT(**SIZES["tiny"])), jnp.zeros((2, 8), jnp.int32)
        >>> logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)
        >>> logits.shape
        (2, 8, 30522)
    """

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """See `BERT.__call__`."""
        states = self.encoder(tokens, mask, segments, train)
        features, vocab_size = self.encoder.features, self.encoder.vocab_size
        x = gelu(Dense(features, kernel_init=self.encoder.kernel_init, name="transform")(states))
        x = _norm(name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros_init(), (vocab_size,))
        return self.encoder.embed.attend(x) + bias.astype(x.dtype)[None, None]


class BERTClassifier(_Head):
    """Logits `(batch, num_classes)` of a text (figure 4, a and b).

    Args:
        encoder: a `BERT`.
        num_classes: the number of outputs.

    Example:
        >>> model, tokens = BERTClassifier(BERT(**SIZES["tiny"]), 3), jnp.zeros((2, 8), jnp.int32)
        >>> logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)
        >>> logits.shape
        (2, 3)
    """

    num_classes: int = 2

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """See `BERT.__call__`."""
        pooled = self.encoder.pooled(tokens, mask, segments, train)
        pooled = nn.Dropout(self.encoder.dropout)(pooled, deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=self.encoder.kernel_init, name="head")(pooled)


class BERTTagger(_Head):
    """Logits `(batch, time, num_classes)`, a class for each token (figure 4, d).

    Args:
        encoder: a `BERT`.
        num_classes: the number of outputs.

    Example:
        >>> model, tokens = BERTTagger(BERT(**SIZES["tiny"]), 9), jnp.zeros((2, 8), jnp.int32)
        >>> logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)
        >>> logits.shape
        (2, 8, 9)
    """

    num_classes: int = 2

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """See `BERT.__call__`."""
        states = self.encoder(tokens, mask, segments, train)
        states = nn.Dropout(self.encoder.dropout)(states, deterministic=not train)
        return Dense(self.num_classes, kernel_init=self.encoder.kernel_init, name="head")(states)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the vocabulary, and the blocks.
SHARDING = (
    ("**/embed/embedding", ("tensor",)),
    ("bias", ("tensor",), "optional"),
    *BLOCK_SHARDING,
)
