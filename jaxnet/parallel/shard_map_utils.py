"""What functions that move shards themselves (`jax.shard_map`) share.

They take a mesh, or None for the ambient one (`jax.set_mesh`), which a trainer with a layout sets.
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
    """The axes of a mesh along which arrays are still whole for the program, with their sizes.

    Those over which a surrounding `jax.shard_map` maps already are not among them; without a mesh
    there are none.

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
    """The free axes of more than one device among which the examples of a batch are shared out.

    Example:
        >>> batch_axes(AbstractMesh((4, 1, 2), ("data", "fsdp", "tensor")))
        ('data',)
    """
    sizes = free_axes(mesh)
    return tuple(name for name in BATCH_AXES if sizes.get(name, 1) > 1)


def widened(tree: PyTree) -> PyTree:
    """Half-precision numbers as float32, in which devices add up.

    It has more digits, and XLA's compiler for the CPU aborts on some sums of bfloat16 (jax 0.10).
    What is given to a mapped function like this, and made `typed_like` before within it, has a
    gradient that is added up in float32.
    """

    def wide(x: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(np.promote_types(x.dtype, np.float32)) if floating else x

    return jax.tree.map(wide, tree)


def typed_like(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` in the types of `other`."""
    return jax.tree.map(lambda x, like: x.astype(like.dtype), tree, other)


def zeros_within(shape: Sequence[int], dtype: Any) -> jax.Array:
    """Zeros, within a function that is mapped, for what comes to differ from device to device.

    JAX keeps track of the axes along which arrays differ, and a loop has to begin with arrays that
    differ along as many as they do in the end.
    """
    zeros = jnp.zeros(shape, dtype)
    return lax.pcast(zeros, jax.sharding.get_abstract_mesh().manual_axes, to="varying")
