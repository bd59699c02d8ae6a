"""Tables of a layout: the sharding of each leaf, and its bytes per device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxnet import trees
from jaxnet.parallel.axes import names

PyTree = Any

HEADER = ("leaf", "shape", "type", "sharding", "bytes per device")


def local_bytes(leaf: Any, spec: PartitionSpec, sizes: Mapping[str, int]) -> int:
    """The bytes of an array per device.

    Args:
        leaf: an array or its shape.
        spec: its sharding; the axes divide its dimensions.
        sizes: the number of devices along each axis.

    Example:
        >>> spec = PartitionSpec(None, ("fsdp", "tensor"))
        >>> local_bytes(np.zeros((3, 8), np.float32), spec, {"fsdp": 2, "tensor": 2})
        24
    """
    cuts = [name for axis in spec for name in names(axis)]
    return trees.size_bytes(leaf) // math.prod(sizes[name] for name in cuts)


def table(tree: PyTree, specs: PyTree, sizes: Mapping[str, int], name: str) -> str:
    """A line for each leaf, and the totals.

    Args:
        tree: arrays or shapes.
        specs: the same tree with a `PartitionSpec` at each leaf.
        sizes: the number of devices along each axis.
        name: the name of the layout.
    """
    leaves, found = jax.tree.leaves(tree), jax.tree.leaves(specs)
    here = [local_bytes(leaf, spec, sizes) for leaf, spec in zip(leaves, found, strict=True)]
    paths = jax.tree.leaves(trees.paths(tree))
    rows = [
        (path, f"{np.shape(leaf)}", f"{leaf.dtype}", _text(spec), f"{count:,}")
        for path, leaf, spec, count in zip(paths, leaves, found, here, strict=True)
    ]
    devices = math.prod(sizes.values())
    total = trees.size_bytes(tree)
    end = f"{total:,} bytes in all, {sum(here):,} on each of {devices} devices"
    return "\n".join([*_aligned([HEADER, *rows]), f"{name or 'one device'}: {end}"])


def _text(spec: PartitionSpec) -> str:
    """A spec without quotation marks: `P(-, tensor)`, or `replicated`."""
    axes = (axis if isinstance(axis, str) else "+".join(axis or ("-",)) for axis in spec)
    return f"P({', '.join(axes)})" if len(spec) else "replicated"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows in aligned columns, the last of them, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                *(cell.ljust(w) for cell, w in zip(row[:-1], widths[:-1], strict=True)),
                row[-1].rjust(widths[-1]),
            ]
        )
        for row in rows
    ]
