"""Detection of NaN and infinity, and of the layer that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def all_finite(tree: PyTree) -> jax.Array:
    """Whether all floating-point leaves of `tree` are finite, a bool scalar.

    Example:
        >>> bool(all_finite({"a": jnp.ones(3), "n": jnp.arange(2)}))
        True
        >>> bool(all_finite({"a": jnp.array([1.0, jnp.nan])}))
        False
    """
    checks = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]
    return jnp.stack(checks).all() if checks else jnp.ones((), bool)


def first_nonfinite(stages: Sequence[tuple[str, PyTree]], grads: PyTree) -> str:
    """Name the first non-finite stage, or else the first non-finite gradient in backward order.

    Args:
        stages: the values computed by a step, in order: (name, values).
        grads: the gradients with respect to the parameters, keyed like the network's layers.
    """
    for name, values in stages:
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            if _is_floating(leaf) and not bool(jnp.isfinite(leaf).all()):
                where = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
                return f"first in {f'{name} ({where})' if where else name}: {_count(leaf)}"
    bad = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        if not bool(jnp.isfinite(leaf).all())
    ]
    if not bad:
        return "the replay of the step is finite: the optimizer's update overflowed"
    order = [name for name, _ in stages]
    # The backward pass runs through the layers in reverse: the last layer to run is the first
    # whose gradient can be wrong.
    path, leaf = max(bad, key=lambda item: _position(order, item[0]))
    return f"first in the gradient of {path}: {_count(leaf)} (the forward pass is finite)"


def _position(order: Sequence[str], path: str) -> int:
    # A block finishes after its layers: the innermost owner counts.
    owners = [(len(name), i) for i, name in enumerate(order) if path.startswith(name + "/")]
    return max(owners, default=(0, -1))[1]


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _count(leaf: Any) -> str:
    values = np.asarray(leaf, np.float64)
    nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return f"{nans} NaN and {infinities} infinite of {values.size} values"
