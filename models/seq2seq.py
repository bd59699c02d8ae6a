"""The transformer: an encoder that reads one text, and a decoder that writes another."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.errors import InputError, UsageError
from jaxnet.layers import (
    DecoderBlock,
    Embed,
    FeedForward,
    MultiHeadAttention,
    Stack,
    TransformerBlock,
    advanced,
    new_positions,
    sinusoidal,
)
from jaxnet.layers.kv_cache import Cache
from jaxnet.layers.tokens import check_tokens
from jaxnet.layers.transformer import SHARDING as BLOCK_SHARDING
from jaxnet.names import check_least

# Table 3 of the paper: `Transformer(**SIZES["big"])`.
SIZES: dict[str, dict[str, Any]] = {
    "base": {"features": 512, "num_heads": 8, "hidden": 2048, "dropout": 0.1},
    "big": {"features": 1024, "num_heads": 16, "hidden": 4096, "dropout": 0.3},
}


class Transformer(nn.Module):
    """The encoder-decoder of Vaswani et al. 2017, "Attention is all you need".

    `(batch, source)` int32 tokens of one text, and those of another up to each point, `(batch,
    time)`, to logits `(batch, time, vocab_size)` of the next one. For translation, summaries, and
    whatever else turns one text into another. Both texts share a vocabulary, and its table is also
    the last layer (section 3.4). The base model with a vocabulary of 37,000 has 63.1 million
    parameters; the paper's table 3 has 65, without saying how many tokens its vocabulary came to.

    Args:
        vocab_size: the number of different tokens.
        features: the width of a token (the paper's d_model).
        num_layers: the blocks of the encoder, and of the decoder (N).
        num_heads: the heads of attention (h).
        hidden: the width of the feed-forward networks (d_ff).
        dropout: the rate at which embeddings, weights of attention and outputs of layers are
            dropped in training (P_drop).
        pre_norm: whether blocks normalise before, which trains with less care, or after, as in the
            paper.
        pad: the token that is padding.

    Raises:
        InputError: there aren't as many texts of the one kind as of the other.
        UsageError: a size is below 1, or there is no target where logits are asked for.

    Example:
        >>> source, target = jnp.zeros((2, 9), jnp.int32), jnp.zeros((2, 7), jnp.int32)
        >>> init = Transformer().init_with_output
        >>> logits, variables = jax.eval_shape(init, jax.random.key(0), source, target)
        >>> logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
        ((2, 7, 37000), 63082496)
    """

    vocab_size: int = 37000
    features: int = 512
    num_layers: int = 6
    num_heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False
    pad: int = 0

    def setup(self) -> None:
        """The layers."""
        check_least(1, features=self.features, num_layers=self.num_layers)
        parts = {
            "attention": partial(
                MultiHeadAttention, self.features, self.num_heads, dropout=self.dropout
            ),
            "feed_forward": partial(FeedForward, self.hidden, nn.relu),
            "norm": partial(nn.LayerNorm, epsilon=1e-5),
            "pre_norm": self.pre_norm,
            "dropout": self.dropout,
        }
        normal = nn.initializers.normal(self.features**-0.5)
        self.embed = Embed(self.vocab_size, self.features, embedding_init=normal)
        self.drop = nn.Dropout(self.dropout)
        self.encoder = Stack(partial(TransformerBlock, **parts), self.num_layers)
        self.decoder = [DecoderBlock(**parts) for _ in range(self.num_layers)]
        if self.pre_norm:
            self.encoder_norm, self.decoder_norm = parts["norm"](), parts["norm"]()

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array | None = None,
        source_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Logits `(batch, time, vocab_size)`; those at t are for the token after `target[:, t]`.

        Args:
            source: `(batch, source)` int32, the text to read.
            target: `(batch, time)` int32, the text to write, a start token first. Padding after it
                does no harm: no token sees those that come later. None stands for `source`, where
                only shapes and costs matter: to make parameters, in a summary, in training steps
                that are measured.
            source_mask: bool `(batch, source)`, False where `source` is padding; None for
                `source != pad`.
            train: whether dropout acts; it draws from the random stream `"dropout"`.
        """
        if target is None:
            # Parameters are mutable while they are made and in a summary; what is left is whoever
            # wants an answer, to which these logits would be none.
            if not train and not self.is_mutable_collection("params"):
                raise UsageError(
                    "a Transformer predicts the next token of a target, and was given a source "
                    "alone. To have it write take jaxnet.generation.translate(model, variables, "
                    "tokenizer, texts), or python -m jaxnet.translate --run-dir RUN; for logits "
                    "call it with source and target: model.apply(variables, source, target)"
                )
            target = source
        if len(source) != len(target):
            raise InputError(
                f"expected as many target texts as source texts, got {len(source)} and "
                f"{len(target)}: source {source.shape}, target {target.shape}"
            )
        mask = source != self.pad if source_mask is None else source_mask
        memory = self.encode(source, mask, train)
        x = self._embedded(target, jnp.arange(target.shape[1])[None], train)
        for block in self.decoder:
            x = block(x, memory, memory_mask=mask, train=train)
        return self._logits(x)

    def encode(
        self, source: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """The encoder's outputs, `(batch, source, features)`; see `__call__`."""
        mask = source != self.pad if mask is None else mask
        x = self._embedded(source, jnp.arange(source.shape[1])[None], train)
        x = self.encoder(x, mask, train=train)
        return self.encoder_norm(x) if self.pre_norm else x

    def start(self, source: jax.Array, length: int, source_mask: jax.Array | None = None) -> Cache:
        """The cache before the first token is written, with room for `length` tokens.

        It holds what `decode` needs of the source: the keys and values that the encoder's outputs
        give in each block, computed once, and the mask.
        """
        mask = source != self.pad if source_mask is None else source_mask
        memory = self.encode(source, mask)
        return {
            "seen": jnp.zeros(len(source), jnp.int32),
            "layers": tuple(block.start(memory, length) for block in self.decoder),
            "source_mask": mask,
        }

    def decode(
        self, tokens: jax.Array, mask: jax.Array | None, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Logits `(batch, time, vocab_size)` of further tokens of the target, and the next cache.

        Args:
            tokens: `(batch, time)` int32, which go on from what is in the cache.
            mask: bool `(batch, time)`, False where a token is padding; None if all are real.
            cache: what `start` or an earlier call returned.
        """
        positions = new_positions(tokens, mask, cache)
        x, layers = self._embedded(tokens, jnp.maximum(positions, 0), False), []
        for block, before in zip(self.decoder, cache["layers"], strict=True):
            x, after = block(x, memory_mask=cache["source_mask"], positions=positions, cache=before)
            layers.append(after)
        return self._logits(x), advanced(cache, positions, tuple(layers))

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)

    def _embedded(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        x = self.embed(tokens) * self.features**0.5
        x = x + sinusoidal(positions, self.features).astype(x.dtype)
        return self.drop(x, deterministic=not train)

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.embed.attend(self.decoder_norm(x) if self.pre_norm else x)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the vocabulary, and the blocks.
SHARDING = (("embed/embedding", ("tensor",)), *BLOCK_SHARDING)
