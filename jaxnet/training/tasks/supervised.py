"""The ordinary task: to learn outputs from labelled examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.data.numeric import check_distinct
from jaxnet.data.scaling import PerInput
from jaxnet.errors import InputError, UsageError
from jaxnet.losses import check_labels
from jaxnet.metrics import Mean, weighted_mean
from jaxnet.metrics.by_name import Named, by_name
from jaxnet.optimizers import learning_rate_of, rated_as
from jaxnet.training.adapters import Model, as_network
from jaxnet.training.network import Network
from jaxnet.training.nonfinite import first_nonfinite
from jaxnet.training.own import as_loss, as_optimizer, example_losses
from jaxnet.training.state import PyTree, TrainState, stream
from jaxnet.training.task import (
    Aux,
    Batch,
    GradientTask,
    Inference,
    Loss,
    Metric,
    Metrics,
    Objective,
    Optimizer,
    example_weights,
    identity,
    with_layer_losses,
)
from jaxnet.training.tasks.named_outputs import NamedLosses, loss_metrics, named_metrics


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
    labels, weights = labels_of(batch), example_weights(batch)
    if "labels_b" not in batch:
        return outputs, labels, weights
    lam = batch["lam"]
    return (
        jax.tree.map(lambda x: jnp.concatenate([x, x]), outputs),
        jax.tree.map(lambda a, b: jnp.concatenate([a, b]), labels, batch["labels_b"]),
        jnp.concatenate([lam * weights, (1 - lam) * weights]),
    )


def labels_of(batch: Batch) -> PyTree:
    """The labels of a batch.

    Raises:
        InputError: it has none.
    """
    if "labels" not in batch:
        raise InputError(
            f"expected batches with labels to learn from, got {', '.join(batch)}: give pairs "
            "(inputs, labels), or name the columns"
        )
    return batch["labels"]


@dataclass(frozen=True)
class Supervised(GradientTask):
    """Learn outputs from labelled examples.

    A batch is a dict: `inputs` (B, ...), `labels` (B, ...), `mask` (B,) and perhaps `weights` (B,).
    Inputs and labels may be dicts of arrays, where a model has several inputs or outputs.

    Attributes:
        model: a Flax module, Linen or NNX, or a `Network`; see `as_network`.
        loss: `(outputs, labels) -> (B,)`, one float32 loss an example, or the name of one of
            `jaxnet.losses`. A model that gives a dict of outputs has a dict of losses, by the names
            of the outputs; what is minimised is their weighted sum.
        optimizer: an Optax transformation, or the name of one of `jaxnet.optimizers`, which then
            has its usual learning rate.
        metrics: name -> metric, or a list of metrics, reported in training and evaluation. A metric
            is one of `jaxnet.metrics`, or the name of one, or a function of one's own
            (`jaxnet.metrics.own`). With a dict of losses: a dict of metrics for each output, which
            are reported as `OUTPUT_METRIC`; `OUTPUT_loss` is reported besides.
        eval_metrics: further metrics, in evaluation only.
        preprocess: a pure function on the inputs, run inside the compiled step, so that data may
            stay small (uint8) on the device. A dict of functions where there are several inputs.
        loss_weights: output -> factor of its loss, with a dict of losses; 1 by default.

    Raises:
        UsageError: there is no loss, optimizer or metric of that name.

    Example:
        >>> import flax.linen as nn
        >>> task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
        >>> batch = {"inputs": jnp.ones((2, 4)), "labels": jnp.array([0, 2]),
        ...          "mask": jnp.array([True, True])}
        >>> state = jax.jit(task.init)(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(task.train_step)(state, batch)
        >>> int(state.step), sorted(metrics)
        (1, ['accuracy', 'loss'])
    """

    model: Model
    loss: Loss
    optimizer: Optimizer
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    eval_metrics: Mapping[str, Metric] = field(default_factory=dict)
    preprocess: Callable[[Any], Any] = identity
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            model: Model,
            loss: Loss | str | Mapping[str, Loss | str],
            optimizer: Optimizer | str,
            metrics: Named | Mapping[str, Named] = ...,
            eval_metrics: Named | Mapping[str, Named] = ...,
            preprocess: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] = ...,
            loss_weights: Mapping[str, float] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if isinstance(self.preprocess, Mapping):
            object.__setattr__(self, "preprocess", PerInput(self.preprocess))
        if isinstance(self.loss, Mapping):
            losses = NamedLosses(self.loss, self.loss_weights)
            object.__setattr__(self, "loss", losses)
            metrics = {**loss_metrics(losses), **named_metrics(self.metrics, losses)}
            object.__setattr__(self, "metrics", metrics)
            object.__setattr__(self, "eval_metrics", named_metrics(self.eval_metrics, losses))
            return
        object.__setattr__(self, "loss", as_loss(self.loss))
        if self.loss_weights and not isinstance(self.loss, NamedLosses):
            raise UsageError("loss_weights: expected a dict of losses with it, got a single loss")
        for kind in ("metrics", "eval_metrics"):
            object.__setattr__(self, kind, by_name(getattr(self, kind)))

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
        losses = example_losses(self.loss, outputs, labels, len(weights))
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
        labels, weights = labels_of(batch), example_weights(batch)
        losses = example_losses(self.loss, outputs, labels, len(weights))
        metrics = {**self.metrics, **self.eval_metrics}
        return self._metrics(metrics, losses, outputs, labels, weights)

    def predict_step(self, state: TrainState, batch: Batch) -> PyTree:
        """The model's outputs, (B, ...)."""
        return self._forward(state.params, state.collections, batch, False, None)[0]

    def inference(self, state: TrainState) -> Inference:
        """The network, `preprocess`, and the state's parameters and collections."""
        variables = {"params": state.params, **state.collections}
        return Inference(self.network, self.preprocess, variables)

    def learning_rate(self, state: TrainState) -> jax.Array | None:
        """What the optimizer's schedule gave in the last step."""
        return learning_rate_of(self.optimizer, state.opt_state, state.step)

    def map_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> Supervised:
        """The same task with `change(optimizer)` in place of its optimizer."""
        return replace(self, optimizer=rated_as(self.optimizer, change(self.optimizer)))

    def map_network(self, change: Callable[[Network], Network]) -> Supervised:
        """The same task with `change(network)` in place of its network."""
        return replace(self, model=change(self.network))

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` where the loss doesn't take a label (`jaxnet.losses.check_labels`).

        Args:
            outputs: the shapes of what `predict_step` gives for a batch.
            columns: the data's arrays, with the example as leading axis; of what isn't in memory,
                which labels always are, the shapes of a batch.
            name: the data's name, for the message.
        """
        if isinstance(self.loss, NamedLosses):
            self.loss.check(outputs, columns["labels"], name)
            for each in self.loss.each(outputs, columns["labels"], name):
                _check_labels(*each)
        elif isinstance(outputs, Mapping):
            raise InputError(
                f"the model gives {', '.join(outputs)}, and there is one loss: give a dict of them "
                "by these names"
            )
        else:
            _check_labels(self.loss, outputs, columns["labels"], name)

    def check_inputs(self, inputs: Any) -> None:
        """What the network checks (`Network.check_inputs`); inputs before `preprocess`."""
        self.network.check_inputs(inputs)

    def diagnose(self, state: TrainState, batch: Batch) -> str:
        """The first layer, or the first gradient, that isn't finite when `batch` is replayed.

        Or a label that the loss doesn't take, which the check before training can't see in data
        that is read as it goes.
        """
        try:
            columns = jax.tree.map(np.asarray, dict(batch))
            self.check(jax.eval_shape(self.predict_step, state, batch), columns, "the batch")
        except InputError as error:
            return str(error)
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
        return {"loss": Mean.of(losses, weights, "min"), **reported}


def _check_labels(loss: Loss, outputs: Any, labels: Any, name: str) -> None:
    labels, shape = np.asarray(labels), getattr(outputs, "shape", ())
    check_labels(loss, labels, shape, name)
    if labels.dtype.kind in "ui" and shape[1:] == (*labels.shape[1:], 1):
        advice = "subtract a fixed number from them, and predict the difference"
        check_distinct(labels, f"{name}: labels", advice)


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
