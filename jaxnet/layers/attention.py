"""Attention: every token takes up what it needs from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Int

from jaxnet.errors import InputError, UsageError
from jaxnet.layers.dense import Dense
from jaxnet.layers.kv_cache import KeyValues
from jaxnet.layers.positions import rotary
from jaxnet.names import check_least

Mask = Bool[Array, "#batch #heads #time source"]


def attention(
    query: Float[Array, "batch heads time features"],
    key: Float[Array, "batch kv_heads source features"],
    value: Float[Array, "batch kv_heads source values"],
    mask: Mask | None = None,
) -> Float[Array, "batch heads time values"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1).

        softmax(Q K' / sqrt(features)) V

    With fewer heads of keys and values than of queries, neighbouring queries share one:
    grouped-query attention (Ainslie et al. 2023).

    Args:
        query: Q. The heads come before the time: then all products are of contiguous matrices,
            which the compiler multiplies without copying them first.
        key: K.
        value: V.
        mask: True where a query may see a key. A query that sees none gets zeros.

    Raises:
        InputError: the key-value heads don't divide the query heads.

    Example:
        >>> query, key = jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 3, 2))
        >>> value = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> attention(query, key, value).item()
        1.0
        >>> attention(query, key, value, jnp.array([[[[True, True, False]]]])).item()
        0.5
    """
    return weighted_values(attention_weights(query, key, mask), value)


def attention_weights(
    query: Float[Array, "batch heads time features"],
    key: Float[Array, "batch kv_heads source features"],
    mask: Mask | None = None,
) -> Float[Array, "batch heads time source"]:
    """How much each query attends to each key; see `attention`.

    Scores and softmax are float32 at least, whatever the type of the inputs.

    Returns:
        Weights that add up to 1 over the keys, or 0 where a query may see none.

    Example:
        >>> weights = attention_weights(jnp.ones((1, 1, 2, 4)), jnp.ones((1, 1, 2, 4)),
        ...                             causal_mask(2))
        >>> weights.tolist()
        [[[[1.0, 0.0], [0.5, 0.5]]]]
    """
    batch, heads, time, features = query.shape
    scores = jnp.matmul(
        _grouped(query * features**-0.5, key.shape[1]),
        key.swapaxes(-1, -2),
        preferred_element_type=np.promote_types(query.dtype, np.float32),
    ).reshape(batch, heads, time, key.shape[2])
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        weights = jnp.where(mask.any(axis=-1, keepdims=True), weights, 0)
    return weights.astype(query.dtype)


def weighted_values(
    weights: Float[Array, "batch heads time source"],
    value: Float[Array, "batch kv_heads source values"],
) -> Float[Array, "batch heads time values"]:
    """The values, weighted; see `attention`.

    Example:
        >>> weighted_values(jnp.full((1, 2, 1, 4), 0.25), jnp.ones((1, 1, 4, 3))).shape
        (1, 2, 1, 3)
    """
    batch, heads, time, _ = weights.shape
    mixed = _grouped(weights, value.shape[1]) @ value
    return mixed.reshape(batch, heads, time, value.shape[-1])


def causal_mask(time: int) -> Bool[Array, "1 1 time time"]:
    """True where a query may see a key: its own position, and those before.

    Example:
        >>> causal_mask(2).tolist()
        [[[[True, False], [True, True]]]]
    """
    return jnp.tril(jnp.ones((1, 1, time, time), bool))


def _grouped(x: jax.Array, kv_heads: int) -> jax.Array:
    """(batch, heads, time, .) with the heads that share keys one below the other."""
    batch, heads, time, features = x.shape
    if heads % kv_heads:
        raise InputError(
            f"attention: {heads} heads of queries can't be shared out evenly among {kv_heads} "
            "heads of keys and values"
        )
    return x.reshape(batch, kv_heads, heads // kv_heads * time, features)


class MultiHeadAttention(nn.Module):
    """Attention in several heads, with dense layers around it (Vaswani et al. 2017, section 3.2.2).

    Parameters: `query`, `key`, `value` and `out`, each a dense layer.

    What each head attended to goes into the collection `"intermediates"` under the name `weights`,
    `(batch, heads, time, source)`, where that is wanted: `apply(..., mutable=["intermediates"])`.

    Args:
        features: the width of the outputs.
        num_heads: the heads of queries.
        num_kv_heads: the heads of keys and values: by default as many as of queries; fewer are
            shared (grouped-query attention), 1 is multi-query attention (Shazeer 2019).
        head_dim: the width of a head; by default `features / num_heads`.
        causal: whether a token sees only itself and those before it.
        rotary_base: queries and keys are turned by their positions, see `positions.rotary`; None
            for not at all.
        dropout: the rate at which weights are dropped in training.
        use_bias: whether the dense layers have biases.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        kernel_init: the initializer of the kernels.
        out_init: that of the last one's; by default the same.

    Raises:
        UsageError: an option is impossible.

    Example:
        >>> layer, x = MultiHeadAttention(16, num_heads=4), jnp.ones((2, 5, 16))
        >>> mask = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
        >>> variables = jax.jit(layer.init)(jax.random.key(0), x)
        >>> y, state = layer.apply(variables, x, mask=mask, mutable=["intermediates"])
        >>> (weights,) = state["intermediates"]["weights"]
        >>> y.shape, weights.shape, weights[1, 0, 0, 3:].tolist()
        ((2, 5, 16), (2, 4, 5, 5), [0.0, 0.0])
    """

    features: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool = False
    rotary_base: float | None = None
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Any] = nn.initializers.glorot_uniform()
    out_init: Callable[..., Any] | None = None

    def setup(self) -> None:
        """The dense layers."""
        check_least(
            1,
            features=self.features,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
        )
        kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        width = self._width
        if self.head_dim is None and self.features % self.num_heads:
            raise UsageError(
                f"expected features that num_heads={self.num_heads} divides, got {self.features}; "
                "or say the head_dim"
            )
        if self.num_heads % kv_heads:
            raise UsageError(
                f"expected num_kv_heads to divide num_heads={self.num_heads}, got {kv_heads}"
            )

        def dense(features: int, init: Callable[..., Any] | None = None) -> Dense:
            init = init or self.kernel_init
            return Dense(features, use_bias=self.use_bias, dtype=self.dtype, kernel_init=init)

        self.query = dense(self.num_heads * width)
        self.key = dense(kv_heads * width)
        self.value = dense(kv_heads * width)
        self.out = dense(self.features, self.out_init)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "batch time channels"],
        context: Float[Array, "batch source others"] | KeyValues | None = None,
        *,
        mask: Bool[Array, "batch source"] | None = None,
        positions: Int[Array, "#batch time"] | None = None,
        cache: KeyValues | None = None,
        train: bool = False,
    ) -> Any:
        """What each token of `x` takes up.

        Args:
            x: the tokens that attend.
            context: the tokens that are attended to, or what `keys_values` made of them; None for
                `x` itself (self-attention).
            mask: False where a token that could be attended to is padding.
            positions: those of the tokens of `x`; None for 0, 1, 2, ... They matter for `rotary`
                and for a cache.
            cache: the keys and values of the tokens before `x`. Those of `x` are put in at
                `positions`, -1 for padding, and each token sees what stands up to its own. Tokens
                at positions that the cache has no room for leave nothing in it: how many went in
                before isn't known while a program is compiled, so whoever makes the cache sees to
                its length.
            train: whether dropout acts; it draws from the random stream `"dropout"`.

        Returns:
            `(batch, time, features)` or, with a cache, a pair of that and the new cache.

        Raises:
            InputError: the mask has another shape, or `x` alone has more tokens than the cache has
                room for.
            UsageError: there is a cache, but the attention isn't causal, or there are no positions;
                or a mask or a context besides, which have no say there.
        """
        query = self._turned(self._split(self.query(x)), positions)
        if cache is not None:
            if positions is None or not self.causal:
                raise UsageError("a cache needs causal=True, and the positions of the tokens")
            if mask is not None or context is not None:
                raise UsageError(
                    f"{'/'.join(self.path) or 'attention'}: with a cache, what is attended to is "
                    "in there: leave out the context, and give padding the position -1 in the "
                    "place of a mask"
                )
            cache = cache.insert(self.keys_values(x, positions), positions)
            slots = jnp.arange(cache.key.shape[2])[None, None, None]
            visible = slots <= positions[:, None, :, None]
            return self._joined(self._weighted(query, cache, visible, train)), cache
        if context is None:
            context = self.keys_values(x, positions)
        elif not isinstance(context, KeyValues):
            context = self.keys_values(context)
        self._check_mask(mask, query, context.key)
        return self._joined(self.mix(query, context, mask, self.causal, train))

    def mix(
        self,
        query: Float[Array, "batch heads time width"],
        memory: KeyValues,
        mask: Bool[Array, "batch source"] | None,
        causal: bool,
        train: bool,
    ) -> Float[Array, "batch heads time values"]:
        """What each query takes up from the values, before the last dense layer.

        This is all of the attention in which tokens meet. Whoever computes it in another way, over
        many devices say, takes the place of this method (`flax.linen.intercept_methods`).

        Args:
            query: the queries.
            memory: the keys and values.
            mask: False where a key is padding.
            causal: whether a query sees only the keys up to its own place.
            train: whether dropout acts.
        """
        visible = None if mask is None else mask[:, None, None]
        if causal:
            earlier = causal_mask(query.shape[2])
            visible = earlier if visible is None else earlier & visible
        return self._weighted(query, memory, visible, train)

    def keys_values(
        self,
        context: Float[Array, "batch source channels"],
        positions: Int[Array, "#batch source"] | None = None,
    ) -> KeyValues:
        """The keys and values of tokens, to be attended to more than once."""
        key = self._turned(self._split(self.key(context)), positions)
        return KeyValues(key, self._split(self.value(context)))

    @property
    def _width(self) -> int:
        """The width of a head."""
        return self.features // self.num_heads if self.head_dim is None else self.head_dim

    def _split(self, x: jax.Array) -> jax.Array:
        """(batch, time, heads * width) as (batch, heads, time, width)."""
        return x.reshape(*x.shape[:2], -1, self._width).swapaxes(1, 2)

    def _turned(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
        if self.rotary_base is None:
            return x
        if positions is None:
            positions = jnp.arange(x.shape[2])[None]
        return rotary(x, positions, self.rotary_base)

    def _check_mask(self, mask: jax.Array | None, query: jax.Array, key: jax.Array) -> None:
        expected = len(query), key.shape[2]
        if mask is not None and (mask.shape != expected or mask.dtype != bool):
            raise InputError(
                f"{'/'.join(self.path)}: expected a mask of bool (batch, source) "
                f"{expected}, True where a token is real, got {mask.dtype} {mask.shape}"
            )

    def _weighted(
        self, query: jax.Array, memory: KeyValues, visible: Any, train: bool
    ) -> jax.Array:
        """The values, weighted; a query may see what is True in `visible`, None for everything."""
        weights = attention_weights(query, memory.key, visible)
        self.sow("intermediates", "weights", weights)
        weights = self.drop(weights, deterministic=not train)
        return weighted_values(weights, memory.value)

    def _joined(self, values: jax.Array) -> jax.Array:
        """The heads side by side, through the last dense layer."""
        values = values.swapaxes(1, 2)
        return self.out(values.reshape(*values.shape[:2], -1))


def attention_maps(
    module: nn.Module, variables: Any, *inputs: Any, **options: Any
) -> dict[str, jax.Array]:
    """What every head of a network attends to.

    Args:
        module: a Linen module with `MultiHeadAttention` in it.
        variables: its weights.
        inputs: what it is called with.
        options: likewise, by name.

    Returns:
        `(batch, heads, time, source)` by the path of the attention: `"stack/blocks_0/..."`.

    Example:
        >>> layer, x = MultiHeadAttention(16, num_heads=4), jnp.ones((2, 5, 16))
        >>> maps = attention_maps(layer, layer.init(jax.random.key(0), x), x)
        >>> {path: weights.shape for path, weights in maps.items()}
        {'': (2, 4, 5, 5)}
    """
    state = module.apply(variables, *inputs, mutable=["intermediates"], **options)[1]
    flat: Any = traverse_util.flatten_dict(cast(Any, state)["intermediates"])
    return {"/".join(path[:-1]): leaf[0] for path, leaf in flat.items() if path[-1] == "weights"}
