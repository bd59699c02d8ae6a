"""The stages of a pipeline on a mesh, and operations on micro-batches, for all schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.errors import UsageError
from jaxnet.parallel.shard_map_utils import AnyMesh, free_axes

PyTree = Any
StageFn = Callable[[PyTree, PyTree, PyTree, jax.Array | None], PyTree]
LossFn = Callable[[PyTree, PyTree, PyTree], jax.Array]


class Pipe(NamedTuple):
    """The numbers of a pipeline.

    Attributes:
        axis: that of the stages.
        shares: the axes over which each micro-batch is shared out.
        stages: how many.
        parts: how many micro-batches.
    """

    axis: str
    shares: tuple[str, ...]
    stages: int
    parts: int

    @staticmethod
    def of(mesh: AnyMesh | None, axis: str, parts: int, params: PyTree, inputs: PyTree) -> Pipe:
        """The pipeline for a mesh, parameters stacked by layer and a batch.

        Raises:
            UsageError: the stages don't divide the layers.
        """
        sizes = free_axes(mesh)
        shares = batch_axes(sizes)
        for layers in {len(leaf) for leaf in jax.tree.leaves(params)}:
            if layers % sizes[axis]:
                raise UsageError(
                    f"pipeline: {layers} layers can't be shared out evenly over "
                    f"{axis}={sizes[axis]}: choose a number of layers that {sizes[axis]} divides"
                )
        together = parts * math.prod(sizes[share] for share in shares)
        for rows in {len(leaf) for leaf in jax.tree.leaves(inputs)}:
            if parts < 1 or rows % together:
                said = "".join(f" for each of data={sizes[share]}" for share in shares)
                raise UsageError(
                    f"pipeline: a batch of {rows} can't be cut into {parts} micro-batches{said}: "
                    f"choose a batch size that {together} divides, or another number of "
                    "micro-batches"
                )
        return Pipe(axis, shares, sizes[axis], parts)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that are mapped by hand: that of the stages, and those of the batch."""
        return (self.axis, *self.shares)

    @property
    def spec(self) -> P:
        """How micro-batches lie, (parts, rows, ...)."""
        return P(None, self.shares or None)

    @property
    def onward(self) -> list[tuple[int, int]]:
        """From each stage to the next."""
        return [(i, i + 1) for i in range(self.stages - 1)]

    def cut(self, batch: PyTree) -> PyTree:
        """(rows, ...) as (parts, rows / parts, ...).

        Each part has rows from all over, so that none moves where rows are shared out.
        """
        return jax.tree.map(lambda x: x.reshape(-1, self.parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def joined(self, parts: PyTree) -> PyTree:
        """What `cut` made into parts."""
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)

    def key(self, key: jax.Array | None, number: jax.Array) -> jax.Array | None:
        """The key of a micro-batch in this stage, and of this part of it."""
        if key is None:
            return None
        for axis in self.axes:
            key = jax.random.fold_in(key, lax.axis_index(axis))
        return jax.random.fold_in(key, number)


def exchange(pipe: Pipe, start: int, sent: PyTree) -> PyTree:
    """What the neighbour has sent, where neighbours are `start` and the next one, and so on."""
    lower = range(start, pipe.stages - 1, 2)
    pairs = [pair for i in lower for pair in ((i, i + 1), (i + 1, i))]
    return jax.tree.map(lambda x: lax.ppermute(x, pipe.axis, pairs), sent)


def batch_axes(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes over which each micro-batch is shared out by hand."""
    return tuple(share for share in ("data",) if sizes.get(share, 1) > 1)


def at(tree: PyTree, number: jax.Array) -> PyTree:
    """Element `number` along the leading axis of each leaf."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), tree)


def chosen(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    """`jnp.where` on each leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def zeros(tree: PyTree) -> PyTree:
    """Zeros like each leaf."""
    return jax.tree.map(jnp.zeros_like, tree)


def added(total: PyTree, part: PyTree) -> PyTree:
    """The sum of each leaf, in the type of `total`; None adds nothing."""
    if part is None:
        return total
    return jax.tree.map(lambda t, p: t + p.astype(t.dtype), total, part)
