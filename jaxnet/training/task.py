"""The task interface: the pure functions that define a training problem.

A task is a small immutable object with four pure functions over pytrees:

    init(key, batch)          -> state
    train_step(state, batch)  -> (state, metrics)
    eval_step(state, batch)   -> metrics
    predict_step(state, batch) -> outputs

`state` holds everything that training changes, including a `step`. `metrics` are mergeable sums,
never means. The loop (`Trainer`) needs nothing else, so a GAN is a task like any other; `Task`
declares the optional members.
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

# The prefix of metrics that end training; see `Steps.train_step`.
HALT = "halt/"
# The named scope, as profilers show it, of the optimizer update.
UPDATE = "update"


class Steps(Protocol[S]):
    """The four pure functions that a trainer needs. `S` is a pytree with an int32 `step`."""

    def init(self, key: jax.Array, batch: Batch) -> S:
        """The initial state; only the shapes and dtypes of `batch` matter."""
        ...

    def train_step(self, state: S, batch: Batch) -> tuple[S, Metrics]:
        """Take one training step; it increments `step`.

        A nonzero metric called `halt/REASON` ends training with that reason and the returned
        state, unless the task has `sound`.
        """
        ...

    def eval_step(self, state: S, batch: Batch) -> Metrics:
        """The metrics of a batch, as sums over its unmasked examples."""
        ...

    def predict_step(self, state: S, batch: Batch) -> PyTree:
        """The outputs for a batch, with the example as leading axis."""
        ...


@struct.dataclass
class Aux:
    """Auxiliary outputs of the objective, beside the loss.

    Attributes:
        weight: float32 scalar, the sum of the example weights behind the mean loss. With it the
            gradients of micro-batches add up to the gradient of the whole batch.
        collections: the model's other variables after the forward pass.
        metrics: mergeable sums.
        loss: the value of the objective, if `value_at` is given.
        value_at: the objective of this step, with its batch, collections and random streams, as a
            function of the parameters, for optimizers with a line search; None if there is none.
    """

    weight: jax.Array
    collections: dict[str, PyTree]
    metrics: dict[str, PyTree]
    loss: jax.Array | None = None
    value_at: Callable[[PyTree], jax.Array] | None = struct.field(pytree_node=False, default=None)


class Inference(NamedTuple):
    """A trained model for inference, without anything that only training needs.

    Attributes:
        network: the model as pure functions.
        preprocess: the function applied to its inputs.
        variables: the weights to predict with, in the network's format.
    """

    network: Network
    preprocess: Callable[[Any], Any]
    variables: dict[str, PyTree]


AfterEvaluation = Callable[[Any, Mapping[str, jax.Array]], Any]
Objective = Callable[[PyTree, dict[str, PyTree], Batch, jax.Array], tuple[jax.Array, Aux]]


class Task(Steps[S]):
    """The four functions and the optional members of a task, each None if absent.

    A custom task needs only the four functions; optional members go by these names.

    Attributes:
        after_evaluation: `(state, row) -> state`, applied to the state after the evaluation of each
            epoch; `row` is the epoch's row of the history as float32 scalars.
        sound: `(before, after) -> bool`; if given, a step that ends training by a `halt/` metric
            leaves the last state for which it holds.
        prediction_inputs: shape and dtype of one example's inputs in prediction, if they differ
            from those in training, such as a generator's noise.
        inference: `state -> Inference`, the model that `predict_step` uses.
        learning_rate: `state -> scalar`, that of the last step, read once per epoch.
        network_inputs: `batch -> inputs`, the arguments of the network.
        map_network: `change -> task`, the same task with `change(network)`.
        map_optimizer: `change -> task`, the same task with `change(optimizer)`.
        check: `(outputs, columns, name)`, raises `InputError` if data doesn't fit this task, before
            anything compiles.
        check_inputs: `inputs`, raises `InputError` for values that the network can't accept.
        diagnose: `(state, batch) -> str`, the origin of the first NaN or infinity of a step.
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
"""The names of the optional members of a task."""


def as_task(task: Steps[Any]) -> Task[Any]:
    """The task with all members of `Task`; those that it lacks are None.

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
    """A task that learns by gradient descent: a step is `gradients`, then `apply_gradients`.

    Techniques (`jaxnet.training.techniques`) override the level that they change: the batch, the
    objective, the gradients, or the update.
    """

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The initial state."""
        raise NotImplementedError

    def prepare(self, state: TrainState, batch: Batch) -> Batch:
        """Transform the training batch before it is split into micro-batches: augmentation."""
        return batch

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The scalar loss to minimise: the mean over the weighted examples, plus penalties."""
        raise NotImplementedError

    def gradients(
        self, objective: Objective, state: TrainState, batch: Batch
    ) -> tuple[PyTree, Aux]:
        """The gradient of `objective` with respect to the parameters.

        The objective is an argument so that an outer technique's reaches the innermost task.
        """
        raise NotImplementedError

    def apply_gradients(self, state: TrainState, grads: PyTree, aux: Aux) -> TrainState:
        """The state after one update."""
        raise NotImplementedError

    def takes(self, grads: PyTree) -> jax.Array | bool:
        """Whether `apply_gradients` applies these; loss scaling skips an overflow."""
        return True

    def step_metrics(
        self, state: TrainState, batch: Batch, grads: PyTree, aux: Aux, taken: jax.Array
    ) -> Metrics:
        """The metrics of a step, by default those of the objective.

        Args:
            state: the state before the step.
            batch: the whole batch, after `prepare`.
            grads: its gradient, as passed to the update.
            aux: the auxiliary outputs of `gradients`.
            taken: whether the update is applied.
        """
        return aux.metrics

    def learning_rate(self, state: TrainState) -> jax.Array | None:
        """The learning rate of the last step, a scalar for the history; None if unknown.

        It is read once per epoch.
        """
        return None

    @property
    def after_evaluation(self) -> AfterEvaluation | None:
        """`(state, row) -> state`, applied after each evaluation; None, the default, is free."""
        return None

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Take one step of gradient descent; a batch of padding alone only increments `step`."""
        batch = self.prepare(state, batch)
        grads, aux = self.gradients(self.objective, state, batch)
        with jax.named_scope(UPDATE):
            new = self.apply_gradients(state, grads, aux)
        real = aux.weight > 0
        metrics = self.step_metrics(state, batch, grads, aux, real & self.takes(grads))
        # Weight decay, momentum and moving averages change the state even for a zero gradient.
        return select(real, new, replace(state, step=new.step)), metrics

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """The metrics of a batch in evaluation mode: no dropout, running statistics."""
        raise NotImplementedError

    def predict_step(self, state: TrainState, batch: Batch) -> PyTree:
        """The outputs for a batch."""
        raise NotImplementedError

    def inference(self, state: TrainState) -> Inference:
        """The model that `predict_step` uses."""
        raise NotImplementedError

    def network_inputs(self, batch: Batch) -> Any:
        """The network's arguments; a tuple for a module that takes several arrays."""
        raise NotImplementedError

    def map_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> GradientTask:
        """The same task with `change(optimizer)` in place of its optimizer."""
        raise NotImplementedError

    def map_network(self, change: Callable[[Network], Network]) -> GradientTask:
        """The same task with `change(network)` in place of its network."""
        raise NotImplementedError

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` if data doesn't fit this task; called before compiling."""

    def check_inputs(self, inputs: np.ndarray) -> None:
        """Raise `InputError` if the network can't accept a value; called before compiling."""

    def diagnose(self, state: TrainState, batch: Batch) -> str:
        """Describe where the first NaN or infinity of a step comes from."""
        return "this task can't tell its layers apart"


def example_weights(batch: Batch) -> jax.Array:
    """The weight of each example, float32 (B,); 0 for padding.

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
    """Add the losses that layers sowed into the collection `"losses"`, and remove it from `aux`.

    Each is a loss per example, (B,), such as the load-balancing loss of
    `jaxnet.layers.ExpertFeedForward`. Their sum is reported as `penalty`.

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
    """Return the inputs unchanged."""
    return inputs
