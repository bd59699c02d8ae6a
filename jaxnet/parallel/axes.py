"""The axes of the device mesh.

| axis | shards |
|---|---|
| `data` | the examples of a batch; parameters are replicated |
| `fsdp` | the examples too, and parameters, gradients and optimizer state |
| `expert` | the examples too, and the experts of a mixture of experts |
| `stage` | the layers: pipeline parallelism |
| `sequence` | the tokens of each example |
| `tensor` | the features: attention heads, hidden units, the vocabulary |
"""

from __future__ import annotations

from dataclasses import dataclass

# From the outermost to the innermost: devices along the last axis are nearest to each other, which
# `tensor`, with the most communication, needs.
AXES = ("data", "fsdp", "expert", "stage", "sequence", "tensor")

# The mesh axes that shard a dimension of an array: none, one, or several.
Axis = str | tuple[str, ...] | None

# The axes that shard the examples of a batch.
BATCH_AXES = ("data", "fsdp", "expert")


@dataclass(frozen=True)
class Axes:
    """The number of devices along each axis; -1, for one of them, uses all remaining devices."""

    data: int = 1
    """number of devices that shard the examples of a batch"""
    fsdp: int = 1
    """number of devices that shard the examples, parameters, gradients and optimizer state"""
    tensor: int = 1
    """number of devices that shard attention heads, hidden units and the vocabulary, by the model's
    sharding rules"""
    stage: int = 1
    """number of pipeline stages for the blocks of a transformer"""
    sequence: int = 1
    """number of devices that shard the tokens of each example, with ring attention"""
    expert: int = 1
    """number of devices that shard the examples and the experts of mixtures"""


def names(axis: Axis) -> tuple[str, ...]:
    """The mesh axes in an entry of a `PartitionSpec`.

    Example:
        >>> names(None), names("data"), names(("data", "fsdp"))
        ((), ('data',), ('data', 'fsdp'))
    """
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)
