"""The axes of a mesh of devices, and what each is for.

| axis | what it shares out |
|---|---|
| `data` | the examples of a batch; every device holds all parameters |
| `fsdp` | the examples too, and parameters, gradients and optimizer state |
| `expert` | the examples too, and the experts of a mixture |
| `stage` | the layers, one part after the other: a pipeline |
| `sequence` | the tokens of each example |
| `tensor` | the features: heads of attention, hidden units, the vocabulary |
"""

from __future__ import annotations

from dataclasses import dataclass

# From the outside to the inside: neighbours on the last axis are nearest to each other, and what
# talks most, `tensor`, needs that.
AXES = ("data", "fsdp", "expert", "stage", "sequence", "tensor")

# What an array's axis is cut along: nothing, an axis of the mesh, or several.
Axis = str | tuple[str, ...] | None

# The axes among which the examples of a batch are shared out.
BATCH_AXES = ("data", "fsdp", "expert")


@dataclass(frozen=True)
class Axes:
    """The number of devices along each axis; -1, for one of them, takes all that are left."""

    data: int = 1
    """devices that share the examples of a batch"""
    fsdp: int = 1
    """devices that share the examples too, and parameters, gradients and optimizer state"""
    tensor: int = 1
    """devices that share heads of attention, hidden units and the vocabulary, by the model's
    rules"""
    stage: int = 1
    """devices that share the blocks of a transformer, as stages of a pipeline"""
    sequence: int = 1
    """devices that share the tokens of each example, which attend in a ring"""
    expert: int = 1
    """devices that share the examples too, and the experts of mixtures"""


def names(axis: Axis) -> tuple[str, ...]:
    """The axes that an entry of a `PartitionSpec` names.

    Example:
        >>> names(None), names("data"), names(("data", "fsdp"))
        ((), ('data',), ('data', 'fsdp'))
    """
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)
