"""Fully sharded data parallelism: parameters are gathered for a layer and freed after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from jaxnet.parallel.axes import names
from jaxnet.parallel.mesh_layout import MeshLayout

PyTree = Any

_GATHERED = "gathered"


def gathered(network: Any, on_mesh: MeshLayout) -> Any:
    """A network that all-gathers its parameters over the fsdp axis before it uses them.

    Without it the compiler may shard activations like the parameters, which moves far more data.
    The full parameters aren't kept for the backward pass but gathered again there (ZeRO-3 of
    Rajbhandari et al. 2020), and gradients are reduce-scattered to the parameters' sharding.

    Args:
        network: a `jaxnet.training.Network`.
        on_mesh: the layout.
    """

    def full(params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf, sharding: _gather(leaf, sharding) if _is_sharded(sharding) else leaf,
            params,
            on_mesh.state(params),
        )

    def apply(variables: Any, inputs: Any, train: bool, key: Any) -> Any:
        def run(variables: Any, inputs: Any, key: Any) -> Any:
            variables = {**variables, "params": full(variables["params"])}
            return network.apply(variables, inputs, train, key)

        policy = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)
        return jax.checkpoint(run, policy=policy)(variables, inputs, key)

    def part(method: str) -> Any:
        return gathered(network.part(method), on_mesh)

    return replace(network, apply=apply, part=part)


def _gather(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """The full parameter; its gradient has the sharding of the parameter."""

    @jax.custom_vjp
    def gather(leaf: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, _without_fsdp(sharding))

    def forward(leaf: jax.Array) -> tuple[jax.Array, None]:
        return gather(leaf), None

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.with_sharding_constraint(gradient, sharding),)

    gather.defvjp(forward, backward)
    return checkpoint_name(gather(leaf), _GATHERED)


def _is_sharded(sharding: NamedSharding) -> bool:
    return sharding != _without_fsdp(sharding)


def _without_fsdp(sharding: NamedSharding) -> NamedSharding:
    axes = [tuple(name for name in names(axis) if name != "fsdp") for axis in sharding.spec]
    while axes and not axes[-1]:
        axes.pop()
    return NamedSharding(sharding.mesh, PartitionSpec(*(axis or None for axis in axes)))
