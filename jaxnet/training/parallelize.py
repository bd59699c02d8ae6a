"""Parallelize a task for a layout: sequence, expert, pipeline and fully sharded parallelism.

These axes need more than the compiler's sharding propagation, so a trainer with a layout trains the
transformed task. With `stage` the blocks' parameters are stacked; `jaxnet.training.programs`
converts them to the plain form for everything outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxnet import trees
from jaxnet.errors import UsageError
from jaxnet.layers import ExpertFeedForward, MultiHeadAttention
from jaxnet.parallel.experts import EXPERTS, on_their_devices
from jaxnet.parallel.fsdp import gathered
from jaxnet.parallel.layout import Layout
from jaxnet.parallel.mesh_layout import MeshLayout
from jaxnet.parallel.ring_attention import in_a_ring
from jaxnet.parallel.stacked import stage_rules, to_plain
from jaxnet.training.network import Network, intercepted
from jaxnet.training.task import Steps, as_task
from jaxnet.training.techniques.guard import WholeStep
from jaxnet.training.techniques.local_sgd import REPLICAS
from jaxnet.training.techniques.parallelism import stacked

PyTree = Any

# The layer that each axis shards, and its method that is intercepted.
_SHARDED: dict[str, tuple[type[nn.Module], str]] = {
    "sequence": (MultiHeadAttention, "mix"),
    "expert": (ExpertFeedForward, "transform"),
}
_SUCH_AS = {
    "sequence": "models.GPT2 (--model gpt)",
    "expert": "models.GPT2 with num_experts (--model gpt --network.experts 8)",
}


def complete(layout: Layout, task: Steps[Any], *, plain: bool = False) -> Layout:
    """The layout with the sharding rules that its axes and the task's techniques add to its own.

    Args:
        layout: without -1.
        task: the task before parallelization.
        plain: whether the rules are for the plain form of the parameters, without stacking.

    Raises:
        UsageError: the axes can't be combined; or the task uses `local_sgd`, whose replicas can
            only be sharded over data.
    """
    for axis in _SHARDED:
        if layout.stage > 1 and layout.sizes[axis] > 1:
            raise UsageError(
                f"layout: stage={layout.stage} can't be combined with {axis}={layout.sizes[axis]}: "
                f"the communication of {axis} would have to happen within the stages. Combine one "
                f"of them with data, fsdp or tensor (--layout.{axis} 1)."
            )
    if _replicas(task):
        others = [name for name, size in layout.sizes.items() if size > 1 and name != "data"]
        if others:
            raise UsageError(
                f"layout: local_sgd shards its replicas over data and can't be combined with "
                f"{others[0]}={layout.sizes[others[0]]}: leave out the axis "
                f"(--layout.{others[0]} 1), or local_sgd (--techniques.local-sgd-replicas 1)"
            )
        return replace(layout, rules=REPLICAS)
    rules = tuple(layout.rules)
    if layout.expert > 1:
        rules = (*rules, *EXPERTS)
    if layout.stage > 1 and not plain:
        rules = stage_rules(rules)
    return replace(layout, rules=rules)


def on_layout(task: Steps[Any], on_mesh: MeshLayout, used: set[str]) -> Steps[Any]:
    """Transform a task for training on the devices of a layout.

    Args:
        task: the task before parallelization.
        on_mesh: the layout, with the rules of `complete`.
        used: is filled, when the task is traced, with the axes that shard a layer.
    """
    sizes = on_mesh.mesh.shape
    changes: list[Callable[[Network], Network]] = []
    if sizes["expert"] > 1:
        changes.append(partial(_noting_use, axis="expert", by=on_their_devices(), used=used))
    if sizes["sequence"] > 1:
        changes.append(partial(_noting_use, axis="sequence", by=in_a_ring(), used=used))
    if sizes["stage"] > 1:
        changes.append(lambda network: stacked(network, on_mesh.layout.micro_batches))
    if sizes["fsdp"] > 1:
        changes.append(lambda network: gathered(network, on_mesh))

    def changed(network: Network) -> Network:
        for change in changes:
            network = change(network)
        return network

    map_network = as_task(task).map_network  # without it the task's networks are unknown
    return map_network(changed) if map_network and changes else task


def _noting_use(network: Network, axis: str, by: Any, used: set[str]) -> Network:
    """The network with the interceptor `by`, which adds `axis` to `used` when it takes effect."""
    if network.module is None:
        # Plain functions may use the mesh themselves, which can't be detected.
        used.add(axis)
    kind, method = _SHARDED[axis]

    def interceptor(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if isinstance(context.module, kind) and context.method_name == method:
            used.add(axis)
        return by(call, args, kwargs, context)

    return intercepted(network, interceptor)


def used_by(kinds: Iterable[str]) -> set[str]:
    """The axes that shard one of these module classes.

    Example:
        >>> used_by(["Dense", "MultiHeadAttention"])
        {'sequence'}
    """
    return {axis for axis, (kind, _) in _SHARDED.items() if kind.__name__ in kinds}


def check_used(layout: Layout, used: set[str]) -> None:
    """Check that each axis shards a layer of the network.

    Args:
        layout: without -1.
        used: the axes that do, from a traced task or from `used_by`.

    Raises:
        UsageError: an axis doesn't.
    """
    for axis, (kind, _) in _SHARDED.items():
        if layout.sizes[axis] > 1 and axis not in used:
            raise UsageError(
                f"layout: {axis}={layout.sizes[axis]} shards the layer "
                f"jaxnet.layers.{kind.__name__}, and this network has none. Leave the axis out "
                f"(--layout.{axis} 1), or use a network that has one, such as {_SUCH_AS[axis]}."
            )


def check_plain(stacked_state: PyTree, state: PyTree) -> None:
    """Check that the stacked state of a pipeline converts to the plain state.

    Args:
        stacked_state: the shapes of the state with the pipeline.
        state: the shapes of the same task's state without it.

    Raises:
        UsageError: the plain form of `stacked_state` differs from `state`.
    """
    forms = [jax.eval_shape(to_plain, one) for one in (state, stacked_state)]
    if lines := trees.differences(*forms):
        raise UsageError(
            "layout: the state of the optimizer or of a technique for stacked pipeline blocks "
            "doesn't convert to that of single blocks:\n" + "\n".join(lines[:5]) + "\nUse another "
            "optimizer or technique, or leave out the stages (--layout.stage 1)."
        )


def _replicas(task: Any) -> bool:
    while isinstance(task, WholeStep):
        if task.technique == "local_sgd":
            return True
        task = task.task
    return False
