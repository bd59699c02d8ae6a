"""A task of one's own: two networks that play against each other, trained by the same loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from jaxnet.errors import UsageError
from jaxnet.metrics import Mean
from jaxnet.training import Checkpoints, EarlyStopping, Trainer, accumulate, guard_nonfinite
from jaxnet.training.state import stream
from jaxnet.training.task import example_weights
from tests.networks import Dense
from tests.training.helpers import bits

pytestmark = pytest.mark.usefixtures("shared_programs")


@struct.dataclass
class Players:
    """What changes: two networks and their optimizers."""

    step: jax.Array
    generator: Any
    critic: Any
    generator_opt: Any
    critic_opt: Any
    key: jax.Array


@dataclass(frozen=True)
class Game:
    """Learn a distribution of numbers: Goodfellow et al. (2014), "Generative adversarial nets".

    The generator shifts and scales noise; the critic sees `x` and `x^2`, which is all that a
    normal distribution has. Both take steps at once.
    """

    generator: nn.Module = Dense(1)
    critic: nn.Module = Dense(1)
    optimizer: optax.GradientTransformation = optax.sgd(0.2)
    critic_optimizer: optax.GradientTransformation = optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.05)
    )

    def init(self, key, batch):
        generator = self.generator.init(stream(key, "generator"), jnp.zeros((1, 1)))
        critic = self.critic.init(stream(key, "critic"), jnp.zeros((1, 2)))
        return Players(
            step=jnp.zeros((), jnp.int32),
            generator=generator,
            critic=critic,
            generator_opt=self.optimizer.init(generator),
            critic_opt=self.critic_optimizer.init(critic),
            key=key,
        )

    def made(self, generator, noise) -> Any:
        return self.generator.apply(generator, noise)

    def score(self, critic, numbers):
        features = jnp.concatenate([numbers, jnp.square(numbers)], axis=1)
        scores: Any = self.critic.apply(critic, features)
        return scores[:, 0]

    def train_step(self, state, batch):
        noise = jax.random.normal(stream(state.key, "noise", state.step), batch["inputs"].shape)
        weights = example_weights(batch)

        def mean(values):
            return (values * weights).sum() / jnp.maximum(weights.sum(), 1)

        def critic_loss(critic):
            real = nn.softplus(-self.score(critic, batch["inputs"]))
            fake = nn.softplus(self.score(critic, self.made(state.generator, noise)))
            return mean(real + fake)

        def generator_loss(generator):
            return mean(nn.softplus(-self.score(state.critic, self.made(generator, noise))))

        critic_value, critic_grads = jax.value_and_grad(critic_loss)(state.critic)
        value, grads = jax.value_and_grad(generator_loss)(state.generator)
        moved, critic_opt = self.critic_optimizer.update(
            critic_grads, state.critic_opt, state.critic
        )
        updates, generator_opt = self.optimizer.update(grads, state.generator_opt)
        state = state.replace(
            step=state.step + 1,
            generator=optax.apply_updates(state.generator, updates),
            critic=optax.apply_updates(state.critic, moved),
            generator_opt=generator_opt,
            critic_opt=critic_opt,
        )
        count = weights.sum()
        metrics = {"generator_loss": value, "critic_loss": critic_value}
        return state, {name: Mean(loss * count, count) for name, loss in metrics.items()}

    def eval_step(self, state, batch):
        noise = jax.random.normal(jax.random.key(1), batch["inputs"].shape)
        made, weights = self.made(state.generator, noise)[:, 0], example_weights(batch)
        return {
            "difference": Mean.of(made - batch["inputs"][:, 0], weights),
            "square": Mean.of(jnp.square(made), weights),
        }

    def predict_step(self, state, batch):
        return self.made(state.generator, batch["inputs"])


def numbers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers around 3; the labels are nobody's business."""
    values = np.random.default_rng(seed).normal(3.0, 0.5, (n, 1)).astype(np.float32)
    return values, np.zeros(n, np.int32)


WATCH = EarlyStopping("val_difference", mode="max")


@pytest.fixture(scope="module")
def played() -> Any:
    trainer = Trainer(Game(), early_stopping=WATCH, eval_batch_size=64)
    return trainer.fit(numbers(300), numbers(200, 1), epochs=20, batch_size=32)


@pytest.mark.slow
def test_two_networks_learn_against_each_other(played):
    history = played.history
    assert history.columns == [
        *("epoch", "step", "critic_loss", "generator_loss"),
        *("val_difference", "val_square"),
    ]
    assert played.stop_reason == "epochs"
    assert history["val_difference"][0] < -1.5
    assert abs(history["val_difference"][-1]) < 0.3
    assert np.isfinite(history["critic_loss"]).all()


def test_it_is_evaluated_and_it_predicts_like_any_other(played):
    measured = played.model.evaluate(numbers(200, 1))
    best = played.history["step"].index(played.best_step)
    assert measured["difference"] == played.best == played.history["val_difference"][best]

    noise = np.array([[0.0], [1.0], [-2.0]], np.float32)
    made = played.model.predict(noise)
    params = played.state.generator["params"]
    expected = noise @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(made, expected, rtol=1e-6)


@pytest.mark.slow
def test_it_resumes_where_it_was(tmp_path, played):
    def trainer() -> Trainer:
        return Trainer(Game(), WATCH, Checkpoints(tmp_path), eval_batch_size=64)

    trainer().fit(numbers(300), numbers(200, 1), steps=13, batch_size=32)
    resumed = trainer().fit(numbers(300), numbers(200, 1), epochs=20, batch_size=32)
    assert bits(resumed.state) == bits(played.state)
    assert resumed.best_step == played.best_step


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_the_guard_watches_over_it(policy):
    values, labels = numbers(40)
    values[7] = 1e30  # its square is infinite
    guarded = guard_nonfinite(Game(), policy)
    rule = EarlyStopping("critic_loss")
    result = Trainer(guarded, early_stopping=rule).fit((values, labels), epochs=1, batch_size=8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.generator))
    if policy == "stop":
        assert result.stop_reason == "nonfinite"
        assert result.halt is not None
        assert 1e30 in result.halt.batch["inputs"]
        assert int(result.state.step) == result.halt.step == result.last_step
    else:
        assert result.stop_reason == "epochs"
        assert result.history["skipped_steps"] == [1]
        assert int(result.state.step) == 5


@dataclass(frozen=True)
class Patient(Game):
    """Has seen enough after five steps."""

    def train_step(self, state, batch):
        state, metrics = super().train_step(state, batch)
        return state, {**metrics, "halt/enough": (state.step >= 5).astype(jnp.int32)}


@pytest.mark.slow
def test_a_step_that_ends_training_counts(tmp_path, caplog):
    def trainer(task: Any) -> Trainer:
        return Trainer(task, EarlyStopping("critic_loss"), Checkpoints(tmp_path / "saved"))

    result = trainer(Patient()).fit(numbers(100), epochs=3, batch_size=10)
    assert (result.stop_reason, result.last_step, int(result.state.step)) == ("enough", 5, 5)
    assert result.halt is not None
    assert result.halt.step == 4
    assert "step 5 ended training: enough. Its batch is kept in" in caplog.text
    # Taken up without the halt, it comes to what a run that never halted does.
    resumed = trainer(Game()).fit(numbers(100), epochs=1, batch_size=10)
    whole = Trainer(Game(), EarlyStopping("critic_loss")).fit(numbers(100), epochs=1, batch_size=10)
    assert bits(resumed.state) == bits(whole.state)
    assert resumed.history.rows == whole.history.rows


def test_what_acts_on_one_gradient_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"accumulate needs a task that.*Game has a step of its"):
        accumulate(Game(), 2)  # pyright: ignore[reportArgumentType]


def test_the_metric_to_watch_has_to_be_chosen_where_there_is_no_loss():
    message = "monitors 'loss', but this run measures only critic_loss, generator_loss"
    with pytest.raises(UsageError, match=message):
        Trainer(Game()).fit(numbers(8), epochs=1)
