"""What training a network on many devices takes, from shapes alone: nothing is compiled or run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxnet import trees
from jaxnet.compute import FORWARD_PASSES, Memory
from jaxnet.errors import UsageError
from jaxnet.parallel.describe import local_bytes
from jaxnet.parallel.layout import Layout
from jaxnet.parallel.pipeline_stages import MICRO_BATCHES, cuts
from jaxnet.plan.collectives import Collective
from jaxnet.plan.communication import Placed, exchanges
from jaxnet.plan.roofline import Machine, Time, step_time
from jaxnet.plan.tracing import Traced, by_path


@dataclass(frozen=True)
class Plan:
    """What a device holds and does in a step; of a pipeline's devices one of the first stage.

    Attributes:
        layout: how all lies.
        parameters: the number of the network's parameters, all devices together.
        held: the bytes that a device holds. The activations are an estimate: what the backward
            pass needs of each operation, and the loss of the outputs, before a compiler merges any.
        flops: the operations of a device.
        traffic: the bytes that a device reads from and writes to its own memory, an estimate: the
            parameters read forward and backward, the gradients written and read, parameters and
            optimizer state read and written by the update, the activations written and read.
        collectives: what a device sends, see `jaxnet.plan.communication`.
        idle: how many times as long the arithmetic takes because stages of a pipeline wait.
    """

    layout: Layout
    parameters: int
    held: Memory
    flops: float
    traffic: float
    collectives: tuple[Collective, ...]
    idle: float

    def time(self, machine: Machine, precision: str = "float32") -> Time:
        """The bounds of a step's time; see `jaxnet.plan.roofline`.

        Raises:
            UsageError: the machine has no figure for the precision.
        """
        work = self.flops * self.idle
        return step_time(machine, work, self.traffic, self.collectives, precision)


def plan(traced: Traced, layout: Layout) -> Plan:
    """What a layout makes of a network.

    Args:
        traced: the network with a whole batch, from `jaxnet.plan.tracing.trace`.
        layout: the layout, without -1.

    Raises:
        UsageError: the layout doesn't fit the network, see `Layout.specs`, or the batch; or there
            are stages, and no stack of blocks that they divide.

    Example:
        >>> import flax.linen as nn, optax
        >>> from jaxnet.plan.tracing import trace
        >>> planned = plan(trace(nn.Dense(8), (32, 4), optimizer=optax.sgd(0.1)), Layout(data=4))
        >>> planned.parameters, planned.held.parameters, planned.flops == 3 * 2 * 32 * 4 * 8 / 4
        (40, 160, True)
        >>> [(each.kind, each.size) for each in planned.collectives]
        [('all-reduce', 160)]
    """
    micro_batches = _checked(traced, layout)
    placed = Placed.of(traced, layout)
    held = _held(placed, layout)
    # The parameters that are read are whole along fsdp.
    read = sum(
        local_bytes(leaf, placed.specs[path], {**placed.sizes, "fsdp": 1})
        for path, leaf in placed.params.items()
        if placed.here(path)
    )
    updated = held.parameters + held.optimizer
    return Plan(
        layout=layout,
        parameters=trees.count(traced.state["params"]),
        held=held,
        flops=FORWARD_PASSES * _shared(traced.flops, placed, work=True),
        traffic=2 * (read + held.gradients + updated + held.activations),
        collectives=exchanges(placed, micro_batches),
        idle=(micro_batches + layout.stage - 1) / micro_batches,
    )


def _checked(traced: Traced, layout: Layout) -> int:
    """Into how many parts a pipeline cuts a batch of a layout that training would take."""
    shares = layout.data * layout.fsdp * layout.expert
    batch, *others = traced.layers[""].inputs
    if batch % shares:
        raise UsageError(
            f"a batch of {batch} examples can't be shared out evenly among {shares} devices (data "
            f"x fsdp x expert): choose a batch size that {shares} divides"
        )
    if layout.stage > max(1, traced.blocks):
        raise UsageError(
            f"layout: {layout.stage} stages share out the blocks of a jaxnet.layers.Stack, and "
            f"this network has {traced.blocks}"
        )
    if layout.stage > 1 and traced.blocks % layout.stage:
        raise UsageError(
            f"layout: {traced.blocks} blocks can't be shared out evenly over stage={layout.stage}: "
            f"choose a number of blocks that {layout.stage} divides"
        )
    if len(others) == 1 and others[0] % layout.sequence:
        raise UsageError(
            f"layout: {others[0]} tokens can't be shared out evenly over "
            f"sequence={layout.sequence}: choose a length that {layout.sequence} divides"
        )
    own = batch // shares
    found = cuts(own, layout.micro_batches or MICRO_BATCHES * layout.stage)
    if layout.stage > 1 and layout.micro_batches not in (None, found):
        raise UsageError(
            f"layout: the {own} examples of a device can't be cut into micro_batches="
            f"{layout.micro_batches}: choose a number that divides them, such as {found}"
        )
    return found


def _held(placed: Placed, layout: Layout) -> Memory:
    state = placed.traced.state
    specs = layout.specs(state)

    def local(part: str) -> int:
        lies = by_path(specs[part])
        return sum(
            local_bytes(leaf, lies[path], placed.sizes)
            for path, leaf in by_path(state[part]).items()
            if placed.here(path)
        )

    parameters = local("params")
    return Memory(
        parameters=parameters,
        gradients=parameters,
        optimizer=local("opt_state"),
        collections=local("collections"),
        activations=math.ceil(_shared(placed.traced.activations, placed)),
    )


def _shared(amounts: Mapping[str, int], placed: Placed, work: bool = False) -> float:
    """A device's part of what modules make, or of the work that this takes."""
    return sum(
        amount / placed.share(path, work) for path, amount in amounts.items() if placed.here(path)
    )
