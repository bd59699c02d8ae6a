"""The schedule 1F1B of a pipeline: one micro-batch forward, one backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.parallel.pipe import LossFn, Pipe, PyTree, StageFn, added, at, chosen, exchange, zeros
from jaxnet.parallel.shard_map_utils import AnyMesh, typed_like, widened


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
    pipe = Pipe.of(mesh, axis, micro_batches, params, inputs)
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


class _Sums(NamedTuple):
    """What comes together while a stage goes backward."""

    loss: jax.Array
    grads: Gradients


def _alternate(
    pipe: Pipe,
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
        return lambda params, x: stage_fn(params, x, at(sides, number), pipe.key(key, number))

    def idle(number, received, kept, sums):
        return zeros(received), kept, sums

    def keep(number, received, kept, sums):
        x = chosen(stage == 0, at(xs, number), received)
        kept = jax.tree.map(lambda all_, x: all_.at[number % pipe.stages].set(x), kept, x)
        return zeros(received), kept, sums

    def forward(number, received, kept, sums):
        _, kept, _ = keep(number, received, kept, sums)
        return run(number)(params, at(kept, number % pipe.stages)), kept, sums

    def add(number: jax.Array, sums: _Sums, loss: Any, d_params: Any, d_head: Any, d_x: Any):
        inputs = jax.tree.map(
            lambda all_, d: all_.at[number].set(
                jnp.where(stage == 0, d, jnp.zeros_like(d)).astype(all_.dtype)
            ),
            sums.grads.inputs,
            d_x,
        )
        grads = Gradients(
            added(sums.grads.params, d_params), added(sums.grads.head, d_head), inputs
        )
        return _Sums(sums.loss + loss, grads)

    def backward(number, received, kept, sums):
        x = at(kept, number % pipe.stages)
        _, pull = jax.vjp(run(number), params, x)
        d_params, d_x = pull(received)
        return d_x, kept, add(number, sums, 0.0, d_params, None, d_x)

    def turn(number, received, kept, sums):
        x = at(kept, number % pipe.stages)

        def loss_of(params: PyTree, head: PyTree, x: PyTree) -> jax.Array:
            return loss_fn(head, run(number)(params, x), at(targets, number))

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
        exchanges = [partial(exchange, pipe, start) for start in (0, 1)]
        return (lax.switch(time % 2, exchanges, sent), kept, sums), None

    one = jax.tree.map(lambda x: jnp.zeros_like(x[0]), xs)
    kept = jax.tree.map(lambda x: jnp.zeros((pipe.stages, *x.shape), x.dtype), one)
    sums = _Sums(jnp.zeros((), jnp.float32), Gradients(*zeros(widened((params, head, xs)))))
    slots = jnp.arange(2 * (pipe.parts + pipe.stages - 1))
    (_, _, (loss, grads)), _ = lax.scan(slot, (one, kept, sums), slots)

    loss, d_head = lax.psum((loss, grads.head), pipe.axes)
    d_params = lax.psum(grads.params, pipe.shares) if pipe.shares else grads.params
    d_inputs = lax.psum(grads.inputs, pipe.axis)
    return loss, Gradients(*typed_like((d_params, d_head, d_inputs), (params, head, xs)))
