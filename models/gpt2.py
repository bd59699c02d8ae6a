"""GPT-2: a decoder that continues texts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.layers import (
    Embed,
    ExpertFeedForward,
    FeedForward,
    KeyValues,
    LearnedPositions,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
    advanced,
    check_length,
    new_positions,
    token_positions,
)
from jaxnet.layers.activations import ACTIVATIONS
from jaxnet.layers.kv_cache import Cache
from jaxnet.layers.tokens import check_tokens
from jaxnet.layers.transformer import SHARDING as BLOCK_SHARDING
from jaxnet.names import check_least

# Table 2 of the paper: `GPT2(**SIZES["medium"])`. The paper counts the parameters wrongly, as its
# authors say; these have 124,439,808, 354,823,168, 774,030,080 and 1,557,611,200.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"num_layers": 12, "features": 768, "num_heads": 12},
    "medium": {"num_layers": 24, "features": 1024, "num_heads": 16},
    "large": {"num_layers": 36, "features": 1280, "num_heads": 20},
    "xl": {"num_layers": 48, "features": 1600, "num_heads": 25},
}


class GPT2(nn.Module):
    """The language model of Radford et al. 2019.

    "Language models are unsupervised multitask learners":
    `(batch, time)` int32 tokens to logits `(batch, time, vocab_size)`: those at t are for the token
    at t + 1. Section 2.3: the blocks normalise before, a last normalisation follows them, and the
    weights of what is added to the residual stream start smaller by sqrt(2 num_layers). The last
    layer is the embedding table.

    Args:
        vocab_size: the number of different tokens.
        length: the context size: the most tokens that are read.
        features: the width of a token.
        num_layers: the number of blocks.
        num_heads: the heads of attention.
        dropout: the rate at which embeddings, weights of attention and outputs of layers are
            dropped in training.
        num_experts: where it isn't 0, each feed-forward network is a mixture of this number of
            experts, of which a token goes through two (Lepikhin et al. 2021, "GShard").

    Raises:
        InputError: a sequence is longer than `length`.
        UsageError: a size is below 1.

    Example:
        >>> tokens = jnp.zeros((1, 8), jnp.int32)
        >>> logits, variables = jax.eval_shape(GPT2().init_with_output, jax.random.key(0), tokens)
        >>> logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
        ((1, 8, 50257), 124439808)
    """

    vocab_size: int = 50257
    length: int = 1024
    features: int = 768
    num_layers: int = 12
    num_heads: int = 12
    dropout: float = 0.1
    num_experts: int = 0

    def setup(self) -> None:
        """The layers."""
        check_least(1, features=self.features, num_layers=self.num_layers)
        normal = nn.initializers.normal
        init = {
            "kernel_init": normal(0.02),
            "out_init": normal(0.02 / (2 * self.num_layers) ** 0.5),
        }
        norm = partial(nn.LayerNorm, epsilon=1e-5)
        feed_forward = partial(FeedForward, 4 * self.features, ACTIVATIONS["gelu_tanh"], **init)
        if self.num_experts:
            options = {"causal": True, "router_init": normal(0.02)}
            feed_forward = partial(ExpertFeedForward, feed_forward, self.num_experts, **options)
        block = partial(
            TransformerBlock,
            attention=partial(
                MultiHeadAttention,
                self.features,
                self.num_heads,
                causal=True,
                dropout=self.dropout,
                **init,
            ),
            feed_forward=feed_forward,
            norm=norm,
            dropout=self.dropout,
        )
        self.embed = Embed(self.vocab_size, self.features, embedding_init=normal(0.02))
        self.positions = LearnedPositions(self.length, normal(0.01))
        self.drop = nn.Dropout(self.dropout)
        self.stack = Stack(block, self.num_layers)
        self.norm = norm()

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> Any:
        """Logits `(batch, time, vocab_size)` of `(batch, time)` tokens.

        Args:
            tokens: `(batch, time)` int32.
            mask: bool `(batch, time)`, False where a token is padding; None if all are real.
                Padding after a text needs no mask: no token sees those that come later.
            cache: what an earlier call, or `init_cache`, returned: `tokens` go on from there.
            train: whether dropout acts; it draws from the random stream `"dropout"`.

        Returns:
            The logits or, with a cache, a pair of the logits and the next cache.
        """
        if cache is None:
            positions = None if mask is None else token_positions(mask)
            x = self._embedded(tokens, positions, train)
            return self._logits(self.stack(x, mask, positions=positions, train=train))
        positions = new_positions(tokens, mask, cache)
        x = self._embedded(tokens, positions, train)
        x, layers = self.stack(x, positions=positions, cache=cache["layers"], train=train)
        return self._logits(x), advanced(cache, positions, layers)

    def init_cache(self, batch_size: int, length: int) -> Cache:
        """The cache before the first token, with room for `length` tokens; see `kv_cache`.

        Raises:
            InputError: the text is longer than the network's positions.
        """
        check_length(length, self.length)
        width = self.features // self.num_heads
        room = KeyValues.empty(batch_size, self.num_heads, length, width)
        return {"seen": jnp.zeros(batch_size, jnp.int32), "layers": (room,) * self.num_layers}

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)

    def _embedded(self, tokens: jax.Array, positions: jax.Array | None, train: bool) -> jax.Array:
        x = self.positions(self.embed(tokens), positions)
        return self.drop(x, deterministic=not train)

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.embed.attend(self.norm(x))


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the vocabulary, and the blocks.
SHARDING = (("embed/embedding", ("tensor",)), *BLOCK_SHARDING)
