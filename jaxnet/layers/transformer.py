"""Blocks of transformers, from which all of them are assembled.

A block gets its parts as functions that make them, `functools.partial(nn.LayerNorm, epsilon=1e-6)`
say, and so can be any combination: normalised before or after, with one kind of attention or
another, gated or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxnet.errors import UsageError
from jaxnet.layers.activations import Activation, gelu
from jaxnet.layers.dense import Dense
from jaxnet.layers.kv_cache import KeyValues

Make = Callable[..., Any]


class FeedForward(nn.Module):
    """Two dense layers for each token by itself (Vaswani et al. 2017, section 3.3).

        activation(x W1 + b1) W2 + b2

    Parameters: the dense layers `up` and `down`.

    Args:
        hidden: the width between the layers.
        activation: an element-wise function.
        dropout: the rate at which hidden units are dropped in training.
        use_bias: whether there are biases.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        kernel_init: the initializer of the kernels.
        out_init: that of the last one's; by default the same.

    Example:
        >>> layer, x = FeedForward(32), jax.numpy.zeros((2, 5, 8))
        >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
        >>> y.shape, variables["params"]["up"]["kernel"].shape
        ((2, 5, 8), (8, 32))
    """

    hidden: int
    activation: Activation = gelu
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Make = nn.initializers.glorot_uniform()
    out_init: Make | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*dims features"], train: bool = False
    ) -> Float[Array, "*dims features"]:
        """`x`, each token transformed; dropout draws from the random stream `"dropout"`."""
        hidden = self.activation(self._dense(self.hidden, "up")(x))
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        return self._dense(x.shape[-1], "down", self.out_init)(hidden)

    def _dense(self, features: int, name: str, init: Make | None = None) -> Dense:
        init = init or self.kernel_init
        return Dense(
            features, use_bias=self.use_bias, dtype=self.dtype, kernel_init=init, name=name
        )


class GatedFeedForward(FeedForward):
    """The same with a gate on the hidden units (Shazeer 2020, equation 6).

        (activation(x Wg) * (x W1)) W2

    With SiLU it is SwiGLU, Llama's. Parameters: the dense layers `gate`, `up` and `down`.

    Args:
        hidden: as in `FeedForward`, and so are those that are not named here.
        activation: of the gate.

    Example:
        >>> layer, x = GatedFeedForward(32, nn.silu, use_bias=False), jax.numpy.zeros((2, 5, 8))
        >>> variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        768
    """

    activation: Activation = nn.silu

    @nn.compact
    def __call__(
        self, x: Float[Array, "*dims features"], train: bool = False
    ) -> Float[Array, "*dims features"]:
        """`x`, each token transformed; dropout draws from the random stream `"dropout"`."""
        gate = self.activation(self._dense(self.hidden, "gate")(x))
        hidden = gate * self._dense(self.hidden, "up")(x)
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        return self._dense(x.shape[-1], "down", self.out_init)(hidden)


class TransformerBlock(nn.Module):
    """Self-attention, then a feed-forward network, each with a residual connection.

    What encoders are made of, and, with causal attention, language models. Normalised before, it is
    x + f(norm(x)), which trains without warm-up (Xiong et al. 2020); after, norm(x + f(x)), as in
    Vaswani et al. 2017, section 3.1, and BERT.

    Parameters: `self_attention`, `self_attention_norm`, `mlp` and `mlp_norm`.

    Args:
        attention: makes the attention, `partial(MultiHeadAttention, 256, num_heads=8)` say.
        feed_forward: makes the feed-forward network, `partial(FeedForward, 1024)` say.
        norm: makes a normalisation: `nn.LayerNorm`, `nn.RMSNorm`, or such with options.
        pre_norm: whether to normalise before; otherwise after.
        dropout: the rate at which outputs are dropped, before they are added, in training.

    Example:
        >>> from functools import partial
        >>> from jaxnet.layers import MultiHeadAttention
        >>> block = TransformerBlock(
        ...     attention=partial(MultiHeadAttention, 16, num_heads=4),
        ...     feed_forward=partial(FeedForward, 64),
        ...     norm=partial(nn.LayerNorm, epsilon=1e-6),
        ... )
        >>> x = jax.numpy.zeros((2, 5, 16))
        >>> y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
        >>> y.shape, sorted(variables["params"])
        ((2, 5, 16), ['mlp', 'mlp_norm', 'self_attention', 'self_attention_norm'])
    """

    attention: Make
    feed_forward: Make
    norm: Make = nn.LayerNorm
    pre_norm: bool = True
    dropout: float = 0.0

    def setup(self) -> None:
        """The parts."""
        self.self_attention, self.self_attention_norm = self.attention(), self.norm()
        self.mlp, self.mlp_norm = self.feed_forward(), self.norm()
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "batch time features"],
        mask: Bool[Array, "batch time"] | None = None,
        *,
        positions: Int[Array, "#batch time"] | None = None,
        cache: KeyValues | None = None,
        train: bool = False,
    ) -> Any:
        """`x` transformed; with a cache a pair of that and the new cache.

        Args:
            x: the tokens.
            mask: False where a token is padding, which no token attends to; None with a cache.
            positions: see `MultiHeadAttention`, and so for `cache`.
            cache: the keys and values of the tokens before `x`.
            train: whether dropout acts; it draws from the random stream `"dropout"`.
        """
        h = self._before(self.self_attention_norm, x)
        y = self.self_attention(h, mask=mask, positions=positions, cache=cache, train=train)
        y, cache = (y, None) if cache is None else y
        x = self._after(self.self_attention_norm, x, y, train)
        y = self.mlp(self._before(self.mlp_norm, x), train)
        x = self._after(self.mlp_norm, x, y, train)
        return x if cache is None else (x, cache)

    def _before(self, norm: nn.Module, x: jax.Array) -> jax.Array:
        return norm(x) if self.pre_norm else x

    def _after(self, norm: nn.Module, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        y = self.drop(y, deterministic=not train)
        return x + y if self.pre_norm else norm(x + y)


class Stack(nn.Module):
    """Blocks on top of each other.

    Parameters: `blocks_0`, `blocks_1`, ...

    Args:
        block: makes a block, `partial(TransformerBlock, ...)`.
        num_layers: how many.
    """

    block: Make
    num_layers: int

    def setup(self) -> None:
        """The blocks."""
        self.blocks = [self.block() for _ in range(self.num_layers)]

    def __call__(
        self,
        x: Float[Array, "batch time features"],
        mask: Bool[Array, "batch time"] | None = None,
        *,
        positions: Int[Array, "#batch time"] | None = None,
        cache: tuple[KeyValues, ...] | None = None,
        train: bool = False,
    ) -> Any:
        """As `TransformerBlock`, with a cache for each block."""
        if cache is None:
            for block in self.blocks:
                x = block(x, mask, positions=positions, train=train)
            return x
        after = []
        for block, before in zip(self.blocks, cache, strict=True):
            x, filled = block(x, mask, positions=positions, cache=before, train=train)
            after.append(filled)
        return x, tuple(after)


class DecoderCache(NamedTuple):
    """What a `DecoderBlock` keeps from step to step.

    Attributes:
        own: the keys and values of the tokens written so far.
        memory: those of the encoder's outputs, computed once.
    """

    own: KeyValues
    memory: KeyValues


class DecoderBlock(TransformerBlock):
    """A `TransformerBlock` that sees no later tokens and attends to an encoder's outputs.

    Vaswani et al. 2017, section 3.1. Parameters: those of `TransformerBlock`, `cross_attention` and
    `cross_attention_norm`.

    Args:
        attention: makes both attentions; the one to itself gets `causal=True`.
        feed_forward: as in `TransformerBlock`, and so are those that are not named here.

    Example:
        >>> from functools import partial
        >>> from jaxnet.layers import MultiHeadAttention
        >>> block = DecoderBlock(partial(MultiHeadAttention, 16, 4), partial(FeedForward, 64))
        >>> x, memory = jax.numpy.zeros((2, 5, 16)), jax.numpy.zeros((2, 7, 16))
        >>> y, _ = jax.eval_shape(block.init_with_output, jax.random.key(0), x, memory)
        >>> y.shape
        (2, 5, 16)
    """

    def setup(self) -> None:
        """The parts."""
        self.self_attention, self.self_attention_norm = self.attention(causal=True), self.norm()
        self.cross_attention, self.cross_attention_norm = self.attention(), self.norm()
        self.mlp, self.mlp_norm = self.feed_forward(), self.norm()
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "batch time features"],
        memory: Float[Array, "batch source channels"] | None = None,
        mask: Bool[Array, "batch time"] | None = None,
        memory_mask: Bool[Array, "batch source"] | None = None,
        *,
        positions: Int[Array, "#batch time"] | None = None,
        cache: DecoderCache | None = None,
        train: bool = False,
    ) -> Any:
        """`x` transformed; with a cache a pair of that and the new cache.

        Args:
            x: the tokens written so far.
            memory: the encoder's outputs; with a cache, which has them, None.
            mask: False where a token of `x` is padding; None with a cache.
            memory_mask: False where `memory` is of padding.
            positions: see `MultiHeadAttention`.
            cache: what `start` or an earlier call returned.
            train: whether dropout acts; it draws from the random stream `"dropout"`.

        Raises:
            UsageError: there is neither `memory` nor `cache`, or both.
        """
        if (memory is None) == (cache is None):
            raise UsageError(
                f"{'/'.join(self.path) or 'decoder'}: expected an encoder's outputs to attend to, "
                f"as memory or in a cache, got {'neither' if cache is None else 'both'}"
            )
        own, context = (None, memory) if cache is None else (cache.own, cache.memory)
        h = self._before(self.self_attention_norm, x)
        y = self.self_attention(h, mask=mask, positions=positions, cache=own, train=train)
        if cache is not None:
            y, cache = y[0], cache._replace(own=y[1])
        x = self._after(self.self_attention_norm, x, y, train)
        h = self._before(self.cross_attention_norm, x)
        y = self.cross_attention(h, context, mask=memory_mask, train=train)
        x = self._after(self.cross_attention_norm, x, y, train)
        y = self.mlp(self._before(self.mlp_norm, x), train)
        x = self._after(self.mlp_norm, x, y, train)
        return x if cache is None else (x, cache)

    def start(self, memory: Float[Array, "batch source channels"], length: int) -> DecoderCache:
        """The cache before the first token, with room for `length` tokens."""
        keys_values = self.cross_attention.keys_values(memory)
        batch, heads, _, width = keys_values.key.shape
        own = KeyValues.empty(batch, heads, length, width, keys_values.key.dtype)
        return DecoderCache(own, keys_values)


# How the parameters of these blocks are cut along the axis `tensor` of a `jaxnet.parallel.Layout`
# (Shoeybi et al. 2019, "Megatron-LM", section 3): each device has some of the heads and of the
# hidden units, and what leaves a block's part is a sum over devices. The axis `expert` shares out
# the experts of mixtures, which stand in the place of feed-forward networks.
SHARDING = (
    ("**/*attention/[qkv]*/kernel", (None, "tensor")),
    ("**/*attention/[qkv]*/bias", ("tensor",), "optional"),
    ("**/*attention/out/kernel", ("tensor",)),
    ("**/mlp/[gu]*/kernel", (None, "tensor"), "optional"),
    ("**/mlp/[gu]*/bias", ("tensor",), "optional"),
    ("**/mlp/down/kernel", ("tensor",), "optional"),
    ("**/mlp/experts/[gu]*/kernel", ("expert", None, "tensor"), "optional"),
    ("**/mlp/experts/[gu]*/bias", ("expert", "tensor"), "optional"),
    ("**/mlp/experts/down/kernel", ("expert", "tensor"), "optional"),
    ("**/mlp/experts/**", ("expert",), "optional"),
)
