"""Pipelines: the layers lie on many devices, one part after the other, and micro-batches flow.

A network's layers are stacked, parameters with the layer as leading axis, and each device along the
`stage` axis holds its part of them. A batch is cut into micro-batches. While one of them is in one
stage, others are in the stages before and after it.

Two schedules. `gpipe` (Huang et al. 2019) sends all micro-batches forward; going backward through
it is left to JAX, so it can stand anywhere in a network, and what a stage keeps grows with the
number of micro-batches. `one_forward_one_backward` (Narayanan et al. 2021, section 2.2) starts to
go backward as soon as the first micro-batch has left the last stage, and so keeps at most as many
as there are stages; the loss must be part of it. Both idle in the same share of their time,
`(stages - 1) / (micro_batches + stages - 1)`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.parallel.pipe import Pipe, PyTree, StageFn, at, batch_axes, chosen, zeros
from jaxnet.parallel.shard_map_utils import AnyMesh, free_axes, typed_like, widened, zeros_within

# The micro-batches a stage where nothing else is said: then it idles for less than a fifth of its
# time.
MICRO_BATCHES = 4


def micro_batches_of(
    rows: int, most: int | None = None, mesh: AnyMesh | None = None, axis: str = "stage"
) -> int:
    """Into how many micro-batches a batch can be cut: the largest number up to `most`.

    Args:
        rows: the examples of the batch.
        most: by default four for each stage.
        mesh: None for the ambient one.
        axis: that of the stages.

    Example:
        >>> from jax.sharding import AbstractMesh
        >>> micro_batches_of(12, mesh=AbstractMesh((2,), ("stage",)))
        6
    """
    sizes = free_axes(mesh)
    own = rows // math.prod(sizes[share] for share in batch_axes(sizes))
    return cuts(own, most or MICRO_BATCHES * sizes[axis])


def cuts(rows: int, most: int) -> int:
    """The largest number up to `most` that divides `rows`.

    Example:
        >>> cuts(12, 8), cuts(7, 4)
        (6, 1)
    """
    return next((n for n in range(min(most, rows), 1, -1) if rows % n == 0), 1)


def gpipe(
    stage_fn: StageFn,
    params: PyTree,
    inputs: PyTree,
    side: PyTree = None,
    key: jax.Array | None = None,
    *,
    micro_batches: int,
    remat: bool = True,
    mesh: AnyMesh | None = None,
    axis: str = "stage",
) -> PyTree:
    """The inputs after all stages, forward and, by `jax.grad`, backward.

    Args:
        stage_fn: `(params, x, side, key) -> x`, one stage on one micro-batch: the parameters of its
            layers, still stacked; the micro-batch, of which it keeps shapes and types; its part of
            `side`; and a key of its own, or None.
        params: of all layers, with the layer as leading axis.
        inputs: arrays of floating-point numbers with the example as leading axis.
        side: arrays with the example as leading axis that every stage sees, such as masks.
        key: for what stages draw.
        micro_batches: how many.
        remat: whether a stage keeps no more of a micro-batch than its input, and computes the rest
            again going backward.
        mesh: None for the ambient one. Examples may be shared out over its `data` axis.
        axis: the axis over which the layers are shared out.

    Raises:
        UsageError: the axis doesn't divide the layers, or the micro-batches the examples.

    Example:
        >>> from functools import partial
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("stage",))
        >>> def stage(kernels, x, side, key):
        ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
        >>> kernels = 2 * jnp.ones((3, 1, 1))
        >>> run = jax.jit(partial(gpipe, stage, micro_batches=2, mesh=mesh))
        >>> run(kernels, jnp.ones((4, 1))).ravel().tolist()
        [8.0, 8.0, 8.0, 8.0]
    """
    run = jax.checkpoint(stage_fn) if remat else stage_fn
    pipe = Pipe.of(mesh, axis, micro_batches, params, inputs)
    given = params, inputs, side

    def local(params: PyTree, xs: PyTree, sides: PyTree, key: jax.Array | None) -> PyTree:
        stage = lax.axis_index(axis)
        # Here and not at each use, where each tick would add up its gradients among all replicas.
        params = lax.pcast(params, pipe.shares, to="varying")
        xs = typed_like(lax.pcast(xs, axis, to="varying"), given[1])
        sides = typed_like(lax.pcast(sides, axis, to="varying"), given[2])

        def tick(received: PyTree, time: jax.Array) -> tuple[PyTree, PyTree]:
            turn = time - stage
            number = jnp.clip(turn, 0, pipe.parts - 1)
            # A stage whose turn it isn't works all the same, for nothing: on a real micro-batch,
            # so that whatever is finite for these is finite here.
            own = (stage == 0) | (turn < 0) | (turn >= pipe.parts)
            x = chosen(own, at(xs, number), received)
            # Lowered here and not before the loop, which adds up their gradients as they come in.
            lowered = typed_like(params, given[0])
            y = run(lowered, x, at(sides, number), pipe.key(key, number))
            return jax.tree.map(lambda y: lax.ppermute(y, axis, pipe.onward), y), y

        first = jax.tree.map(lambda x: zeros_within(x.shape[1:], x.dtype), xs)
        _, ys = lax.scan(tick, first, jnp.arange(pipe.parts + pipe.stages - 1))
        ys = jax.tree.map(lambda y: y[pipe.stages - 1 :], ys)
        last = stage == pipe.stages - 1
        return lax.psum(widened(chosen(last, ys, zeros(ys))), axis)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(axis), pipe.spec, pipe.spec, P()),
        out_specs=pipe.spec,
        axis_names=set(pipe.axes),
    )
    wide, wide_inputs, wide_side = widened(given)
    outputs = mapped(wide, pipe.cut(wide_inputs), pipe.cut(wide_side), key)
    return pipe.joined(typed_like(outputs, inputs))


# --- within one device --------------------------------------------------------------------------
