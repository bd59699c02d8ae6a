"""The training state, one pytree, and the random streams derived from its key."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any


@struct.dataclass
class TrainState:
    """The training state of a gradient task.

    Attributes:
        step: int32 scalar, the number of steps taken.
        params: the trainable parameters.
        collections: the model's other variables, such as `batch_stats`.
        opt_state: the optimizer's state.
        key: the root key of all randomness. It never changes: see `stream`.
        memory: the state of techniques, such as moving averages, by the technique's name.
    """

    step: jax.Array
    params: PyTree
    collections: dict[str, PyTree]
    opt_state: PyTree
    key: jax.Array
    memory: dict[str, PyTree]


def stream(key: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
    """The key of a named random stream at one step: derived, never stored.

    Because it is a pure function of (root, name, step), a resumed run gets the same random numbers
    as an uninterrupted one.

    Args:
        key: the root key.
        name: the stream, such as `"dropout"`; a stable hash of it is folded in.
        step: the training step.

    Example:
        >>> root = jax.random.key(0)
        >>> bool((stream(root, "dropout", 3) == stream(root, "dropout", 3)).all())
        True
        >>> bool((stream(root, "dropout", 3) == stream(root, "dropout", 4)).all())
        False
    """
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def remember(state: TrainState, **memory: PyTree) -> TrainState:
    """The state with `memory` updated, by the technique's name."""
    return replace(state, memory={**state.memory, **memory})


def select(condition: jax.Array | bool, yes: PyTree, no: PyTree) -> PyTree:
    """The tree `yes` if the scalar `condition` holds, else `no` (`jnp.where` on every leaf)."""
    if condition is True:
        return yes
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
