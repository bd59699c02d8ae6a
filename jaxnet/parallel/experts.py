"""Expert parallelism: the experts of a mixture are sharded over devices, tokens are sent to them.

Each device routes the tokens of its own examples and sends each slot to the device of its expert,
with an all-to-all; a second one returns the outputs (Lepikhin et al. 2021, section 3.3).
`jaxnet.layers.ExpertFeedForward` applies an expert's capacity within each example, so the tokens
that are dropped don't depend on how the batch is sharded, and the result is that of one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.errors import UsageError
from jaxnet.layers import ExpertFeedForward
from jaxnet.parallel.shard_map_utils import AnyMesh, batch_axes, free_axes, typed_like, widened

PyTree = Any

EXPERTS = (("**/experts/**", ("expert",), "optional"),)
"""The sharding rule that stores each expert's parameters on its device along `expert`."""


def exchanged(
    expert_fn: Callable[[PyTree, jax.Array, jax.Array | None], jax.Array],
    params: PyTree,
    slots: jax.Array,
    key: jax.Array | None = None,
    *,
    mesh: AnyMesh | None = None,
    axis: str = "expert",
    name: str = "experts",
) -> jax.Array:
    """Apply each expert to its slots, with experts and groups sharded over an axis of a mesh.

    Args:
        expert_fn: `(params, slots, key) -> slots` for one expert: `(groups, capacity, features)`.
        params: the parameters of all experts, with the expert as leading axis.
        slots: `(groups, experts, capacity, features)`; the groups are sharded over this axis and
            the other batch axes.
        key: the random key of the experts; it is split per expert and device.
        mesh: None for the ambient one.
        axis: the mesh axis that shards the experts.
        name: the name of the layer, for messages.

    Raises:
        UsageError: the axis doesn't divide the experts, or the axes of the examples the groups.

    Example:
        >>> import jax.numpy as jnp
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("expert",))
        >>> slots = jnp.ones((3, 2, 4, 1))
        >>> out = exchanged(lambda p, x, _: p * x, jnp.array([2.0, 5.0]), slots, mesh=mesh)
        >>> out[0, :, 0, 0].tolist()
        [2.0, 5.0]
    """
    sizes = free_axes(mesh)
    shares = tuple(dict.fromkeys((*batch_axes(mesh), axis)))
    groups, experts = slots.shape[:2]
    if experts % sizes[axis]:
        raise UsageError(
            f"{name}: {experts} experts can't be split evenly over {axis}={sizes[axis]}: "
            f"choose a number of experts that {sizes[axis]} divides"
        )
    if groups % math.prod(sizes[share] for share in shares):
        said = " x ".join(f"{share}={sizes[share]}" for share in shares)
        raise UsageError(
            f"{name}: {groups} examples can't be split evenly over {said}: choose a batch size "
            "that it divides"
        )

    given, others = params, tuple(share for share in shares if share != axis)

    def local(params: PyTree, slots: jax.Array, keys: jax.Array | None) -> jax.Array:
        params = typed_like(lax.pcast(params, others, to="varying"), given)
        slots = lax.all_to_all(slots, axis, split_axis=1, concat_axis=0, tiled=True)
        if keys is not None:
            for share in others:
                place = lax.axis_index(share)
                keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        slots = jax.vmap(expert_fn, (0, 1, None if keys is None else 0), 1)(params, slots, keys)
        return lax.all_to_all(slots, axis, split_axis=0, concat_axis=1, tiled=True)

    keys = None if key is None else jax.random.split(key, experts)
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(axis), P(shares), None if keys is None else P(axis)),
        out_specs=P(shares),
        axis_names=set(shares),
    )
    return mapped(widened(params), slots, keys)


def on_their_devices(mesh: AnyMesh | None = None, axis: str = "expert") -> Any:
    """An interceptor (`flax.linen.intercept_methods`) that shards each `ExpertFeedForward`.

    Without a mesh, or with one device along the axis, it changes nothing.

    Raises:
        UsageError: (when the network is traced) see `exchanged`.
    """

    def interceptor(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module = context.module
        spread = isinstance(module, ExpertFeedForward) and context.method_name == "transform"
        if not spread or module.is_initializing() or free_axes(mesh).get(axis, 1) == 1:
            return call(*args, **kwargs)
        return _transform(module, mesh, axis, *args, **kwargs)

    return interceptor


def _transform(
    module: Any, mesh: AnyMesh | None, axis: str, slots: jax.Array, train: bool
) -> jax.Array:
    expert = module.feed_forward(parent=None)

    def expert_fn(params: PyTree, slots: jax.Array, key: jax.Array | None) -> jax.Array:
        rngs = {} if key is None else {"dropout": key}
        return expert.apply({"params": params}, slots, train, rngs=rngs)

    key = module.make_rng("dropout") if train and module.has_rng("dropout") else None
    params = module.variables["params"]["experts"]
    name = "/".join(module.path) or type(module).__name__
    return exchanged(expert_fn, params, slots, key, mesh=mesh, axis=axis, name=name)
