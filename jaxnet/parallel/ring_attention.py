"""Ring attention: attention over tokens sharded on many devices (Liu et al. 2023).

Each device keeps the queries of its own tokens. Blocks of keys and values are passed around a ring
of devices, and each device accumulates its queries' attention over the blocks with an online
softmax, a running maximum and a running sum (Milakov and Gimelshein 2018). In the backward pass the
blocks go around once more, with their gradients. So a device never stores more than two blocks of
keys and values, and the attention weights of one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.errors import UsageError
from jaxnet.layers import Dense, Embed, KeyValues, MultiHeadAttention
from jaxnet.layers.dense import add_bias
from jaxnet.parallel.shard_map_utils import AnyMesh, free_axes, zeros_within


def ring_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    causal: bool = False,
    mesh: AnyMesh | None = None,
    axis: str = "sequence",
    name: str = "ring attention",
) -> jax.Array:
    """`jaxnet.layers.attention` with tokens sharded over a mesh axis.

    In the forward pass a device receives the keys and values of all others, one block per step; in
    the backward pass these and their gradients. With `causal` all devices take the same number of
    steps, including those for blocks of later tokens only.

    Args:
        query: `(batch, heads, time, features)`.
        key: `(batch, kv_heads, source, features)`; with fewer heads than `query`, groups of query
            heads share them.
        value: `(batch, kv_heads, source, values)`.
        mask: bool `(batch, source)`, False where a key is padding.
        causal: whether a query attends only to keys up to its own position.
        mesh: None for the ambient one.
        axis: the mesh axis that shards the tokens.
        name: the name of the layer, for messages.

    Returns:
        `(batch, heads, time, values)`; zeros for a query without any visible key.

    Raises:
        UsageError: the axis doesn't divide the tokens, or `causal` and there are not as many keys
            as queries.

    Example:
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("sequence",))
        >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> attend = jax.jit(partial(ring_attention, causal=True, mesh=mesh))
        >>> [round(y, 3) for y in attend(0 * x, x, x).ravel().tolist()]
        [0.0, 0.5, 1.0]
    """
    size = free_axes(mesh)[axis]
    for kind, tokens in (("queries", query.shape[2]), ("keys", key.shape[2])):
        if tokens % size:
            raise UsageError(
                f"{name}: {tokens} {kind} can't be split evenly over {axis}={size}: choose a "
                f"length that {size} divides, such as {-(-tokens // size) * size}"
            )
    if causal and query.shape[2] != key.shape[2]:
        raise UsageError(
            f"{name}: causal attention needs as many keys as queries, got {key.shape[2]} and "
            f"{query.shape[2]}"
        )
    tokens = P(None, None, axis)
    mapped = jax.shard_map(
        partial(_attend, _Ring(axis, size, causal)),
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, None if mask is None else P(None, axis)),
        out_specs=tokens,
        axis_names={axis},
    )
    return mapped(query, key, value, mask)


def in_a_ring(mesh: AnyMesh | None = None, axis: str = "sequence") -> Any:
    """An interceptor (`flax.linen.intercept_methods`): `MultiHeadAttention` uses ring attention.

    Dense layers, and embedding tables as output layers, no longer flatten all tokens into rows of
    one matrix, for which the compiler would gather them.

    Positions, masks and parameters are those of the full sequence. Without a mesh, with one device
    along the axis, or with a cache, attention is unchanged.

    Raises:
        UsageError: (when the network is traced) see `ring_attention`; or attention has dropout,
            which isn't supported, because no device sees all weights of a query.
    """

    def interceptor(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module, method = context.module, context.method_name
        alone = free_axes(mesh).get(axis, 1) == 1 or module.is_initializing()
        if isinstance(module, MultiHeadAttention) and method == "mix" and not alone:
            return _mix(module, mesh, axis, *args, **kwargs)
        if type(module) is Dense and method == "__call__" and not alone:
            return _dense(module, *args, **kwargs)
        if type(module) is Embed and method == "attend" and not alone:
            return _attend_to_table(module, *args, **kwargs)
        return call(*args, **kwargs)

    return interceptor


def _dense(module: Any, inputs: jax.Array) -> jax.Array:
    params = module.variables["params"]
    inputs, kernel, bias = promote_dtype(
        inputs, params["kernel"], params.get("bias"), dtype=module.dtype
    )
    y = lax.dot_general(
        inputs, kernel, (((inputs.ndim - 1,), (0,)), ((), ())), precision=module.precision
    )
    return y if bias is None else add_bias(y, bias.reshape((1,) * (y.ndim - 1) + (-1,)))


def _attend_to_table(module: Any, query: jax.Array) -> jax.Array:
    query, table = promote_dtype(query, module.variables["params"]["embedding"], dtype=module.dtype)
    return lax.dot_general(query, table, (((query.ndim - 1,), (1,)), ((), ())))


def _mix(
    module: Any,
    mesh: AnyMesh | None,
    axis: str,
    query: jax.Array,
    memory: KeyValues,
    mask: jax.Array | None,
    causal: bool,
    train: bool,
) -> jax.Array:
    name = "/".join(module.path) or type(module).__name__
    if train and module.dropout:
        raise UsageError(
            f"{name}: ring attention over the {axis} axis doesn't support attention dropout, got "
            f"{module.dropout}. Set it to 0 for the attention (dropout elsewhere may stay), or "
            f"leave out the {axis} axis."
        )
    return ring_attention(query, *memory, mask, causal=causal, mesh=mesh, axis=axis, name=name)


# --- within one device --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ring:
    axis: str
    size: int
    causal: bool

    def passed_on(self, blocks: Any) -> Any:
        """The blocks of the previous device in the ring."""
        around = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.axis, around), blocks)

    def block(self, step: Any) -> jax.Array:
        """The index of this device's block of keys after `step` steps."""
        return (lax.axis_index(self.axis) - step) % self.size

    def visible(self, time: int, source: int, block: jax.Array, mask: jax.Array | None) -> Any:
        """The attention mask of each query for a block, (batch or 1, 1, time or 1, source)."""
        seen = jnp.ones((1, 1, 1, 1), bool) if mask is None else mask[:, None, None]
        if not self.causal:
            return seen
        queries = lax.axis_index(self.axis) * time + jnp.arange(time)[:, None]
        keys = block * source + jnp.arange(source)[None]
        return seen & (keys <= queries)[None, None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    ring: _Ring, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> jax.Array:
    return _forward(ring, query, key, value, mask)[0]


def _forward(
    ring: _Ring, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, Any]:
    wide = np.promote_types(query.dtype, np.float32)
    rows = query.shape[:3]
    lowest = jnp.finfo(wide).min
    sums = (
        zeros_within(rows, wide) + lowest,
        zeros_within(rows, wide),
        zeros_within((*rows, value.shape[-1]), wide),
    )

    def take(sums: Any, step: Any, blocks: Any) -> Any:
        best, total, mixed = sums
        key, value, mask = blocks
        visible = ring.visible(query.shape[2], key.shape[2], ring.block(step), mask)
        scores = jnp.where(visible, _scores(query, key), lowest)
        higher = jnp.maximum(best, scores.max(axis=-1))
        weights = jnp.where(visible, jnp.exp(scores - higher[..., None]), 0)
        fade = jnp.exp(best - higher)
        taken = _by_head(_product(_shared(weights.astype(value.dtype), key), value), query)
        return higher, total * fade + weights.sum(axis=-1), mixed * fade[..., None] + taken

    def step(carry: Any, number: jax.Array) -> Any:
        sums, blocks = carry
        # Sent before it is used, so that communication and computation overlap.
        after = ring.passed_on(blocks)
        return (take(sums, number, blocks), after), None

    last = ring.size - 1
    (sums, blocks), _ = lax.scan(step, (sums, (key, value, mask)), jnp.arange(last))
    best, total, mixed = take(sums, last, blocks)
    any_seen = total > 0
    total = jnp.where(any_seen, total, 1)
    out = mixed / total[..., None]
    logarithm = jnp.where(any_seen, best + jnp.log(total), 0)
    return out.astype(query.dtype), (query, key, value, mask, out, logarithm)


def _backward(ring: _Ring, kept: Any, cotangent: jax.Array) -> Any:
    """The gradients, with recomputed attention weights.

    The sum over all keys in the derivative of the softmax is the product of output and cotangent.
    """
    query, key, value, mask, out, logarithm = kept
    wide = logarithm.dtype
    # In half precision the gradients of a query's scores would not sum to 0 over the keys, as those
    # of a softmax do, and a bias of keys would be trained on rounding errors.
    inner = (cotangent.astype(wide) * out).sum(axis=-1, keepdims=True)
    scaled = query * query.shape[-1] ** -0.5

    def take(d_query: jax.Array, d_blocks: Any, step: Any, blocks: Any) -> Any:
        key, value, mask = blocks
        d_key, d_value = d_blocks
        visible = ring.visible(query.shape[2], key.shape[2], ring.block(step), mask)
        weights = jnp.exp(_scores(query, key) - logarithm[..., None])
        weights = jnp.where(visible, weights, 0)
        d_weights = _by_head(_product(_shared(cotangent, key), value.swapaxes(-1, -2)), query)
        d_scores = weights * (d_weights - inner)
        transposed = _shared(d_scores, key).swapaxes(-1, -2)
        d_key += _product(transposed, _shared(scaled, key))
        transposed = _shared(weights.astype(value.dtype), key).swapaxes(-1, -2)
        d_value += _product(transposed, _shared(cotangent, key))
        return d_query + _by_head(_product(_shared(d_scores, key), key), query), (d_key, d_value)

    def step(carry: Any, number: jax.Array) -> Any:
        d_query, d_blocks, blocks = carry
        after = ring.passed_on(blocks)
        d_query, d_blocks = take(d_query, d_blocks, number, blocks)
        return (d_query, ring.passed_on(d_blocks), after), None

    d_query, *d_blocks = (zeros_within(x.shape, wide) for x in (query, key, value))
    last = ring.size - 1
    start = (d_query, tuple(d_blocks), (key, value, mask))
    (d_query, d_blocks, blocks), _ = lax.scan(step, start, jnp.arange(last))
    d_query, d_blocks = take(d_query, d_blocks, last, blocks)
    d_key, d_value = ring.passed_on(d_blocks)
    d_query *= query.shape[-1] ** -0.5
    return (
        d_query.astype(query.dtype),
        d_key.astype(key.dtype),
        d_value.astype(value.dtype),
        None,
    )


_attend.defvjp(_forward, _backward)


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """The attention scores (batch, heads, time, source), in at least float32."""
    scaled = query * query.shape[-1] ** -0.5
    return _by_head(_product(_shared(scaled, key), key.swapaxes(-1, -2)), query)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):
        return jnp.matmul(a, b, preferred_element_type=np.promote_types(a.dtype, np.float32))


def _shared(x: jax.Array, key: jax.Array) -> jax.Array:
    """(batch, heads, time, .) as (batch, kv_heads, group * time, .): merges heads with one key."""
    batch, _, _, width = x.shape
    return x.reshape(batch, key.shape[1], -1, width)


def _by_head(x: jax.Array, query: jax.Array) -> jax.Array:
    """The inverse of `_shared`: (batch, heads, time, .)."""
    return x.reshape(*query.shape[:3], x.shape[-1])
