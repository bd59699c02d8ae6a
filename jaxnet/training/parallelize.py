"""What a layout makes of a task: each axis that the compiler can't use by itself does its part.

A trainer with a layout trains this task in the place of the one that it was given. That of `stage`
has its blocks' parameters stacked; `jaxnet.training.programs` gives the plain form to all others.
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

# What these axes share out: the method that a layer has for it.
_SHARED: dict[str, tuple[type[nn.Module], str]] = {
    "sequence": (MultiHeadAttention, "mix"),
    "expert": (ExpertFeedForward, "transform"),
}
_SUCH_AS = {
    "sequence": "models.GPT2 (--model gpt)",
    "expert": "models.GPT2 with num_experts (--model gpt --network.experts 8)",
}


def complete(layout: Layout, task: Steps[Any], *, plain: bool = False) -> Layout:
    """The layout with the rules that its axes and the task's techniques need besides its own.

    Args:
        layout: without -1.
        task: the task as it was given.
        plain: for the plain form of the parameters, whatever `stage` makes of them.

    Raises:
        UsageError: axes can't be combined; or the task has replicas, and an axis shares out what
            each of them has.
    """
    for axis in _SHARED:
        if layout.stage > 1 and layout.sizes[axis] > 1:
            raise UsageError(
                f"layout: stage={layout.stage} can't be combined with {axis}={layout.sizes[axis]}: "
                f"what {axis} exchanges would have to happen within the stages. Take data, fsdp or "
                f"tensor beside one of them (--layout.{axis} 1)."
            )
    if _replicas(task):
        others = [name for name, size in layout.sizes.items() if size > 1 and name != "data"]
        if others:
            raise UsageError(
                f"layout: local_sgd shares out its replicas over data, and {others[0]}="
                f"{layout.sizes[others[0]]} can't be shared out besides: leave out the axis "
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
    """The task as the devices of a layout train it.

    Args:
        task: the task as it was given.
        on_mesh: the layout, complete.
        used: gets the axes that have something to share out, when the task is traced.
    """
    sizes = on_mesh.mesh.shape
    changes: list[Callable[[Network], Network]] = []
    if sizes["expert"] > 1:
        changes.append(partial(_spread, axis="expert", by=on_their_devices(), used=used))
    if sizes["sequence"] > 1:
        changes.append(partial(_spread, axis="sequence", by=in_a_ring(), used=used))
    if sizes["stage"] > 1:
        changes.append(lambda network: stacked(network, on_mesh.layout.micro_batches))
    if sizes["fsdp"] > 1:
        changes.append(lambda network: gathered(network, on_mesh))

    def changed(network: Network) -> Network:
        for change in changes:
            network = change(network)
        return network

    map_network = as_task(task).map_network  # without it nothing is known of its networks
    return map_network(changed) if map_network and changes else task


def _spread(network: Network, axis: str, by: Any, used: set[str]) -> Network:
    """The network with an interceptor around it that notes whether it acts."""
    if network.module is None:
        # Plain functions may use the mesh by themselves: nobody else knows.
        used.add(axis)
    kind, method = _SHARED[axis]

    def interceptor(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if isinstance(context.module, kind) and context.method_name == method:
            used.add(axis)
        return by(call, args, kwargs, context)

    return intercepted(network, interceptor)


def used_by(kinds: Iterable[str]) -> set[str]:
    """The axes that have something to share out in modules of these classes.

    Example:
        >>> used_by(["Dense", "MultiHeadAttention"])
        {'sequence'}
    """
    return {axis for axis, (kind, _) in _SHARED.items() if kind.__name__ in kinds}


def check_used(layout: Layout, used: set[str]) -> None:
    """Refuse an axis that has nothing to share out.

    Args:
        layout: without -1.
        used: the axes that have, from a task that has been traced, or from `used_by`.

    Raises:
        UsageError: there is one.
    """
    for axis, (kind, _) in _SHARED.items():
        if layout.sizes[axis] > 1 and axis not in used:
            raise UsageError(
                f"layout: {axis}={layout.sizes[axis]} shares out what is in a "
                f"jaxnet.layers.{kind.__name__}, and this network has none. Leave the axis out "
                f"(--layout.{axis} 1), or take a network that has one, such as {_SUCH_AS[axis]}."
            )


def check_plain(stacked_state: PyTree, state: PyTree) -> None:
    """Refuse a state that can't be had in both forms.

    Args:
        stacked_state: the shapes of the state of a pipeline.
        state: those of the same task's without one.

    Raises:
        UsageError: the plain form of the one isn't the other.
    """
    forms = [jax.eval_shape(to_plain, one) for one in (state, stacked_state)]
    if lines := trees.differences(*forms):
        raise UsageError(
            "layout: with the blocks of a pipeline stacked, what the optimizer or a technique "
            "remembers of each block isn't what it is without:\n" + "\n".join(lines[:5]) + "\nTake "
            "another optimizer or technique, or leave out the stages (--layout.stage 1)."
        )


def _replicas(task: Any) -> bool:
    while isinstance(task, WholeStep):
        if task.technique == "local_sgd":
            return True
        task = task.task
    return False
