"""What tests of many devices share: training on them against one, and what devices send."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.parallel import Layout
from tests.networks import quick_starts

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


class Step(NamedTuple):
    """What a step of training came to."""

    loss: Any
    grads: Any
    state: Any


def steps(
    task: Any,
    batch: Any,
    layout: Layout | None = None,
    count: int = 3,
    scale: float | None = 1.0,
) -> list[Step]:
    """The first steps of training on a batch, on the devices of a layout or on one.

    Args:
        task: what to train; see `quick_starts` for its start.
        batch: what to train it on.
        layout: the devices.
        count: how many steps.
        scale: see `quick_starts`. The larger, the more rounding grows. None for the start that
            the network itself draws.
    """
    with nullcontext() if scale is None else quick_starts(scale):
        state = jax.jit(task.init)(jax.random.key(0), batch)
    taken = []
    with jax.set_mesh(layout.mesh()) if layout else jax.default_device(jax.devices()[0]):
        step, state, batch = placed(task, state, batch, layout)
        for _ in range(count):
            loss, grads, state = step(state, batch)
            taken.append(Step(loss, grads, state))
    return taken


def placed(task: Any, state: Any, batch: Any, layout: Layout | None) -> Any:
    """A step as a program, and state and batch where they belong; the mesh must be ambient."""

    def step(state: Any, batch: Any) -> Any:
        grads, aux = task.gradients(task.objective, state, batch)
        return aux.loss, grads, task.apply_gradients(state, grads, aux)

    if layout is None:
        return jax.jit(step), state, batch
    mesh = layout.mesh()
    lies = layout.shardings(state, mesh)
    state = jax.device_put(state, lies)
    batch = jax.device_put(batch, layout.batch(batch, mesh))
    return jax.jit(step, out_shardings=(None, lies.params, lies)), state, batch


def assert_equal_steps(got: Sequence[Step], expected: Sequence[Step], plain: Any = None) -> None:
    """Loss and every leaf of the gradient agree; see `assert_leaves`.

    Args:
        got: the steps to test.
        expected: those of one device.
        plain: what makes the parameters of `got` those of `expected`.
    """
    for ours, theirs in zip(got, expected, strict=True):
        grads = plain(ours.grads) if plain else ours.grads
        assert_leaves({"loss": ours.loss, **grads}, {"loss": theirs.loss, **theirs.grads})


def assert_leaves(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Every leaf agrees, relative to its largest element.

    A leaf that is nothing but rounding, such as the gradient by a bias of keys or before a
    normalisation, which is 0, only has to be as small as that beside the largest of all.
    """
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(expected)]
    largest = max(np.abs(leaf).max(initial=0) for leaf in leaves)
    assert largest > 0
    ours = jax.tree_util.tree_leaves_with_path(got)
    for (path, leaf), wanted in zip(ours, leaves, strict=True):
        leaf, size = np.asarray(leaf, np.float64), np.abs(wanted).max(initial=0)
        assert leaf.shape == wanted.shape, jax.tree_util.keystr(path)
        rounding = size <= tolerance * largest
        bound = tolerance * (largest if rounding else size)
        error = np.abs(leaf - wanted).max(initial=0)
        assert error <= bound, f"{jax.tree_util.keystr(path)}: {error:.1e}, of {size:.1e}"


def collectives(text: str) -> list[tuple[str, int]]:
    """Kind and bytes, on each device, of all that a compiled program sends, in its order.

    What stands in a loop is there once.
    """
    found = []
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    for line in text.splitlines():
        if made := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
            arrays = re.findall(r"(\w+)\[([\d,]*)\]", made[1])
            size = sum(
                BYTES[t] * math.prod(map(int, filter(None, s.split(",")))) for t, s in arrays
            )
            found.append((made[2], size))
    return found
