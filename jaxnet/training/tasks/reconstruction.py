"""Autoencoders: reconstruct the inputs, optionally from noisy ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError, UsageError
from jaxnet.losses.labels import check_labels, checks_labels
from jaxnet.metrics import weighted_mean
from jaxnet.training.draws import example_keys
from jaxnet.training.network import Network
from jaxnet.training.own import example_losses
from jaxnet.training.state import PyTree, TrainState, stream
from jaxnet.training.task import (
    Aux,
    Batch,
    Metrics,
    example_weights,
    with_layer_losses,
)
from jaxnet.training.tasks.supervised import Supervised

# The number of inputs that are checked at a time.
_ROWS_AT_ONCE = 4096

Noise = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, example) -> example`, applied to each example after `preprocess`."""


def nothing(key: jax.Array, example: jax.Array) -> jax.Array:
    """Return the example unchanged: no noise."""
    return example


@dataclass(frozen=True)
class GaussianNoise:
    """Additive Gaussian noise.

    Attributes:
        deviation: the standard deviation, in units of the preprocessed inputs.

    Raises:
        UsageError: it isn't positive.
    """

    deviation: float

    def __post_init__(self) -> None:
        if not 0 < self.deviation < float("inf"):
            raise UsageError(f"noise: expected a positive deviation, got {self.deviation}")

    def __call__(self, key: jax.Array, example: jax.Array) -> jax.Array:
        """Add noise to an example."""
        return example + self.deviation * jax.random.normal(key, example.shape, example.dtype)


@dataclass(frozen=True)
class MaskingNoise:
    """Masking noise: set values to 0 independently (Vincent et al. 2008, section 2.3).

    Attributes:
        share: the probability that a value is set to 0.

    Raises:
        UsageError: it isn't in (0, 1).
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"noise: expected a share in (0, 1), got {self.share}")

    def __call__(self, key: jax.Array, example: jax.Array) -> jax.Array:
        """Mask an example."""
        kept = jax.random.bernoulli(key, 1 - self.share, example.shape)
        return jnp.where(kept, example, jnp.zeros_like(example))


@dataclass(frozen=True)
class Reconstruction(Supervised):
    """Autoencoder: learn to reconstruct the inputs; labels are ignored.

    With `noise` it is the denoising autoencoder of Vincent et al. (2008), "Extracting and composing
    robust features with denoising autoencoders": the network sees noisy inputs, and the loss and
    the metrics compare its outputs with the clean ones. In evaluation the noise depends only on a
    fixed key and the example, so that it is reproducible for any order and batch size. Prediction
    adds no noise.

    The inputs after `preprocess` are both inputs and targets: scale them to the range of the
    outputs (`jaxnet.data.fit_range` for outputs in [0, 1]).

    Attributes:
        noise: the noise added to the inputs.

    Example:
        >>> import flax.linen as nn, optax
        >>> from jaxnet import losses
        >>> task = Reconstruction(nn.Dense(4), losses.squared_error, optax.sgd(0.1))
        >>> batch = {"inputs": jnp.ones((2, 4)), "mask": jnp.array([True, True])}
        >>> state = jax.jit(task.init)(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(task.train_step)(state, batch)
        >>> sorted(metrics)
        ['loss']
    """

    noise: Noise = nothing

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The weighted mean of the losses per example, against the clean inputs."""
        clean = self.preprocess(batch["inputs"])
        seen, clean = self._examples(training_keys(key, clean), clean)
        variables = {"params": params, **collections}
        outputs, updated = self.network.apply(variables, seen, True, key)
        weights = example_weights(batch)
        losses = example_losses(self.loss, outputs, clean, len(weights))
        metrics = self._metrics(self.metrics, losses, outputs, clean, weights)
        aux = Aux(weights.sum(), dict(updated), metrics)
        return with_layer_losses(weighted_mean(losses, weights), aux, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """`loss`, `metrics` and `eval_metrics` of a batch."""
        clean = self.preprocess(batch["inputs"])
        seen, clean = self._examples(evaluation_keys(state, clean), clean)
        variables = {"params": state.params, **state.collections}
        outputs, _ = self.network.apply(variables, seen, False, None)
        weights, metrics = example_weights(batch), {**self.metrics, **self.eval_metrics}
        losses = example_losses(self.loss, outputs, clean, len(weights))
        return self._metrics(metrics, losses, outputs, clean, weights)

    def spoilt(self, state: TrainState, inputs: jax.Array) -> jax.Array:
        """The network's inputs (B, ...) in evaluation: preprocessed, with noise."""
        clean = self.preprocess(inputs)
        return self._examples(evaluation_keys(state, clean), clean)[0]

    def encode(self, state: TrainState, inputs: jax.Array) -> Any:
        """The codes (B, latent) of inputs (B, ...), from the model's method `encode`."""
        return self._part("encode", state, self.preprocess(inputs))

    def decode(self, state: TrainState, codes: jax.Array) -> jax.Array:
        """Images (B, ...) in [0, 1] decoded from codes (B, latent).

        They are the sigmoid of the logits from the model's method `decode`.
        """
        return jax.nn.sigmoid(self._part("decode", state, codes))

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` if output and input shapes differ, or the loss rejects the inputs."""
        inputs = columns["inputs"]
        expected = inputs.shape[1:]
        if outputs.shape[1:] != expected:
            raise InputError(
                f"{name}: the model gives outputs of shape {outputs.shape[1:]} for inputs of shape "
                f"{expected}: to reconstruct them it needs outputs of the same shape"
            )
        if not isinstance(inputs, np.ndarray) or not checks_labels(self.loss):
            return
        # In parts, because preprocessing turns bytes, which may fill the memory, into floats.
        for start in range(0, len(inputs), _ROWS_AT_ONCE):
            clean = np.asarray(self.preprocess(inputs[start : start + _ROWS_AT_ONCE]))
            where = f"{name}: inputs, as preprocess gives them"
            check_labels(self.loss, clean, outputs.shape, where, start)

    def part(self, method: str) -> Network:
        """A method of the model as a network, with the same transformations as the model's.

        Raises:
            InputError: the model has no such method.
        """
        if not hasattr(self.network.module, method):
            raise InputError(
                f"{type(self).__name__} needs a Linen module with a method {method}, such as those "
                f"of models/autoencoder.py; got {type(self.network.module or self.model).__name__}"
            )
        return self.network.part(method)

    def _examples(self, keys: jax.Array, clean: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Noisy inputs and targets (B, ...), with a random key for each example."""
        return jax.vmap(self.noise)(keys, clean), clean

    def _part(self, method: str, state: TrainState, inputs: jax.Array) -> Any:
        variables = {"params": state.params, **state.collections}
        return self.part(method).apply(variables, inputs, False, None)[0]


def training_keys(key: jax.Array, inputs: jax.Array) -> jax.Array:
    """The keys of a training step, one per example, (B,)."""
    return jax.random.split(stream(key, "noise"), len(inputs))


def evaluation_keys(state: TrainState, inputs: jax.Array) -> jax.Array:
    """The keys of evaluation, (B,), a function of the example."""
    return example_keys(stream(state.key, "evaluation"), inputs)
