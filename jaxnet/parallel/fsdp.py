"""Fully sharded parameters: each is gathered when a layer needs it, and let go of again."""

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
    """The network that gathers its parameters over the fsdp axis before it computes with them.

    Without it the compiler is free to cut activations as the parameters are cut, which moves far
    more. The whole parameters aren't kept for the backward pass but gathered again there (ZeRO-3 of
    Rajbhandari et al. 2020), and the sum of the gradients is cut as the parameters are.

    Args:
        network: a `jaxnet.training.Network`.
        on_mesh: the layout.
    """

    def whole(params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf, lies: _gather(leaf, lies) if _cut(lies) else leaf,
            params,
            on_mesh.state(params),
        )

    def apply(variables: Any, inputs: Any, train: bool, key: Any) -> Any:
        def run(variables: Any, inputs: Any, key: Any) -> Any:
            variables = {**variables, "params": whole(variables["params"])}
            return network.apply(variables, inputs, train, key)

        again = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)
        return jax.checkpoint(run, policy=again)(variables, inputs, key)

    def part(method: str) -> Any:
        return gathered(network.part(method), on_mesh)

    return replace(network, apply=apply, part=part)


def _gather(leaf: jax.Array, lies: NamedSharding) -> jax.Array:
    """The whole parameter, with a gradient that lies as the parameter does."""

    @jax.custom_vjp
    def gather(leaf: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, _without_fsdp(lies))

    def forward(leaf: jax.Array) -> tuple[jax.Array, None]:
        return gather(leaf), None

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.with_sharding_constraint(gradient, lies),)

    gather.defvjp(forward, backward)
    return checkpoint_name(gather(leaf), _GATHERED)


def _cut(lies: NamedSharding) -> bool:
    return lies != _without_fsdp(lies)


def _without_fsdp(lies: NamedSharding) -> NamedSharding:
    axes = [tuple(name for name in names(axis) if name != "fsdp") for axis in lies.spec]
    while axes and not axes[-1]:
        axes.pop()
    return NamedSharding(lies.mesh, PartitionSpec(*(axis or None for axis in axes)))
