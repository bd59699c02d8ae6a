"""Training as a value: what a task is, and the ordinary task of learning from labelled examples.

A task is a small immutable object with four pure functions over pytrees:

    init(key, batch)          -> state
    train_step(state, batch)  -> (state, metrics)
    eval_step(state, batch)   -> metrics
    predict_step(state, batch) -> outputs

`state` owns all that changes and has a `step`. `metrics` are mergeable sums, never means.
The loop (`Trainer`) knows nothing else of a task, so a GAN is a task like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxnet.data.numeric import check_distinct
from jaxnet.errors import InputError
from jaxnet.layers.experts import LOSSES
from jaxnet.losses.weighting import ignored_label
from jaxnet.metrics import Mean, weighted_mean
from jaxnet.training.network import Network, as_network
from jaxnet.training.nonfinite import first_nonfinite
from jaxnet.training.state import PyTree, TrainState, select, stream

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


# What a task may have besides the four functions of `Task`, and what is then asked of it by name.
OPTIONAL = (
    *("after_evaluation", "check", "check_inputs", "diagnose", "inference", "network_inputs"),
    *("prediction_inputs", "sound"),
)
# Those of its functions that give another task.
CHANGES = ("map_network", "map_optimizer")


class Task(Protocol[S]):
    """What can be trained: four pure functions. `S` is a pytree with an int32 `step`."""

    def init(self, key: jax.Array, batch: Batch) -> S:
        """The state before the first step; of `batch` only shapes and types matter."""
        ...

    def train_step(self, state: S, batch: Batch) -> tuple[S, Metrics]:
        """One step of learning. The new state's `step` is one more.

        A metric called `halt/REASON` that is not 0 ends training with that reason. The state that
        comes with it is kept, unless the task has a method `sound(before, after) -> bool`: then
        training goes back to the last state that is sound.

        Where a task has `after_evaluation(state, row) -> state`, the state goes through it when an
        epoch was evaluated; `row` is the epoch's row of the history as float32 scalars.
        """
        ...

    def eval_step(self, state: S, batch: Batch) -> Metrics:
        """The metrics of a batch, as sums over its unmasked examples."""
        ...

    def predict_step(self, state: S, batch: Batch) -> PyTree:
        """The outputs for a batch, with the batch as leading axis.

        Where it takes other inputs than training does, as a generator takes noise, the task says so
        by an attribute `prediction_inputs`, shape and type of one example's.
        """
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


class GradientTask:
    """A task that learns by gradient descent: its step is two functions in a row.

    Techniques (`jaxnet.training.transforms`) step in at the level where they belong: the batch, the
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

    @property
    def after_evaluation(self) -> AfterEvaluation | None:
        """See `Task.train_step`; None where an evaluation changes nothing, which costs nothing."""
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
    metrics = {**aux.metrics, "penalty": Mean(penalty * aux.weight, aux.weight)}
    return loss + penalty, replace(aux, collections=collections, metrics=metrics)


def targets(outputs: PyTree, batch: Batch) -> tuple[PyTree, jax.Array, jax.Array]:
    """What to compare with what, and how much each comparison counts.

    An example that was mixed from two (`jaxnet.data.augmentation.mixup`) is compared with both
    labels: with `labels` by the share `lam` of its weight, with `labels_b` by the rest. Whatever
    the loss, this makes it `lam * loss(labels) + (1 - lam) * loss(labels_b)`, as in Zhang et al.
    2018 and Yun et al. 2019, and metrics are shared alike.

    Args:
        outputs: (B, ...), the model's.
        batch: the batch; mixed where it has `labels_b` (B, ...) and `lam` (B,).

    Returns:
        Outputs, labels and float32 weights, with B rows, or 2 B where the batch is mixed.

    Example:
        >>> batch = {"labels": jnp.array([3]), "labels_b": jnp.array([5]), "lam": jnp.array([0.75]),
        ...          "mask": jnp.array([True])}
        >>> _, labels, weights = targets(jnp.zeros((1, 10)), batch)
        >>> labels.tolist(), weights.tolist()
        ([3, 5], [0.75, 0.25])
    """
    labels, weights = batch["labels"], example_weights(batch)
    if "labels_b" not in batch:
        return outputs, labels, weights
    lam = batch["lam"]
    return (
        jax.tree.map(lambda x: jnp.concatenate([x, x]), outputs),
        jnp.concatenate([labels, batch["labels_b"]]),
        jnp.concatenate([lam * weights, (1 - lam) * weights]),
    )


def identity(inputs: jax.Array) -> jax.Array:
    """The inputs as they are."""
    return inputs


@dataclass(frozen=True)
class Supervised(GradientTask):
    """Learn outputs from labelled examples.

    A batch is a dict: `inputs` (B, ...), `labels` (B, ...), `mask` (B,) and perhaps `weights` (B,).

    Attributes:
        model: a Linen module, or a `Network`.
        loss: `(outputs, labels) -> (B,)`, one float32 loss an example (`jaxnet.losses`).
        optimizer: an Optax transformation (`jaxnet.optimizers`).
        metrics: name -> `(outputs, labels, weights) -> sums` (`jaxnet.metrics`), reported in
            training and evaluation.
        eval_metrics: further metrics, in evaluation only.
        preprocess: a pure function on the inputs, run inside the compiled step, so that data may
            stay small (uint8) on the device.

    Example:
        >>> from jaxnet import losses
        >>> task = Supervised(nn.Dense(3), losses.cross_entropy, optax.sgd(0.1))
        >>> batch = {"inputs": jnp.ones((2, 4)), "labels": jnp.array([0, 2]),
        ...          "mask": jnp.array([True, True])}
        >>> state = task.init(jax.random.key(0), batch)
        >>> state, metrics = task.train_step(state, batch)
        >>> int(state.step), sorted(metrics)
        (1, ['loss'])
    """

    model: nn.Module | Network
    loss: Loss
    optimizer: Optimizer
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    eval_metrics: Mapping[str, Metric] = field(default_factory=dict)
    preprocess: Callable[[Any], Any] = identity

    @cached_property
    def network(self) -> Network:
        """The model as pure functions."""
        return as_network(self.model)

    def network_inputs(self, batch: Batch) -> Any:
        """What the network is called with; a tuple for a module that takes several arrays."""
        return self.preprocess(batch["inputs"])

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step; shapes come from `network_inputs`."""
        variables = dict(self.network.init(stream(key, "params"), self.network_inputs(batch)))
        params = variables.pop("params", {})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            collections=variables,
            opt_state=self.optimizer.init(params),
            key=key,
            memory={},
        )

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The weighted mean of the examples' losses, and of what layers add to them."""
        outputs, updated = self._forward(params, collections, batch, True, key)
        outputs, labels, weights = targets(outputs, batch)
        losses = self.loss(outputs, labels)
        metrics = self._metrics(self.metrics, losses, outputs, labels, weights)
        aux = Aux(weights.sum(), dict(updated), metrics)
        return with_layer_losses(weighted_mean(losses, weights), aux, batch)

    def gradients(
        self, objective: Objective, state: TrainState, batch: Batch
    ) -> tuple[PyTree, Aux]:
        """The gradient of `objective` by the parameters."""
        key = stream(state.key, "objective", state.step)
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (loss, aux), grads = differentiate(state.params, state.collections, batch, key)

        def value_at(params: PyTree) -> jax.Array:
            return objective(params, state.collections, batch, key)[0]

        return grads, replace(aux, loss=loss, value_at=value_at)

    def apply_gradients(self, state: TrainState, grads: PyTree, aux: Aux) -> TrainState:
        """One Optax update; a line search may evaluate the objective, see `Aux.value_at`."""
        optimizer = optax.with_extra_args_support(self.optimizer)
        # Optax mixes its integer counts with floats, which strict type promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                grads, state.opt_state, state.params, **_searchable(state.params, grads, aux)
            )
            params = optax.apply_updates(state.params, updates)
        return replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            collections=aux.collections,
        )

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """`loss`, `metrics` and `eval_metrics` of a batch."""
        outputs = self.predict_step(state, batch)
        losses = self.loss(outputs, batch["labels"])
        metrics = {**self.metrics, **self.eval_metrics}
        return self._metrics(metrics, losses, outputs, batch["labels"], example_weights(batch))

    def predict_step(self, state: TrainState, batch: Batch) -> PyTree:
        """The model's outputs, (B, ...)."""
        return self._forward(state.params, state.collections, batch, False, None)[0]

    def inference(self, state: TrainState) -> Inference:
        """The network, `preprocess`, and the state's parameters and collections."""
        variables = {"params": state.params, **state.collections}
        return Inference(self.network, self.preprocess, variables)

    def map_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> Supervised:
        """The same task with `change(optimizer)` in place of its optimizer."""
        return replace(self, optimizer=change(self.optimizer))

    def map_network(self, change: Callable[[Network], Network]) -> Supervised:
        """The same task with `change(network)` in place of its network."""
        return replace(self, model=change(self.network))

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` where labels and outputs can't belong together.

        Args:
            outputs: the shapes of what `predict_step` gives for a batch.
            columns: the data's arrays, with the example as leading axis; of what isn't in memory,
                which labels always are, the shapes of a batch.
            name: the data's name, for the message.
        """
        labels = columns["labels"]
        integer = jnp.issubdtype(labels.dtype, jnp.integer)
        if not hasattr(outputs, "shape") or not integer or outputs.ndim != labels.ndim + 1:
            return
        if outputs.shape[-1] == 1:  # a number or a logit, which no label can be outside of
            if isinstance(labels, np.ndarray):
                advice = "subtract a fixed number from them, and predict the difference"
                check_distinct(labels, f"{name}: labels", advice)
            return
        wrong = (labels < 0) | (labels >= outputs.shape[-1])
        if (ignored := ignored_label(self.loss)) is not None:
            wrong &= labels != ignored
        if wrong.any():
            row = int(wrong.reshape(len(labels), -1).any(axis=1).argmax())
            raise InputError(
                f"{name}: expected labels from 0 to {outputs.shape[-1] - 1}, because the model has "
                f"{outputs.shape[-1]} outputs; got {labels[row]} in row {row}. "
                "Give the model as many outputs as there are classes, or repair the labels."
            )

    def check_inputs(self, inputs: np.ndarray) -> None:
        """What the network checks (`Network.check_inputs`); inputs before `preprocess`."""
        self.network.check_inputs(inputs)

    def diagnose(self, state: TrainState, batch: Batch) -> str:
        """The first layer, or the first gradient, that isn't finite when `batch` is replayed."""
        key = stream(state.key, "objective", state.step)
        inputs = self.network_inputs(batch)
        variables = {"params": state.params, **state.collections}
        layers = self.network.layers(variables, inputs, key)
        loss, _ = self.objective(state.params, state.collections, batch, key)
        grads, _ = self.gradients(self.objective, state, batch)
        return first_nonfinite(
            [("the inputs", inputs), ("the parameters", state.params), *layers, ("the loss", loss)],
            grads,
        )

    def _forward(self, params, collections, batch, train, key):
        variables = {"params": params, **collections}
        return self.network.apply(variables, self.network_inputs(batch), train, key)

    def _metrics(self, metrics, losses, outputs, labels, weights):
        reported = {name: metric(outputs, labels, weights) for name, metric in metrics.items()}
        return {"loss": Mean.of(losses, weights), **reported}


def _searchable(params: PyTree, grads: PyTree, aux: Aux) -> dict[str, Any]:
    """What Optax's line searches take besides the gradient: the objective, and its value here."""
    value_at = aux.value_at
    if value_at is None:
        return {}

    def value_fn(seen: PyTree) -> jax.Array:
        # An optimizer of some parameters sees those alone; the others stay where they are.
        return value_at(
            jax.tree.map(lambda s, p: p if _masked(s) else s, seen, params, is_leaf=_masked)
        )

    return {"value": aux.loss, "grad": grads, "value_fn": value_fn}


def _masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
