"""Variational autoencoders: learn a distribution of images and sample new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.errors import UsageError
from jaxnet.losses.density import normal_divergence
from jaxnet.metrics import Mean, weighted_mean
from jaxnet.training.draws import normal
from jaxnet.training.own import example_losses
from jaxnet.training.state import PyTree, TrainState, stream
from jaxnet.training.task import Aux, Batch, Metrics, example_weights, with_layer_losses
from jaxnet.training.tasks.reconstruction import (
    Noise,
    Reconstruction,
    evaluation_keys,
    nothing,
    training_keys,
)


def fixed_binarization(key: jax.Array, example: jax.Array) -> jax.Array:
    """Threshold an example in [0, 1] at one half; the key isn't used."""
    return (example > 0.5).astype(example.dtype)


def stochastic_binarization(key: jax.Array, example: jax.Array) -> jax.Array:
    """Sample binary pixels with the values of an example in [0, 1] as probabilities.

    They are sampled again each time that the example is used in training (Salakhutdinov and Murray
    2008; Burda et al. 2016).
    """
    return jax.random.bernoulli(key, example).astype(example.dtype)


@dataclass(frozen=True)
class Variational(Reconstruction):
    """Variational autoencoder: encode images as normal distributions, decode samples of them.

    Kingma and Welling (2014), "Auto-encoding variational Bayes". The model has two methods:
    `encode` returns mean and log-variance (B, latent) of the latent code, `decode` the input of
    `loss`, for `jaxnet.losses.density.bernoulli` the logits of all pixels. The objective is the
    negative evidence lower bound, their equation 7 with one sample of the code, in nats per image:

        loss(decode(z), image) + beta KL(code || standard normal),   z = mean + deviation * noise

    Evaluation reports the bound itself as `elbo` (with beta 1) and its parts `reconstruction` and
    `kl`, and samples as `Reconstruction` does. Predictions are the decoded means of the codes.

    Attributes:
        loss: `-log p(image | z)`, summed over an image.
        beta: the weight of the KL divergence; values above 1 favour simpler codes (Higgins et al.
            2017).
        observe: maps an image in [0, 1] to the one to encode and reconstruct, such as
            `stochastic_binarization`. Without it grey values are the probabilities of white, and
            the bound is worse than with either binarisation.

    Raises:
        UsageError: beta is negative.
        InputError: the model lacks one of the methods (when its state is initialised).
    """

    beta: float = 1.0
    observe: Noise = nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"expected a beta of at least 0, got {self.beta}")

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The initial state; shapes come from `batch["inputs"]`."""
        for method in ("encode", "decode"):
            self.part(method)
        return super().init(key, batch)

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The negative bound, averaged over the weighted examples."""
        clean, weights = self.preprocess(batch["inputs"]), example_weights(batch)
        variables = {"params": params, **collections}
        bound = self._bound(variables, clean, training_keys(key, clean), key)
        losses = bound.reconstruction + self.beta * bound.kl
        aux = Aux(weights.sum(), bound.collections, self._sums(bound, weights))
        return with_layer_losses(weighted_mean(losses, weights), aux, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """`loss`, `elbo` and the bound's two parts."""
        clean, weights = self.preprocess(batch["inputs"]), example_weights(batch)
        variables = {"params": state.params, **state.collections}
        bound = self._bound(variables, clean, evaluation_keys(state, clean), None)
        elbo = -(bound.reconstruction + bound.kl)
        return {**self._sums(bound, weights), "elbo": Mean.of(elbo, weights, "max")}

    def encode(self, state: TrainState, inputs: jax.Array) -> jax.Array:
        """The means (B, latent) of the codes of inputs (B, ...)."""
        return super().encode(state, inputs)[0]

    def sample(self, state: TrainState, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Images (count, ...) decoded from codes sampled from the standard normal distribution.

        Each pixel is its probability of white, as is usually shown.

        Args:
            state: the trained state.
            key: the random key of the codes.
            shape: `(count, latent)`.
        """
        return self.decode(state, jax.random.normal(key, shape))

    def _bound(
        self, variables: dict[str, PyTree], clean: jax.Array, keys: jax.Array, key: jax.Array | None
    ) -> _Bound:
        """The bound of each example, sampled with its key of `keys`; `key` is for dropout."""
        train = key is not None
        seen, wanted = self._examples(keys, clean)
        (mean, log_variance), updated = self.part("encode").apply(variables, seen, train, key)
        draws = normal(_streams(keys, "code"), mean.shape[1:])
        codes = mean + jnp.exp(0.5 * log_variance) * draws
        variables = {"params": variables["params"], **updated}
        outputs, updated = self.part("decode").apply(variables, codes, train, key)
        divergence = normal_divergence(mean, log_variance)
        losses = example_losses(self.loss, outputs, wanted, len(wanted))
        return _Bound(losses, divergence, dict(updated))

    def _examples(self, keys: jax.Array, clean: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Noisy inputs and targets (B, ...), both after `observe`."""
        wanted = jax.vmap(self.observe)(_streams(keys, "observe"), clean)
        return jax.vmap(self.noise)(_streams(keys, "noise"), wanted), wanted

    def _sums(self, bound: _Bound, weights: jax.Array) -> dict[str, PyTree]:
        return {
            "loss": Mean.of(bound.reconstruction + self.beta * bound.kl, weights, "min"),
            "reconstruction": Mean.of(bound.reconstruction, weights, "min"),
            "kl": Mean.of(bound.kl, weights),
        }


class _Bound(NamedTuple):
    """The two terms (B,) of the negative bound, and the model's updated collections."""

    reconstruction: jax.Array
    kl: jax.Array
    collections: dict[str, PyTree]


def _streams(keys: jax.Array, name: str) -> jax.Array:
    return jax.vmap(lambda key: stream(key, name))(keys)
