"""Recurrent language models: from the tokens so far to the next one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnet.errors import UsageError
from jaxnet.layers import RECURRENT, Dense, Embed, LSTMState
from jaxnet.layers.tokens import check_tokens
from jaxnet.names import lookup

Cache = dict[str, Any]


class RecurrentLM(nn.Module):
    """An embedding, recurrent layers, and a dense layer to the logits of the next token.

    `(batch, time)` int32 tokens to logits `(batch, time, vocab_size)`: those at t are for the token
    at t + 1. With dropout it is the network of Zaremba et al. 2014, "Recurrent neural network
    regularization", section 3: what goes from layer to layer is dropped, and the state from step to
    step is not. `vocab_size=10_000, embedding=features=200, num_layers=2` is their small one, of
    4,653,200 parameters (their LSTM as PyTorch's has a second bias, here it has one).

    Args:
        vocab_size: the number of different tokens.
        cell: `"rnn"`, `"lstm"` or `"gru"`.
        embedding: the width of a token's embedding.
        features: the units of a layer.
        num_layers: how many recurrent layers stand on top of each other.
        dropout: the rate at which embeddings and the outputs of layers are dropped in training.
        tie: whether the last layer's kernel is the embedding table (Press and Wolf 2017, "Using the
            output embedding to improve language models"); `embedding` must equal `features`.

    Raises:
        UsageError: `tie` with an embedding of another width than `features`.

    Example:
        >>> model = RecurrentLM(10_000, embedding=200, features=200, num_layers=2)
        >>> tokens = jnp.zeros((1, 20), jnp.int32)
        >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)
        >>> logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
        ((1, 20, 10000), 4651600)
    """

    vocab_size: int
    cell: str = "lstm"
    embedding: int = 128
    features: int = 128
    num_layers: int = 1
    dropout: float = 0.0
    tie: bool = False

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where a token is outside the vocabulary."""
        check_tokens(inputs, self.vocab_size)

    def init_cache(self, batch_size: int, length: int) -> Cache:
        """The state before the first token, which is the same for any `length`.

        Returns:
            `seen` int32 `(batch,)`, how many tokens were read, and `state`, the states of the
            layers, each `(batch, num_layers, features)`.
        """
        shape = (batch_size, self.num_layers, self.features)
        one = jnp.zeros(shape)
        state = LSTMState(one, one) if self.cell == "lstm" else one
        return {"seen": jnp.zeros(batch_size, jnp.int32), "state": state}

    @nn.compact
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
            mask: bool `(batch, time)`, False where a token is padding, which leaves the state as it
                is; None if all are real. Padding after a text needs no mask: it comes too late.
            cache: what an earlier call, or `init_cache`, returned: `tokens` go on from there.
            train: whether dropout acts; it draws from the random stream `"dropout"`.

        Returns:
            The logits or, with a cache, a pair of the logits and the next cache.
        """
        if self.tie and self.embedding != self.features:
            raise UsageError(
                f"tie needs an embedding as wide as the layers, got {self.embedding} and "
                f"{self.features} features"
            )
        embed = Embed(self.vocab_size, self.embedding)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        layers = lookup(self.cell, RECURRENT, "cell")(
            self.features,
            num_layers=self.num_layers,
            dropout=self.dropout,
            return_sequences=True,
            return_state=True,
        )
        start = None if cache is None else _swapped(cache["state"])
        x, state = layers(drop(embed(tokens)), mask, start, train)
        head = embed.attend if self.tie else Dense(self.vocab_size)
        logits = head(drop(x))
        if cache is None:
            return logits
        count = tokens.shape[1] if mask is None else mask.sum(axis=1, dtype=jnp.int32)
        return logits, {"seen": cache["seen"] + count, "state": _swapped(state)}


def _swapped(state: Any) -> Any:
    """The states of layers `(layers, batch, features)` with the batch first, or the reverse."""
    return jax.tree.map(lambda array: array.swapaxes(0, 1), state)


# What the axis `tensor` of a `jaxnet.parallel.Layout` cuts: the vocabulary.
SHARDING = (
    ("Embed_0/embedding", ("tensor",)),
    ("Dense_0/kernel", (None, "tensor"), "optional"),
    ("Dense_0/bias", ("tensor",), "optional"),
)
