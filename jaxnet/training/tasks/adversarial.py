"""Generative adversarial networks.

The generator maps noise to examples, the discriminator scores how real an example looks
(Goodfellow et al. 2014, "Generative adversarial nets"). A training step is one or more
discriminator steps, each on its own examples, and then one generator step (their algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnet.errors import InputError, UsageError
from jaxnet.losses.adversarial import GAMES, GanLoss
from jaxnet.metrics import Mean, merge, weighted_mean
from jaxnet.optimizers import learning_rate_of
from jaxnet.training.adapters import as_network
from jaxnet.training.draws import example_keys, normal
from jaxnet.training.network import Network
from jaxnet.training.state import PyTree, select, stream
from jaxnet.training.task import (
    Batch,
    Inference,
    Metrics,
    Optimizer,
    Task,
    example_weights,
    identity,
)
from jaxnet.training.techniques.ema import MovingAverage, check_decay


@struct.dataclass
class NetworkState:
    """The state of one of the two networks: parameters, other variables, optimizer state."""

    params: PyTree
    collections: dict[str, PyTree]
    opt_state: PyTree


@struct.dataclass
class GameState:
    """The training state of a GAN.

    Attributes:
        step: int32 scalar, the number of steps taken.
        generator: the state of the generator.
        discriminator: the state of the discriminator.
        average: the moving average (`with_ema`) of the generator's parameters and other variables;
            empty without one.
        key: the root key of all randomness, which never changes.
    """

    step: jax.Array
    generator: NetworkState
    discriminator: NetworkState
    average: PyTree
    key: jax.Array

    @property
    def params(self) -> dict[str, PyTree]:
        """The parameters of both networks."""
        return {"generator": self.generator.params, "discriminator": self.discriminator.params}


@dataclass(frozen=True)
class Adversarial(Task[GameState]):
    """Adversarial training of a generator on examples `inputs` (B, ...); labels are ignored.

    Padding excluded by `mask` counts for neither network, and `weights` weight the examples as in
    other tasks. (Batch normalisation uses all rows, as in every task.)

    Train it with `jaxnet.training.early_stopping.LAST_STEP`, because neither loss measures the
    quality of the examples. Techniques that change a gradient or an objective are refused, because
    there are two of each; `guard_nonfinite` is supported.

    Attributes:
        generator: maps noise (B, latent) to examples of the inputs' shape, on the scale of
            `preprocess`.
        discriminator: maps examples to scores (B, 1) or (B,).
        optimizer: the generator's optimizer.
        discriminator_optimizer: the discriminator's optimizer.
        game: the losses of both networks (`jaxnet.losses.adversarial.GAMES`).
        latent: the dimension of the normally distributed noise.
        critic_steps: discriminator steps per generator step. The batch is split into this many
            parts, one for each of them.
        gradient_penalty: the weight of `gradient_penalty` in the discriminator's loss; 10 in
            Gulrajani et al. 2017.
        ema: the decay of a moving average of the generator's weights (`with_ema`), used for
            evaluation and prediction; None uses the weights themselves.
        preprocess: a pure function on the inputs, such as `jaxnet.data.fit_symmetric`.

    Raises:
        UsageError: a number is out of range; or, at compile time, `critic_steps` doesn't divide the
            batch, or there is a gradient penalty on a discriminator with batch normalisation.

    Example:
        >>> sgd = optax.sgd(0.1)
        >>> task = Adversarial(nn.Dense(2), nn.Dense(1), sgd, sgd, latent=3)
        >>> batch = {"inputs": jnp.ones((4, 2)), "mask": jnp.array([True, True, True, False])}
        >>> state = jax.jit(task.init)(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(task.train_step)(state, batch)
        >>> sorted(metrics)
        ['discriminator_loss', 'generated_score', 'generator_loss', 'real_score']
        >>> jax.jit(task.predict_step)(state, {"inputs": jnp.zeros((5, 3))}).shape
        (5, 2)
    """

    generator: nn.Module | Network
    discriminator: nn.Module | Network
    optimizer: Optimizer
    discriminator_optimizer: Optimizer
    game: GanLoss = GAMES["non_saturating"]
    latent: int = 100
    critic_steps: int = 1
    gradient_penalty: float = 0.0
    ema: float | None = None
    preprocess: Callable[[Any], Any] = identity

    def __post_init__(self) -> None:
        for name in ("latent", "critic_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.gradient_penalty < float("inf"):
            raise UsageError(
                f"expected a gradient_penalty of at least 0, got {self.gradient_penalty}"
            )
        if self.ema is not None:
            check_decay(self.ema, "ema")

    @cached_property
    def generates(self) -> Network:
        """The generator as pure functions."""
        return as_network(self.generator)

    @cached_property
    def scores(self) -> Network:
        """The discriminator as pure functions."""
        return as_network(self.discriminator)

    def map_network(self, change: Callable[[Network], Network]) -> Adversarial:
        """The same task with `change(network)` in place of each of the two networks."""
        return replace(self, generator=change(self.generates), discriminator=change(self.scores))

    def learning_rate(self, state: GameState) -> jax.Array | None:
        """The learning rate of the generator's optimizer in the last step."""
        return learning_rate_of(self.optimizer, state.generator.opt_state, state.step)

    @property
    def prediction_inputs(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one example's inputs in prediction: noise."""
        return jax.ShapeDtypeStruct((self.latent,), jnp.float32)

    def init(self, key: jax.Array, batch: Batch) -> GameState:
        """The initial state; shapes come from `batch["inputs"]`."""
        real = self.preprocess(batch["inputs"])
        noise = jnp.zeros((len(real), self.latent))
        generator = _network_state(self.generates, self.optimizer, stream(key, "generator"), noise)
        discriminator = _network_state(
            self.scores, self.discriminator_optimizer, stream(key, "discriminator"), real
        )
        self._check(generator, discriminator, real)
        average = {} if self.ema is None else MovingAverage.of(_variables(generator))
        return GameState(jnp.zeros((), jnp.int32), generator, discriminator, average, key)

    def train_step(self, state: GameState, batch: Batch) -> tuple[GameState, Metrics]:
        """Take `critic_steps` discriminator steps, then one generator step."""
        critic, metrics = state.discriminator, None
        parts = self._parts(batch)
        # Unrolled, because convolutions inside `lax.scan` are slow on a CPU.
        for number, part in enumerate(parts):
            key = jax.random.fold_in(stream(state.key, "discriminator", state.step), number)
            critic, measured = self._discriminator_step(state.generator, critic, part, key)
            metrics = measured if metrics is None else merge(metrics, measured)
        key = stream(state.key, "generator", state.step)
        generator, loss = self._generator_step(state.generator, critic, parts[-1], key)
        average = state.average
        if self.ema is not None:
            moved = average.moved(_variables(generator), self.ema)
            average = select(example_weights(parts[-1]).sum() > 0, moved, average)
        state = replace(
            state, step=state.step + 1, generator=generator, discriminator=critic, average=average
        )
        return state, {"generator_loss": loss, **(metrics or {})}

    def eval_step(self, state: GameState, batch: Batch) -> Metrics:
        """The losses and scores on these examples and on generated ones, reproducibly.

        Compared with the scores in training they show how much the discriminator overfits.
        """
        real, weights = self.preprocess(batch["inputs"]), example_weights(batch)
        keys = example_keys(stream(state.key, "evaluation"), batch["inputs"])
        generated = self.predict_step(state, {"inputs": normal(keys, (self.latent,))})
        critic = state.discriminator
        score = partial(self._scores, critic.params, critic.collections, train=False, key=None)
        scores = score(generated)[0]
        loss = Mean.of(self.game.generator(scores), weights)
        return {"generator_loss": loss, **self._measured(score(real)[0], scores, weights)}

    def predict_step(self, state: GameState, batch: Batch) -> PyTree:
        """Generate examples from noise `batch["inputs"]` (B, latent), in `preprocess` scale."""
        variables = self.inference(state).variables
        return self.generates.apply(variables, batch["inputs"], False, None)[0]

    def inference(self, state: GameState) -> Inference:
        """The generator, with averaged weights if `ema` is set."""
        variables = _variables(state.generator)
        if self.ema is not None:
            variables = state.average.like(variables)
        return Inference(
            self.generates, identity, {"params": variables["params"], **variables["collections"]}
        )

    def _discriminator_step(
        self, generator: NetworkState, critic: NetworkState, batch: Batch, key: jax.Array
    ) -> tuple[NetworkState, dict[str, PyTree]]:
        real, weights = self.preprocess(batch["inputs"]), example_weights(batch)
        generated, _ = self._generated(generator.params, generator, len(real), key)
        generated = jax.lax.stop_gradient(generated)

        def objective(params: PyTree) -> tuple[jax.Array, Any]:
            score = partial(self._scores, params, train=True)
            real_scores, seen = score(critic.collections, real, key=stream(key, "real"))
            scores, seen = score(seen, generated, key=stream(key, "generated"))
            losses = self.game.real(real_scores) + self.game.generated(scores)
            metrics = self._measured(real_scores, scores, weights)
            if self.gradient_penalty:
                # One dropout key for all examples, as for a batch.
                points = partial(score, critic.collections, key=stream(key, "penalty"))
                penalties = gradient_penalty(
                    lambda x: points(x)[0], real, generated, stream(key, "between")
                )
                losses += self.gradient_penalty * penalties
                metrics["gradient_penalty"] = Mean.of(penalties, weights)
            return weighted_mean(losses, weights), (seen, metrics)

        grads, (collections, metrics) = jax.grad(objective, has_aux=True)(critic.params)
        new = _updated(critic, self.discriminator_optimizer, grads, collections)
        # An optimizer with momentum changes parameters even for a zero gradient.
        return select(weights.sum() > 0, new, critic), metrics

    def _generator_step(
        self, generator: NetworkState, critic: NetworkState, batch: Batch, key: jax.Array
    ) -> tuple[NetworkState, Mean]:
        weights = example_weights(batch)

        def objective(params: PyTree) -> tuple[jax.Array, Any]:
            generated, collections = self._generated(params, generator, len(weights), key)
            scores, _ = self._scores(
                critic.params, critic.collections, generated, True, stream(key, "scores")
            )
            losses = self.game.generator(scores)
            return weighted_mean(losses, weights), (collections, Mean.of(losses, weights))

        grads, (collections, loss) = jax.grad(objective, has_aux=True)(generator.params)
        new = _updated(generator, self.optimizer, grads, collections)
        return select(weights.sum() > 0, new, generator), loss

    def _generated(
        self, params: PyTree, generator: NetworkState, count: int, key: jax.Array
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """Generated examples in training mode, and the generator's updated collections."""
        noise = jax.random.normal(stream(key, "noise"), (count, self.latent))
        variables = {"params": params, **generator.collections}
        outputs, collections = self.generates.apply(variables, noise, True, stream(key, "dropout"))
        return outputs, dict(collections)

    def _scores(
        self,
        params: PyTree,
        collections: dict[str, PyTree],
        inputs: jax.Array,
        train: bool,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """Scores (B,), and the discriminator's updated collections."""
        variables = {"params": params, **collections}
        scores, updated = self.scores.apply(variables, inputs, train, key)
        return scores.reshape(len(inputs)).astype(jnp.float32), dict(updated)

    def _measured(
        self, real: jax.Array, generated: jax.Array, weights: jax.Array
    ) -> dict[str, Any]:
        losses = self.game.real(real) + self.game.generated(generated)
        return {
            "discriminator_loss": Mean.of(losses, weights),
            "real_score": Mean.of(real, weights),
            "generated_score": Mean.of(generated, weights),
        }

    def _parts(self, batch: Batch) -> list[dict[str, jax.Array]]:
        """The batch for each discriminator step, with padding spread over all of them."""
        rows = len(batch["mask"])
        if rows % self.critic_steps:
            raise UsageError(
                f"a batch of {rows} can't be cut into {self.critic_steps} equal parts, one for "
                f"each step of the critic. Choose a batch size that {self.critic_steps} divides."
            )
        return [
            {name: column[number :: self.critic_steps] for name, column in batch.items()}
            for number in range(self.critic_steps)
        ]

    def _check(self, generator: NetworkState, critic: NetworkState, real: jax.Array) -> None:
        key = jax.random.key(0)
        made = jax.eval_shape(
            lambda params: self._generated(params, generator, len(real), key)[0], generator.params
        )
        if made.shape != real.shape:
            raise InputError(
                f"the generator makes examples of shape {made.shape[1:]}, and the training "
                f"examples have {real.shape[1:]}: give it their shape"
            )
        scored = jax.eval_shape(
            lambda params: self.scores.apply(
                {"params": params, **critic.collections}, real, True, key
            )[0],
            critic.params,
        )
        if scored.shape not in ((len(real),), (len(real), 1)):
            raise InputError(
                f"the discriminator has to return one score per example, (B,) or (B, 1); got "
                f"{scored.shape}"
            )
        if self.gradient_penalty and "batch_stats" in critic.collections:
            raise UsageError(
                "a gradient penalty is defined per example, and batch normalisation mixes the "
                "examples of a batch (Gulrajani et al. 2017, section 4): use a discriminator "
                "without it, such as DCGANDiscriminator(batch_norm=False)"
            )


def gradient_penalty(
    score: Callable[[jax.Array], jax.Array], real: jax.Array, generated: jax.Array, key: jax.Array
) -> jax.Array:
    """`(|gradient of the score| - 1)^2` at a random point between each pair of examples.

    Gulrajani et al. (2017), "Improved training of Wasserstein GANs", equation 3.

    Args:
        score: maps examples (B, ...) to scores (B,), independently.
        real: real examples (B, ...).
        generated: generated examples (B, ...).
        key: the random key of the interpolation.

    Returns:
        The penalties, (B,).

    Example:
        >>> slope = lambda x: 3 * x[:, 0] + 4 * x[:, 1]  # its gradient has the length 5
        >>> print(gradient_penalty(slope, jnp.ones((1, 2)), jnp.zeros((1, 2)), jax.random.key(0)))
        [16.]
    """
    share = jax.random.uniform(key, (len(real),) + (1,) * (real.ndim - 1), real.dtype)
    between = share * real + (1 - share) * generated
    slopes = jax.grad(lambda x: score(x).sum())(between)
    # The square root has no derivative at 0, where a flat critic would get a NaN.
    squares = jnp.square(slopes).reshape(len(real), -1).sum(axis=1)
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1)


def _variables(state: NetworkState) -> dict[str, PyTree]:
    return {"params": state.params, "collections": state.collections}


def _network_state(
    network: Network, optimizer: Optimizer, key: jax.Array, inputs: jax.Array
) -> NetworkState:
    variables = dict(network.init(key, inputs))
    params = variables.pop("params", {})
    return NetworkState(params, variables, optimizer.init(params))


def _updated(
    state: NetworkState, optimizer: Optimizer, grads: PyTree, collections: dict[str, PyTree]
) -> NetworkState:
    # Optax mixes its integer counts with floats, which strict type promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    return NetworkState(params, collections, opt_state)
