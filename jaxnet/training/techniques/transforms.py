"""Techniques: functions from task to task, which compose as Optax's transformations do.

    task = Supervised(model, losses.cross_entropy, optax.adam(1e-3))
    task = guard_nonfinite(with_ema(accumulate(clip(task, 1.0), 4), 0.999), "skip")

Each transforms one part of a training step: the batch (`augment`), the network
(`mixed_precision`), the objective (`remat`, and `penalize` in `penalties`), the gradients
(`accumulate`), the update (`clip`, `freeze`, `with_ema`) or the whole step (`guard_nonfinite`,
`local_sgd`). Those of `parallelism` act on the network too, and distribute it over devices. A
technique that doesn't apply to a task raises an error with the reason; one that is switched off
(`accumulate(task, 1)`) returns the task unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from jaxnet.errors import UsageError
from jaxnet.training.network import Network, Precision, compute_in
from jaxnet.training.nonfinite import all_finite
from jaxnet.training.state import PyTree, TrainState, remember, select
from jaxnet.training.task import (
    AfterEvaluation,
    Aux,
    Batch,
    GradientTask,
    Inference,
    Metrics,
    Objective,
    Optimizer,
)
from jaxnet.training.techniques.guard import WholeStep


@dataclass(frozen=True)
class Technique(GradientTask):
    """A wrapper around a task; methods that it doesn't override are those of the wrapped task."""

    task: GradientTask

    @override
    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        return self.task.init(key, batch)

    @override
    def prepare(self, state: TrainState, batch: Batch) -> Batch:
        return self.task.prepare(state, batch)

    @override
    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        return self.task.objective(params, collections, batch, key)

    @override
    def gradients(
        self, objective: Objective, state: TrainState, batch: Batch
    ) -> tuple[PyTree, Aux]:
        return self.task.gradients(objective, state, batch)

    @override
    def apply_gradients(self, state: TrainState, grads: PyTree, aux: Aux) -> TrainState:
        return self.task.apply_gradients(state, grads, aux)

    @override
    def learning_rate(self, state: TrainState) -> jax.Array | None:
        return self.task.learning_rate(state)

    @property
    @override
    def after_evaluation(self) -> AfterEvaluation | None:
        return self.task.after_evaluation

    @override
    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        return self.task.eval_step(state, batch)

    @override
    def predict_step(self, state: TrainState, batch: Batch) -> PyTree:
        return self.task.predict_step(state, batch)

    @override
    def inference(self, state: TrainState) -> Inference:
        return self.task.inference(state)

    @override
    def network_inputs(self, batch: Batch) -> Any:
        return self.task.network_inputs(batch)

    @override
    def takes(self, grads: PyTree) -> jax.Array | bool:
        return self.task.takes(grads)

    @override
    def step_metrics(
        self, state: TrainState, batch: Batch, grads: PyTree, aux: Aux, taken: jax.Array
    ) -> Metrics:
        return self.task.step_metrics(state, batch, grads, aux, taken)

    @override
    def map_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> GradientTask:
        return replace(self, task=self.task.map_optimizer(change))

    @override
    def map_network(self, change: Callable[[Network], Network]) -> GradientTask:
        return replace(self, task=self.task.map_network(change))

    @override
    def check(self, outputs: PyTree, columns: Any, name: str) -> None:
        self.task.check(outputs, columns, name)

    @override
    def check_inputs(self, inputs: np.ndarray) -> None:
        self.task.check_inputs(inputs)

    @override
    def diagnose(self, state: TrainState, batch: Batch) -> str:
        return self.task.diagnose(state, batch)

    @property
    @override
    def sound(self) -> Any:
        return self.task.sound

    @property
    @override
    def prediction_inputs(self) -> Any:
        return self.task.prediction_inputs


# --- the update ---------------------------------------------------------------------------------


def clip(task: GradientTask, max_norm: float) -> GradientTask:
    """Clip the gradient to the global norm `max_norm`.

    Pascanu, Mikolov, Bengio (2013), "On the difficulty of training recurrent neural networks",
    algorithm 1.

    Raises:
        UsageError: `max_norm` isn't positive, or the task doesn't learn by gradient descent.
    """
    require_gradients(task, "clip")
    if not max_norm > 0:
        raise UsageError(f"clip: expected a positive max_norm, got {max_norm}")
    return task.map_optimizer(lambda inner: optax.chain(optax.clip_by_global_norm(max_norm), inner))


# --- the gradients ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Accumulate(Technique):
    parts: int

    def gradients(self, objective, state, batch):
        cut = equal_parts(batch, self.parts, "accumulate")

        def part(collections, item):
            index, micro_batch = item
            # Each micro-batch has its own dropout masks.
            key = jax.random.fold_in(state.key, index)
            micro_state = replace(state, collections=collections, key=key)
            grads, aux = self.task.gradients(objective, micro_state, micro_batch)
            grads = jax.tree.map(lambda g: g.astype(jnp.float32) * aux.weight, grads)
            # A micro-batch of padding alone must not update running statistics either.
            collections = select(aux.weight > 0, aux.collections, collections)
            return collections, (grads, aux.weight, aux.metrics)

        collections, (grads, weights, metrics) = _scan_sum(
            part, state.collections, (jnp.arange(self.parts), cut)
        )
        # An all-masked batch has no gradient, and 0/0 would make it NaN.
        total = jnp.where(weights > 0, weights, jnp.ones_like(weights))
        grads = jax.tree.map(lambda g, p: (g / total).astype(p.dtype), grads, state.params)
        return grads, Aux(weights, collections, metrics)


def _scan_sum(body, carry, items):
    """`lax.scan` with its outputs summed instead of stacked, which saves memory."""
    shapes = jax.eval_shape(lambda: body(carry, jax.tree.map(lambda x: x[0], items))[1])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step(carry_and_sum, item):
        carry, total = carry_and_sum
        carry, output = body(carry, item)
        return (carry, jax.tree.map(jnp.add, total, output)), None

    (carry, total), _ = jax.lax.scan(step, (carry, zeros), items)
    return carry, total


def accumulate(task: GradientTask, parts: int) -> GradientTask:
    """Gradient accumulation: compute the gradient of each batch in `parts` micro-batches.

    The result is the gradient of the whole batch, also if the micro-batches differ in their number
    of unmasked examples or in example weights; it only takes less memory. Batch normalisation uses
    the statistics of each micro-batch, and dropout masks are sampled per micro-batch.

    Raises:
        UsageError: `parts` isn't positive or doesn't divide the batch, or the task doesn't learn by
            gradient descent.
    """
    if parts < 1:
        raise UsageError(f"accumulate: expected a positive number of parts, got {parts}")
    if parts == 1:
        return task
    require_gradients(task, "accumulate")
    return _Accumulate(task, parts)


# --- the objective ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Remat(Technique):
    def objective(self, params, collections, batch, key):
        return jax.checkpoint(self.task.objective)(params, collections, batch, key)


def remat(task: GradientTask) -> GradientTask:
    """Rematerialise activations in the backward pass (gradient checkpointing).

    Chen et al. (2016), "Training deep nets with sublinear memory cost".
    """
    require_gradients(task, "remat")
    return _Remat(task)


@dataclass(frozen=True)
class _LossScaling(Technique):
    """Dynamic loss scaling, so that small float16 gradients don't underflow."""

    initial: float = 2.0**15
    period: int = 2000

    def init(self, key, batch):
        scale = {"scale": jnp.float32(self.initial), "good_steps": jnp.zeros((), jnp.int32)}
        return remember(self.task.init(key, batch), loss_scale=scale)

    def gradients(self, objective, state, batch):
        scale = state.memory["loss_scale"]["scale"]

        def scaled(params, collections, batch, key):
            loss, aux = objective(params, collections, batch, key)
            return loss * scale, aux

        grads, aux = self.task.gradients(scaled, state, batch)
        # Half-precision losses are too coarse for a line search.
        aux = replace(aux, loss=None, value_at=None)
        return jax.tree.map(lambda g: g / scale.astype(g.dtype), grads), aux

    def takes(self, grads):
        return self.task.takes(grads) & all_finite(grads)

    def apply_gradients(self, state, grads, aux):
        finite = all_finite(grads)
        new = self.task.apply_gradients(state, grads, aux)
        new = select(finite, new, replace(state, step=new.step))
        scale, good = (state.memory["loss_scale"][name] for name in ("scale", "good_steps"))
        good = jnp.where(finite, good + 1, 0)
        grown = jnp.where(good >= self.period, scale * 2, scale)
        scale = jnp.where(finite, grown, jnp.maximum(scale / 2, 1.0))
        return remember(new, loss_scale={"scale": scale, "good_steps": good % self.period})


def mixed_precision(task: GradientTask, precision: Precision) -> GradientTask:
    """Run the network in bfloat16 or float16; parameters, loss and update stay float32.

    float16 uses dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training", section
    3.2): the scale doubles after 2,000 finite steps and halves at an overflow, whose step is
    skipped.

    Raises:
        UsageError: an unknown precision, or the task doesn't learn by gradient descent.
    """
    if precision not in get_args(Precision):
        raise UsageError(
            f"mixed_precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}"
        )
    if precision == "float32":
        return task
    require_gradients(task, "mixed_precision")
    task = task.map_network(lambda network: compute_in(network, precision))
    return _LossScaling(task) if precision == "fp16" else task


# --- shared -------------------------------------------------------------------------------------


def equal_parts(batch: Batch, parts: int, technique: str) -> Batch:
    """The batch (B, ...) split into contiguous parts, (parts, B / parts, ...).

    Raises:
        UsageError: `parts` doesn't divide the batch; the message begins with the technique's name.

    Example:
        >>> equal_parts({"mask": jnp.array([True, True, False, False])}, 2, "accumulate")["mask"]
        Array([[ True,  True],
               [False, False]], dtype=bool)
    """
    rows = len(batch["mask"])
    if rows % parts:
        raise UsageError(
            f"{technique}: a batch of {rows} can't be cut into {parts} equal parts. "
            f"Choose a batch size that {parts} divides."
        )
    return jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), dict(batch))


def chain(task: Any) -> Iterator[Any]:
    """The task and the tasks that it wraps, from the outermost to the innermost."""
    while task is not None:
        yield task
        task = task.task if isinstance(task, Technique | WholeStep) else None


def require_gradients(task: Any, technique: str) -> None:
    """Check that `technique` applies to a task.

    Raises:
        UsageError: the task doesn't learn by gradient descent.
    """
    if isinstance(task, GradientTask):
        return
    if isinstance(task, WholeStep):
        outer = task.technique
        raise UsageError(
            f"{technique} acts on gradients or their update, and {outer} on the whole step: put "
            f"{outer} outside, {outer}({technique}(task, ...), ...)"
        )
    raise UsageError(
        f"{technique} needs a task that learns by gradient descent on one objective "
        f"(a GradientTask, such as Supervised); {type(task).__name__} has a step of its own. "
        "Apply it inside that task's train_step."
    )
