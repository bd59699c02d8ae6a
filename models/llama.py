"""Llama: a decoder with rotary positions, grouped queries and gates."""

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
    GatedFeedForward,
    KeyValues,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
    advanced,
    new_positions,
    token_positions,
)
from jaxnet.layers.kv_cache import Cache
from jaxnet.layers.tokens import check_tokens
from jaxnet.layers.transformer import SHARDING as BLOCK_SHARDING
from jaxnet.names import check_least

# `Llama(**SIZES["2-7B"])`: Touvron et al. 2023b, table 1, and "The Llama 3 herd of models" 2024,
# table 3. They have 6,738,415,616, 13,015,864,320 and 8,030,261,248 parameters.
SIZES: dict[str, dict[str, Any]] = {
    "2-7B": {"features": 4096, "num_layers": 32, "num_heads": 32, "hidden": 11008},
    "2-13B": {"features": 5120, "num_layers": 40, "num_heads": 40, "hidden": 13824},
    "3-8B": {
        "vocab_size": 128256,
        "features": 4096,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "hidden": 14336,
        "rotary_base": 500_000.0,
    },
}


class Llama(nn.Module):
    """The language model of Touvron et al. 2023.

    "Llama: open and efficient foundation language models":
    `(batch, time)` int32 tokens to logits `(batch, time, vocab_size)`: those at t are for the token
    at t + 1. Section 2.2: RMSNorm before each part, SwiGLU, rotary positions, and no biases. With
    `num_kv_heads` heads of queries share keys and values (Llama 2 and 3). There are no learned
    positions, so a sequence may have any length.

    Args:
        vocab_size: the number of different tokens.
        features: the width of a token.
        num_layers: the number of blocks.
        num_heads: the heads of queries.
        hidden: the width of the feed-forward networks.
        num_kv_heads: the heads of keys and values; by default as many as of queries.
        rotary_base: of the positions, see `jaxnet.layers.rotary`.
        epsilon: of the normalisations: 1e-5 from Llama 2 on, 1e-6 before.
        dropout: the rate at which outputs of layers are dropped in training.
        tie: whether the last layer is the embedding table.

    Raises:
        UsageError: a size is below 1.

    Example:
        >>> tokens = jnp.zeros((1, 8), jnp.int32)
        >>> variables = jax.eval_shape(Llama(**SIZES["3-8B"]).init, jax.random.key(0), tokens)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        8030261248
    """

    vocab_size: int = 32000
    features: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    hidden: int = 11008
    num_kv_heads: int | None = None
    rotary_base: float = 10_000.0
    epsilon: float = 1e-5
    dropout: float = 0.0
    tie: bool = False

    def setup(self) -> None:
        """The layers."""
        check_least(1, features=self.features, num_layers=self.num_layers)
        options = {"use_bias": False, "kernel_init": nn.initializers.normal(0.02)}
        norm = partial(nn.RMSNorm, epsilon=self.epsilon)
        block = partial(
            TransformerBlock,
            attention=partial(
                MultiHeadAttention,
                self.features,
                self.num_heads,
                self.num_kv_heads,
                causal=True,
                rotary_base=self.rotary_base,
                **options,
            ),
            feed_forward=partial(GatedFeedForward, self.hidden, **options),
            norm=norm,
            dropout=self.dropout,
        )
        normal = nn.initializers.normal(0.02)
        self.embed = Embed(self.vocab_size, self.features, embedding_init=normal)
        self.stack = Stack(block, self.num_layers)
        self.norm = norm()
        if not self.tie:
            self.head = Dense(self.vocab_size, **options)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> Any:
        """Logits `(batch, time, vocab_size)`; arguments and result are those of `GPT2`'s call."""
        x = self.embed(tokens)
        if cache is None:
            positions = None if mask is None else token_positions(mask)
            return self._logits(self.stack(x, mask, positions=positions, train=train))
        positions = new_positions(tokens, mask, cache)
        x, layers = self.stack(x, positions=positions, cache=cache["layers"], train=train)
        return self._logits(x), advanced(cache, positions, layers)

    def init_cache(self, batch_size: int, length: int) -> Cache:
        """The cache before the first token, with room for `length` tokens; see `kv_cache`."""
        heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        width = self.features // self.num_heads
        room = KeyValues.empty(batch_size, heads, length, width)
        return {"seen": jnp.zeros(batch_size, jnp.int32), "layers": (room,) * self.num_layers}

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)

    def _logits(self, x: jax.Array) -> jax.Array:
        x = self.norm(x)
        return self.embed.attend(x) if self.tie else self.head(x)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the vocabulary, and the blocks.
SHARDING = (
    ("embed/embedding", ("tensor",)),
    ("head/kernel", (None, "tensor"), "optional"),
    *BLOCK_SHARDING,
)
