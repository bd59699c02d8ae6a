"""Training as a value: what a task is.

A task is a small immutable object with four pure functions over pytrees:

    init(key, batch)          -> state
    train_step(state, batch)  -> (state, metrics)
    eval_step(state, batch)   -> metrics
    predict_step(state, batch) -> outputs

`state` owns all that changes and has a `step`. `metrics` are mergeable sums, never means.
The loop (`Trainer`) needs nothing else of a task, so a GAN is a task like any other; what a task
may have besides is declared by `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxnet.layers.experts import LOSSES
from jaxnet.metrics import Mean, weighted_mean
from jaxnet.training.network import Network
from jaxnet.training.state import PyTree, TrainState, select

Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, PyTree]
Loss = Callable[[Any, jax.Array], jax.Array]
Metric = Callable[[Any, jax.Array, jax.Array], PyTree]
Optimizer = optax.GradientTransformation
S = TypeVar("S")

# A metric of this name ends training; see `Task.train_step`.
HALT = "halt/"
# The scope, as profilers show it, of what makes new parameters of gradients.
UPDATE = "update"


class Steps(Protocol[S]):
    """What can be trained: four pure functions. `S` is a pytree with an int32 `step`."""

    def init(self, key: jax.Array, batch: Batch) -> S:
        """The state before the first step; of `batch` only shapes and types matter."""
        ...

    def train_step(self, state: S, batch: Batch) -> tuple[S, Metrics]:
        """One step of learning. The new state's `step` is one more.

        A metric called `halt/REASON` that is not 0 ends training with that reason. The state that
        comes with it is kept, unless the task has `sound`.
        """
        ...

    def eval_step(self, state: S, batch: Batch) -> Metrics:
        """The metrics of a batch, as sums over its unmasked examples."""
        ...

    def predict_step(self, state: S, batch: Batch) -> PyTree:
        """The outputs for a batch, with the batch as leading axis."""
        ...


@struct.dataclass
class Aux:
    """What the objective reports beside the loss.

    Attributes:
        weight: float32 scalar, the sum of the example weights behind the mean loss. It makes the
            gradients of parts of a batch add up to the gradient of the whole.
        collections: the model's other variables after the forward pass.
        metrics: mergeable sums.
        loss: what the objective came to, where `value_at` is known.
        value_at: the objective of this very step (batch, collections and random streams) as a
            function of the parameters, for optimizers that search along a line; None where a step
            has no such function.
    """

    weight: jax.Array
    collections: dict[str, PyTree]
    metrics: dict[str, PyTree]
    loss: jax.Array | None = None
    value_at: Callable[[PyTree], jax.Array] | None = struct.field(pytree_node=False, default=None)


class Inference(NamedTuple):
    """What predicts, free of all that is only for training.

    Attributes:
        network: the model as pure functions.
        preprocess: the function that goes before it.
        variables: the weights to predict with, as the network takes them.
    """

    network: Network
    preprocess: Callable[[Any], Any]
    variables: dict[str, PyTree]


AfterEvaluation = Callable[[Any, Mapping[str, jax.Array]], Any]
Objective = Callable[[PyTree, dict[str, PyTree], Batch, jax.Array], tuple[jax.Array, Aux]]


class Task(Steps[S]):
    """The four functions, and what a task may have besides: each None where it has none.

    A task of your own needs the four functions alone; what else it has goes by these names.

    Attributes:
        after_evaluation: `(state, row) -> state`, through which the state goes when an epoch was
            evaluated; `row` is the epoch's row of the history as float32 scalars.
        sound: `(before, after) -> bool`: with it, a step that ends training by a `halt/` metric
            leaves the last state that is sound.
        prediction_inputs: shape and type of one example's inputs in prediction, where that takes
            others than training does, as a generator takes noise.
        inference: `state -> Inference`, what `predict_step` predicts with.
        learning_rate: `state -> scalar`, that of the last step, asked for once an epoch.
        network_inputs: `batch -> inputs`, what the network is called with.
        map_network: `change -> task`, the same task with `change(network)`.
        map_optimizer: `change -> task`, the same task with `change(optimizer)`.
        check: `(outputs, columns, name)`, which raises `InputError` where data can't be for this
            task, before anything compiles.
        check_inputs: `inputs`, which raises `InputError` for values that the network can't take.
        diagnose: `(state, batch) -> str`, where the first NaN or infinity of a step comes from.
    """

    after_evaluation: AfterEvaluation | None = None
    sound: Callable[[Any, Any], Any] | None = None
    prediction_inputs: jax.ShapeDtypeStruct | None = None
    inference: Callable[[Any], Inference] | None = None
    learning_rate: Callable[[Any], jax.Array | None] | None = None
    network_inputs: Callable[[Batch], Any] | None = None
    map_network: Callable[[Callable[[Network], Network]], Any] | None = None
    map_optimizer: Callable[[Callable[[Optimizer], Optimizer]], Any] | None = None
    check: Callable[[PyTree, Mapping[str, Any], str], None] | None = None
    check_inputs: Callable[[np.ndarray], None] | None = None
    diagnose: Callable[[Any, Batch], str] | None = None


MEMBERS = tuple(Task.__annotations__)
"""The names of what a task may have besides the four functions."""


def as_task(task: Steps[Any]) -> Task[Any]:
    """The task with all members of `Task`: those that an object with the four functions lacks None.

    Example:
        >>> class Count:
        ...     def init(self, key, batch): return {"step": jnp.int32(0)}
        ...     def train_step(self, state, batch): return {"step": state["step"] + 1}, {}
        ...     def eval_step(self, state, batch): return {}
        ...     def predict_step(self, state, batch): return batch["inputs"]
        >>> as_task(Count()).sound is None
        True
    """
    if isinstance(task, Task):
        return task
    adopted: Any = object.__new__(Task)
    for name in ("init", "train_step", "eval_step", "predict_step", *MEMBERS):
        if hasattr(task, name):
            setattr(adopted, name, getattr(task, name))
    return adopted


class GradientTask(Task[TrainState]):
    """A task that learns by gradient descent: its step is two functions in a row.

    Techniques (`jaxnet.training.techniques`) step in at the level where they belong: the batch, the
    objective, the gradients, or the update.
    """

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step."""
        raise NotImplementedError

    def prepare(self, state: TrainState, batch: Batch) -> Batch:
        """The batch to learn from, before anything cuts it into parts: here it is augmented."""
        return batch

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The scalar loss to minimise: the mean over the weighted examples, plus penalties."""
        raise NotImplementedError

    def gradients(
        self, objective: Objective, state: TrainState, batch: Batch
    ) -> tuple[PyTree, Aux]:
        """The gradient of `objective` by the parameters.

        The objective comes as an argument so that an outer technique's reaches the innermost task.
        """
        raise NotImplementedError

    def apply_gradients(self, state: TrainState, grads: PyTree, aux: Aux) -> TrainState:
        """The state after one update."""
        raise NotImplementedError

    def takes(self, grads: PyTree) -> jax.Array | bool:
        """Whether `apply_gradients` learns from these; loss scaling leaves out an overflow."""
        return True

    def step_metrics(
        self, state: TrainState, batch: Batch, grads: PyTree, aux: Aux, taken: jax.Array
    ) -> Metrics:
        """What a step measures: here what the objective reported.

        Args:
            state: the state before the step.
            batch: the whole batch, prepared.
            grads: its gradient, which the update is going to be made of.
            aux: what came with it.
            taken: whether anything is learnt from it.
        """
        return aux.metrics

    def learning_rate(self, state: TrainState) -> jax.Array | None:
        """The learning rate of the last step, a scalar for the history; None where none is known.

        It is asked for once an epoch.
        """
        return None

    @property
    def after_evaluation(self) -> AfterEvaluation | None:
        """See `Task`; None where an evaluation changes nothing, which costs nothing."""
        return None

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of gradient descent; one on padding alone only counts."""
        batch = self.prepare(state, batch)
        grads, aux = self.gradients(self.objective, state, batch)
        with jax.named_scope(UPDATE):
            new = self.apply_gradients(state, grads, aux)
        real = aux.weight > 0
        metrics = self.step_metrics(state, batch, grads, aux, real & self.takes(grads))
        # On a gradient of zero, too, weight decay and momentum move parameters, and averages go on.
        return select(real, new, replace(state, step=new.step)), metrics

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The metrics of a batch, without dropout and with running statistics."""
        raise NotImplementedError

    def predict_step(self, state: TrainState, batch: Batch) -> PyTree:
        """The outputs for a batch."""
        raise NotImplementedError

    def inference(self, state: TrainState) -> Inference:
        """What `predict_step` predicts with."""
        raise NotImplementedError

    def network_inputs(self, batch: Batch) -> Any:
        """What the network is called with; a tuple for a module that takes several arrays."""
        raise NotImplementedError

    def map_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> GradientTask:
        """The same task with `change(optimizer)` in place of its optimizer."""
        raise NotImplementedError

    def map_network(self, change: Callable[[Network], Network]) -> GradientTask:
        """The same task with `change(network)` in place of its network."""
        raise NotImplementedError

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` where data can't be for this task; called before compiling."""

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` where the network can't take a value; called before compiling."""

    def diagnose(self, state: TrainState, batch: Batch) -> str:
        """Where the first NaN or infinity of a step comes from, in words."""
        return "this task can't tell its layers apart"


def example_weights(batch: Batch) -> jax.Array:
    """float32 (B,): the weight of each example, 0 where the row is padding.

    Example:
        >>> batch = {"inputs": jnp.ones((3, 2)), "mask": jnp.array([True, True, False])}
        >>> example_weights(batch)
        Array([1., 1., 0.], dtype=float32)
    """
    mask = batch["mask"]
    if "weights" not in batch:
        return mask.astype(jnp.float32)
    return jnp.where(mask, batch["weights"].astype(jnp.float32), jnp.zeros((), jnp.float32))


def with_layer_losses(loss: jax.Array, aux: Aux, batch: Batch) -> tuple[jax.Array, Aux]:
    """The loss and what layers put into the collection `"losses"`, which is gone from `aux`.

    Each is the loss of every example, (B,), such as that of `jaxnet.layers.ExpertFeedForward` for
    the balance of its experts. Their sum is reported as `penalty`.

    Example:
        >>> batch = {"mask": jnp.array([True, True, False])}
        >>> aux = Aux(jnp.float32(2), {"losses": {"mlp": (jnp.array([1.0, 2.0, 9.0]),)}}, {})
        >>> loss, aux = with_layer_losses(jnp.float32(4), aux, batch)
        >>> float(loss), aux.collections, aux.metrics["penalty"].compute()
        (5.5, {}, 1.5)
    """
    sown = jax.tree.leaves(aux.collections.get(LOSSES, ()))
    if not sown:
        return loss, aux
    weights = example_weights(batch)
    penalty = jnp.stack([weighted_mean(each, weights) for each in sown]).sum()
    collections = {name: kept for name, kept in aux.collections.items() if name != LOSSES}
    metrics = {**aux.metrics, "penalty": Mean(penalty * aux.weight, aux.weight, "min")}
    return loss + penalty, replace(aux, collections=collections, metrics=metrics)


def identity(inputs: jax.Array) -> jax.Array:
    """The inputs as they are."""
    return inputs
