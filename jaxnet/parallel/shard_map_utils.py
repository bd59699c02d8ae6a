"""Helpers for functions with explicit communication (`jax.shard_map`).

They accept a mesh, or None for the ambient one (`jax.set_mesh`), which a trainer with a layout
sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh

from jaxnet.parallel.axes import BATCH_AXES

AnyMesh = Mesh | AbstractMesh
PyTree = Any


def free_axes(mesh: AnyMesh | None = None) -> Mapping[str, int]:
    """The axes of a mesh that aren't manual, with their sizes.

    Axes that an enclosing `jax.shard_map` already maps over are excluded; without a mesh there are
    none.

    Example:
        >>> free_axes()
        {}
        >>> free_axes(AbstractMesh((4, 2), ("data", "stage")))
        {'data': 4, 'stage': 2}
    """
    found = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    sizes = zip(found.axis_names, found.axis_sizes, found.axis_types, strict=True)
    return {name: size for name, size, kind in sizes if kind != AxisType.Manual}


def batch_axes(mesh: AnyMesh | None = None) -> tuple[str, ...]:
    """The free axes with more than one device that shard the examples of a batch.

    Example:
        >>> batch_axes(AbstractMesh((4, 1, 2), ("data", "fsdp", "tensor")))
        ('data',)
    """
    sizes = free_axes(mesh)
    return tuple(name for name in BATCH_AXES if sizes.get(name, 1) > 1)


def widened(tree: PyTree) -> PyTree:
    """Cast half-precision arrays to float32, for sums over devices.

    float32 is more precise, and XLA's CPU compiler aborts on some sums of bfloat16 (jax 0.10). An
    argument of a mapped function that is cast by `widened`, and back by `typed_like` inside it, has
    its gradient summed in float32.
    """

    def wide(x: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(np.promote_types(x.dtype, np.float32)) if floating else x

    return jax.tree.map(wide, tree)


def typed_like(tree: PyTree, other: PyTree) -> PyTree:
    """Cast `tree` to the dtypes of `other`."""
    return jax.tree.map(lambda x, like: x.astype(like.dtype), tree, other)


def zeros_within(shape: Sequence[int], dtype: Any) -> jax.Array:
    """Zeros inside a mapped function, typed as varying over its manual axes.

    JAX tracks the axes along which arrays vary, and the carry of a loop must have the same ones at
    its start as at its end.
    """
    zeros = jnp.zeros(shape, dtype)
    return lax.pcast(zeros, jax.sharding.get_abstract_mesh().manual_axes, to="varying")
