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
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.errors import UsageError
from jaxnet.parallel.shard_map_utils import AnyMesh, free_axes, typed_like, widened, zeros_within

# The micro-batches a stage where nothing else is said: then it idles for less than a fifth of its
# time.
MICRO_BATCHES = 4

PyTree = Any
StageFn = Callable[[PyTree, PyTree, PyTree, jax.Array | None], PyTree]
LossFn = Callable[[PyTree, PyTree, PyTree], jax.Array]


class Gradients(NamedTuple):
    """What `one_forward_one_backward` gives besides the loss.

    Attributes:
        params: by the stacked parameters.
        head: by those of the loss.
        inputs: by the inputs.
    """

    params: PyTree
    head: PyTree
    inputs: PyTree


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
    own = rows // math.prod(sizes[share] for share in _shares(sizes))
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
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("stage",))
        >>> def stage(kernels, x, side, key):
        ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
        >>> kernels = 2 * jnp.ones((3, 1, 1))
        >>> run = jax.jit(partial(gpipe, stage, micro_batches=2, mesh=mesh))
        >>> run(kernels, jnp.ones((4, 1))).ravel().tolist()
        [8.0, 8.0, 8.0, 8.0]
    """
    run = jax.checkpoint(stage_fn) if remat else stage_fn
    pipe = _Pipe.of(mesh, axis, micro_batches, params, inputs)
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
            x = _chosen(own, _at(xs, number), received)
            # Lowered here and not before the loop, which adds up their gradients as they come in.
            lowered = typed_like(params, given[0])
            y = run(lowered, x, _at(sides, number), pipe.key(key, number))
            return jax.tree.map(lambda y: lax.ppermute(y, axis, pipe.onward), y), y

        first = jax.tree.map(lambda x: zeros_within(x.shape[1:], x.dtype), xs)
        _, ys = lax.scan(tick, first, jnp.arange(pipe.parts + pipe.stages - 1))
        ys = jax.tree.map(lambda y: y[pipe.stages - 1 :], ys)
        last = stage == pipe.stages - 1
        return lax.psum(widened(_chosen(last, ys, _zeros(ys))), axis)

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


def one_forward_one_backward(
    stage_fn: StageFn,
    loss_fn: LossFn,
    params: PyTree,
    head: PyTree,
    inputs: PyTree,
    targets: PyTree,
    side: PyTree = None,
    key: jax.Array | None = None,
    *,
    micro_batches: int,
    mesh: AnyMesh | None = None,
    axis: str = "stage",
) -> tuple[jax.Array, Gradients]:
    """The loss after all stages, and its gradients.

    In each slot of time a stage goes forward with one micro-batch or backward with one, in turns.
    Of a micro-batch it keeps its input from the one to the other, and there are never more of them
    than stages; the rest it computes again going backward.

    Which of the two is a branch that differs from stage to stage: so `stage_fn` and `loss_fn` must
    hold nothing that sends from one stage's devices to another's.

    Args:
        stage_fn: as for `gpipe`, and so for what isn't named here.
        loss_fn: `(head, x, targets) -> scalar`, the SUM of the examples' losses for a micro-batch.
        params: of all layers, with the layer as leading axis.
        head: the parameters of `loss_fn`.
        inputs: what goes into the first stage.
        targets: arrays with the example as leading axis, for `loss_fn`.
        side: as for `gpipe`.
        key: as for `gpipe`.
        micro_batches: how many.
        mesh: as for `gpipe`.
        axis: as for `gpipe`.

    Returns:
        The sum of the losses over all examples, and its gradients.

    Raises:
        UsageError: as for `gpipe`.

    Example:
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("stage",))
        >>> def stage(kernels, x, side, key):
        ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
        >>> def loss(head, x, targets):
        ...     return jnp.sum(head * x - targets)
        >>> inputs, targets = jnp.ones((4, 1)), jnp.zeros((4, 1))
        >>> gradient = jax.jit(
        ...     partial(one_forward_one_backward, stage, loss, micro_batches=2, mesh=mesh))
        >>> value, grads = gradient(2 * jnp.ones((3, 1, 1)), jnp.ones(()), inputs, targets)
        >>> float(value), grads.params.ravel().tolist(), float(grads.head)
        (32.0, [16.0, 16.0, 16.0], 32.0)
    """
    pipe = _Pipe.of(mesh, axis, micro_batches, params, inputs)
    mapped = jax.shard_map(
        partial(_alternate, pipe, stage_fn, loss_fn),
        mesh=mesh,
        in_specs=(P(axis), P(), pipe.spec, pipe.spec, pipe.spec, P()),
        out_specs=(P(), Gradients(P(axis), P(), pipe.spec)),
        axis_names=set(pipe.axes),
        # Gradients are taken within each device and added up by hand.
        check_vma=False,
    )
    cut = pipe.cut(inputs), pipe.cut(targets), pipe.cut(side)
    loss, grads = mapped(params, head, *cut, key)
    return loss, grads._replace(inputs=pipe.joined(grads.inputs))


# --- within one device --------------------------------------------------------------------------


class _Pipe(NamedTuple):
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
    def of(mesh: AnyMesh | None, axis: str, parts: int, params: PyTree, inputs: PyTree) -> _Pipe:
        sizes = free_axes(mesh)
        shares = _shares(sizes)
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
        return _Pipe(axis, shares, sizes[axis], parts)

    @property
    def axes(self) -> tuple[str, ...]:
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


class _Sums(NamedTuple):
    """What comes together while a stage goes backward."""

    loss: jax.Array
    grads: Gradients


def _alternate(
    pipe: _Pipe,
    stage_fn: StageFn,
    loss_fn: LossFn,
    params: PyTree,
    head: PyTree,
    xs: PyTree,
    targets: PyTree,
    sides: PyTree,
    key: jax.Array | None,
) -> tuple[jax.Array, Gradients]:
    """Loss and gradients of a stage's own layers, one forward, one backward.

    Stage s goes forward with micro-batch m in slot `s + 2 m`, and backward with it in slot
    `2 stages - 1 - s + 2 m`. So neighbours take turns, and in each slot every second pair of them
    exchanges what one of them has after going forward, and the other after going backward.
    """
    stage = lax.axis_index(pipe.axis)

    def run(number: jax.Array) -> Callable[[PyTree, PyTree], PyTree]:
        return lambda params, x: stage_fn(params, x, _at(sides, number), pipe.key(key, number))

    def idle(number, received, kept, sums):
        return _zeros(received), kept, sums

    def keep(number, received, kept, sums):
        x = _chosen(stage == 0, _at(xs, number), received)
        kept = jax.tree.map(lambda all_, x: all_.at[number % pipe.stages].set(x), kept, x)
        return _zeros(received), kept, sums

    def forward(number, received, kept, sums):
        _, kept, _ = keep(number, received, kept, sums)
        return run(number)(params, _at(kept, number % pipe.stages)), kept, sums

    def add(number: jax.Array, sums: _Sums, loss: Any, d_params: Any, d_head: Any, d_x: Any):
        inputs = jax.tree.map(
            lambda all_, d: all_.at[number].set(
                jnp.where(stage == 0, d, jnp.zeros_like(d)).astype(all_.dtype)
            ),
            sums.grads.inputs,
            d_x,
        )
        grads = Gradients(
            _added(sums.grads.params, d_params), _added(sums.grads.head, d_head), inputs
        )
        return _Sums(sums.loss + loss, grads)

    def backward(number, received, kept, sums):
        x = _at(kept, number % pipe.stages)
        _, pull = jax.vjp(run(number), params, x)
        d_params, d_x = pull(received)
        return d_x, kept, add(number, sums, 0.0, d_params, None, d_x)

    def turn(number, received, kept, sums):
        x = _at(kept, number % pipe.stages)

        def loss_of(params: PyTree, head: PyTree, x: PyTree) -> jax.Array:
            return loss_fn(head, run(number)(params, x), _at(targets, number))

        loss, (d_params, d_head, d_x) = jax.value_and_grad(loss_of, (0, 1, 2))(params, head, x)
        return d_x, kept, add(number, sums, loss.astype(jnp.float32), d_params, d_head, d_x)

    def slot(carry: Any, time: jax.Array) -> Any:
        onward = (time - stage) % 2 == 0
        number = jnp.where(onward, (time - stage) // 2, (time + stage + 1) // 2 - pipe.stages)
        last = stage == pipe.stages - 1
        which = jnp.where(onward, jnp.where(last, 1, 2), jnp.where(last, 4, 3))
        which = jnp.where((number >= 0) & (number < pipe.parts), which, 0)
        number = jnp.clip(number, 0, pipe.parts - 1)
        branches = [idle, keep, forward, backward, turn]
        sent, kept, sums = lax.switch(which, branches, number, *carry)
        exchanges = [partial(_exchange, pipe, start) for start in (0, 1)]
        return (lax.switch(time % 2, exchanges, sent), kept, sums), None

    one = jax.tree.map(lambda x: jnp.zeros_like(x[0]), xs)
    kept = jax.tree.map(lambda x: jnp.zeros((pipe.stages, *x.shape), x.dtype), one)
    sums = _Sums(jnp.zeros((), jnp.float32), Gradients(*_zeros(widened((params, head, xs)))))
    slots = jnp.arange(2 * (pipe.parts + pipe.stages - 1))
    (_, _, (loss, grads)), _ = lax.scan(slot, (one, kept, sums), slots)

    loss, d_head = lax.psum((loss, grads.head), pipe.axes)
    d_params = lax.psum(grads.params, pipe.shares) if pipe.shares else grads.params
    d_inputs = lax.psum(grads.inputs, pipe.axis)
    return loss, Gradients(*typed_like((d_params, d_head, d_inputs), (params, head, xs)))


def _exchange(pipe: _Pipe, start: int, sent: PyTree) -> PyTree:
    """What the neighbour has sent, where neighbours are `start` and the next one, and so on."""
    lower = range(start, pipe.stages - 1, 2)
    pairs = [pair for i in lower for pair in ((i, i + 1), (i + 1, i))]
    return jax.tree.map(lambda x: lax.ppermute(x, pipe.axis, pairs), sent)


def _shares(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes over which each micro-batch is shared out by hand."""
    return tuple(share for share in ("data",) if sizes.get(share, 1) > 1)


def _at(tree: PyTree, number: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), tree)


def _chosen(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, tree)


def _added(total: PyTree, part: PyTree) -> PyTree:
    if part is None:
        return total
    return jax.tree.map(lambda t, p: t + p.astype(t.dtype), total, part)
