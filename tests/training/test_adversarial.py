"""Two players: each learns from its own loss alone; what holds for a task holds for the game."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import Bundle
from jaxnet.app.optimizer_options import Optimizer
from jaxnet.app.technique_options import Augment, Techniques
from jaxnet.errors import InputError, UsageError
from jaxnet.losses.adversarial import GAMES
from jaxnet.training import Checkpoints, Trainer, accumulate, guard_nonfinite, with_ema
from jaxnet.training.early_stopping import LAST_STEP
from jaxnet.training.state import stream
from jaxnet.training.tasks.adversarial import Adversarial, gradient_penalty
from tests.networks import Dense, applied
from tests.training.helpers import assert_close, bits, first_steps

pytestmark = pytest.mark.usefixtures("shared_programs")


class Generator(nn.Module):
    """Two layers with batch statistics between them."""

    norm: bool = False

    @nn.compact
    def __call__(self, noise: jax.Array, train: bool = False) -> jax.Array:
        hidden = Dense(5)(noise)
        if self.norm:
            hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        return Dense(3)(nn.tanh(hidden))


class Critic(nn.Module):
    """Likewise."""

    norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = Dense(7)(inputs)
        if self.norm:
            hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        return Dense(1)(nn.tanh(hidden))


SGD = {"optimizer": optax.sgd(0.1), "discriminator_optimizer": optax.sgd(0.2)}
STILL = optax.sgd(0.0)


def game(norm: bool = False, **options: Any) -> Adversarial:
    players = {"generator": Generator(norm), "discriminator": Critic(norm)}
    return Adversarial(**{**players, **SGD, "latent": 4, **options})


def make_batch(n: int = 8, masked: int = 0, seed: int = 0) -> dict[str, jax.Array]:
    inputs = np.random.default_rng(seed).normal(1.0, 0.5, (n, 3)).astype(np.float32)
    return {"inputs": jnp.asarray(inputs), "mask": jnp.asarray(np.arange(n) < n - masked)}


@lru_cache
def programs(task: Adversarial) -> tuple[Any, Any]:
    return jax.jit(task.init), jax.jit(task.train_step)


def take_steps(task: Adversarial, batch: Any, steps: int) -> list[Any]:
    """The states after 0, 1, ..., `steps` steps on one batch; equal tasks are compiled once."""
    init, step = programs(task)
    states = [init(jax.random.key(0), batch)]
    for _ in range(steps):
        states.append(step(states[-1], batch)[0])
    return states


def data(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(seed).normal(1.0, 0.5, (n, 3)).astype(np.float32)
    return inputs, np.zeros(n, np.int32)


def test_the_games_are_those_of_the_papers():
    real, generated = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    d, log = lambda s: 1 / (1 + np.exp(-s.astype(np.float64))), np.log
    expected = {
        "minimax": (-log(d(real)) - log(1 - d(generated)), log(1 - d(generated))),
        "non_saturating": (-log(d(real)) - log(1 - d(generated)), -log(d(generated))),
        "wasserstein": (generated - real, -generated),
        "least_squares": ((real - 1) ** 2 + generated**2, (generated - 1) ** 2),
    }
    assert set(expected) == set(GAMES)

    @jax.jit
    def losses(real: jax.Array, generated: jax.Array) -> Any:
        return {
            name: (rules.real(real) + rules.generated(generated), rules.generator(generated))
            for name, rules in GAMES.items()
        }

    for name, (discriminator, generator) in losses(real, generated).items():
        wanted = expected[name]
        np.testing.assert_allclose(discriminator, wanted[0], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(generator, wanted[1], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_step_is_the_discriminators_and_then_the_generators():
    """Against the two losses written down, each differentiated by its own player alone."""
    task, batch = game(), make_batch()
    before, after = take_steps(task, batch, 1)

    @jax.jit
    def expected(state: Any) -> tuple[Any, Any]:
        def made(params: Any, player: str, seed: jax.Array) -> Any:
            noise = jax.random.normal(stream(seed, "noise"), (8, 4))
            return Generator().apply({"params": params}, noise)

        def real(params: Any, inputs: Any) -> Any:
            """The probability of being real."""
            scores: Any = Critic().apply({"params": params}, inputs)
            return 1 / (1 + jnp.exp(-scores[:, 0]))

        first = jax.random.fold_in(stream(state.key, "discriminator"), 0)
        generated = made(state.generator.params, "discriminator", first)
        grads = jax.grad(
            lambda p: -(jnp.log(real(p, batch["inputs"])) + jnp.log(1 - real(p, generated))).mean()
        )(state.discriminator.params)
        critic = jax.tree.map(lambda p, g: p - 0.2 * g, state.discriminator.params, grads)
        own = stream(state.key, "generator")
        grads = jax.grad(lambda p: -jnp.log(real(critic, made(p, "generator", own))).mean())(
            state.generator.params
        )
        return critic, jax.tree.map(lambda p, g: p - 0.1 * g, state.generator.params, grads)

    critic, generator = expected(before)
    assert_close(after.discriminator.params, critic)
    assert_close(after.generator.params, generator)


@pytest.mark.slow
def test_neither_players_step_changes_the_other():
    tasks = game(optimizer=STILL), game(discriminator_optimizer=STILL)

    def moved(before: Any, after: Any) -> bool:
        return not jax.tree.all(jax.tree.map(np.array_equal, before.params, after.params))

    first, second = first_steps(tasks, make_batch())
    before, after = first
    assert not moved(before.generator, after.generator)
    assert moved(before.discriminator, after.discriminator)
    before, after = second
    assert moved(before.generator, after.generator)
    assert not moved(before.discriminator, after.discriminator)


@pytest.mark.slow
def test_running_statistics_are_those_of_a_players_own_step():
    batch = make_batch()
    one = take_steps(game(norm=True, optimizer=STILL), batch, 1)

    @jax.jit
    def drawn(state: Any) -> Any:
        """The noise of the generator's step; that of the discriminator's, and what it became."""
        first = jax.random.fold_in(stream(state.key, "discriminator"), 0)
        keys = stream(state.key, "generator"), first
        noises = [jax.random.normal(stream(key, "noise"), (8, 4)) for key in keys]
        variables = {"params": state.generator.params, **state.generator.collections}
        made = Generator(True).apply(variables, noises[1], True, mutable=["batch_stats"])[0]
        return noises[0], made

    def first_layer(player: Any, inputs: Any) -> np.ndarray:
        layer = jax.tree.map(np.asarray, player.params["Dense_0"])
        return (np.asarray(inputs) @ layer["kernel"] + layer["bias"][None]).mean(axis=0)

    noise, generated = drawn(one[0])
    # The generator normalises in every step of the discriminator, and remembers only its own.
    moved = one[1].generator.collections["batch_stats"]["BatchNorm_0"]["mean"]
    mean = first_layer(one[0].generator, noise)
    np.testing.assert_allclose(moved, 0.01 * mean, rtol=1e-4, atol=1e-7)
    # The discriminator sees real examples and generated ones, once each, and not those from which
    # the generator learns.
    real = first_layer(one[0].discriminator, batch["inputs"])
    fake = first_layer(one[0].discriminator, generated)
    expected = 0.99 * 0.01 * real + 0.01 * fake
    moved = one[1].discriminator.collections["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_padding_counts_for_neither_player():
    task = game(critic_steps=2, game=GAMES["wasserstein"], gradient_penalty=10.0)
    batch = make_batch(masked=3)
    junk = np.where(np.asarray(batch["mask"])[:, None], batch["inputs"], np.float32(1e6))
    before, after = take_steps(task, batch, 1)
    _, other = take_steps(task, {**batch, "inputs": junk}, 1)
    assert bits(after) == bits(other)
    measured = programs(task)[1](before, batch)[1]
    assert float(measured["discriminator_loss"].count) == 5
    assert jax.jit(task.eval_step)(before, batch)["real_score"].count == 5


@pytest.mark.slow
def test_a_batch_of_nothing_but_padding_changes_nothing():
    adam = optax.adam(0.1)
    task = game(optimizer=adam, discriminator_optimizer=adam, critic_steps=4)
    state = take_steps(task, make_batch(), 2)[-1]
    step = programs(task)[1]
    new, _ = step(state, make_batch(masked=8))
    assert bits(replace(new, step=state.step)) == bits(state)
    # With three examples left, one of the four parts is all padding: that step moves nothing.
    three, _ = step(state, make_batch(masked=5))
    assert int(three.discriminator.opt_state[0].count) == 2 * 4 + 3


@pytest.mark.slow
def test_every_step_of_the_critic_has_its_own_examples_and_noise():
    task = game(critic_steps=4)
    batch = make_batch()
    parts = task._parts(batch)
    rows = np.concatenate([part["inputs"] for part in parts])
    expected = np.asarray(batch["inputs"])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(expected, axis=0))
    # Two steps of a critic that stands still measure different noise, and so not twice the same.
    halves = game(critic_steps=2, discriminator_optimizer=STILL)
    same = {**batch, "inputs": jnp.ones((8, 3))}
    state = take_steps(halves, same, 0)[0]
    once = programs(game(discriminator_optimizer=STILL))[1](
        state, {name: column[:4] for name, column in same.items()}
    )[1]
    both = programs(halves)[1](state, same)[1]
    assert both["real_score"].total == pytest.approx(2 * float(once["real_score"].total))
    first = float(once["generated_score"].total)
    assert abs(float(both["generated_score"].total) - 2 * first) > 1e-3
    with pytest.raises(UsageError, match="a batch of 8 can't be cut into 3 equal parts"):
        jax.eval_shape(game(critic_steps=3).train_step, state, batch)


def test_the_penalty_and_its_gradient_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 5)), "v": rng.normal(size=5)}
    real, generated = rng.normal(size=(2, 6, 3))
    key = jax.random.key(3)
    share = np.asarray(jax.random.uniform(key, (6, 1)), np.float64)

    def penalty(params: Any) -> jax.Array:
        def score(x: jax.Array) -> jax.Array:
            return jnp.tanh(x @ params["w"]) @ params["v"]

        pair = (jnp.asarray(x, jnp.float32) for x in (real, generated))
        return gradient_penalty(score, *pair, key)

    params = jax.tree.map(np.float32, weights)
    theirs = {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}
    between = torch.tensor(share * real + (1 - share) * generated, requires_grad=True)
    scores = torch.tanh(between @ theirs["w"]) @ theirs["v"]
    (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    expected = (slopes.norm(dim=1) - 1) ** 2
    got, grads = jax.jit(lambda p: (penalty(p), jax.grad(lambda p: penalty(p).mean())(p)))(params)
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=2e-5)
    expected.mean().backward()
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, theirs[name].grad.numpy(), rtol=1e-4, atol=1e-6)


def test_a_flat_critic_has_a_finite_penalty_and_gradient():
    def mean(slope: jax.Array) -> jax.Array:
        ones = jnp.ones((2, 3))
        return gradient_penalty(lambda x: x.sum(axis=1) * slope, ones, ones, jax.random.key(0))[0]

    value, grad = jax.jit(jax.value_and_grad(mean))(np.float32(0))
    assert float(value) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(grad)


@pytest.mark.slow
def test_the_penalty_counts_by_its_factor():
    batch = make_batch()
    task = game(game=GAMES["wasserstein"], gradient_penalty=10.0)
    state = task.init(jax.random.key(0), batch)
    plain = replace(task, gradient_penalty=0.0)
    moved, metrics = task.train_step(state, batch)
    assert "gradient_penalty" in metrics
    assert "gradient_penalty" not in plain.train_step(state, batch)[1]
    key = jax.random.fold_in(stream(state.key, "discriminator"), 0)

    def change(task: Adversarial) -> Any:
        new, _ = task._discriminator_step(state.generator, state.discriminator, batch, key)
        return jax.tree.map(jnp.subtract, new.params, state.discriminator.params)

    half = jax.tree.map(
        lambda a, b: (a + b) / 2, change(plain), change(replace(task, gradient_penalty=20.0))
    )
    assert_close(change(task), half, 1e-5)
    assert_close(
        moved.discriminator.params, jax.tree.map(jnp.add, state.discriminator.params, change(task))
    )


@pytest.mark.slow
def test_the_average_of_the_generator_makes_the_examples():
    task, batch = game(ema=0.9), make_batch()
    states = take_steps(task, batch, 2)
    seen = [jax.tree.map(np.asarray, state.generator.params) for state in states]
    expected = seen[0]
    for params, decay in zip(seen[1:], (1 / 10, 2 / 11), strict=True):
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, params)
    assert_close(states[-1].average.values["params"], expected)
    noise = np.ones((2, 4), np.float32)
    made = jax.jit(task.predict_step)(states[-1], {"inputs": noise})
    np.testing.assert_allclose(made, applied(Generator(), {"params": expected}, noise), rtol=1e-5)


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Any:
    trainer = Trainer(game(norm=True, ema=0.9), LAST_STEP, eval_batch_size=16)
    result = trainer.fit(data(), data(40, 1), epochs=6, batch_size=16)
    return trainer, result


@pytest.mark.slow
def test_it_is_trained_as_any_task_and_its_last_step_is_its_best(played):
    trainer, result = played
    assert result.stop_reason == "epochs"
    assert result.best_step == result.last_step == int(result.state.step) == 24
    names = {"discriminator_loss", "generated_score", "generator_loss", "real_score"}
    validated = {f"val_{name}" for name in names}
    assert set(result.history.columns) == {"epoch", "step", *names, *validated}
    # Initialisation, training and evaluation, for six epochs with a padded batch in each.
    assert trainer.programs.compiles.total == 3


@pytest.mark.slow
def test_it_resumes_where_it_was(tmp_path, played):
    trainer = replace(played[0], checkpoints=Checkpoints(tmp_path))
    trainer.fit(data(), data(40, 1), steps=9, batch_size=16)
    resumed = trainer.fit(data(), data(40, 1), epochs=6, batch_size=16)
    assert bits(resumed.state) == bits(played[1].state)


@pytest.mark.slow
def test_its_evaluation_is_the_same_for_all_batches(played):
    trainer, result = played
    other = Trainer(trainer.task, LAST_STEP, eval_batch_size=7)
    inputs, labels = data(40, 1)
    order = np.random.default_rng(0).permutation(40)
    got = other.evaluate(result.state, (inputs[order], labels))
    for name, value in trainer.evaluate(result.state, (inputs, labels)).items():
        assert got[name] == pytest.approx(value, rel=1e-5), name
        assert value == pytest.approx(result.history[f"val_{name}"][-1])


def test_it_makes_examples_of_noise_and_its_bundle_is_the_generator(played, tmp_path):
    _, result = played
    noise = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    made = result.model.predict(noise)
    assert made.shape == (5, 3)
    assert not np.allclose(made[0], made[1])
    Bundle.of(result.model).save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.inputs.shape == (4,)
    np.testing.assert_allclose(loaded.predict(noise), made, rtol=1e-6)
    with pytest.raises(InputError, match=r"expected inputs of shape \(4,\)"):
        result.model.predict(np.zeros((5, 3), np.float32))


@pytest.mark.parametrize(
    ("technique", "name"),
    [
        (lambda task: accumulate(task, 2), "accumulate"),
        (lambda task: with_ema(task, 0.9), "with_ema"),
        (lambda task: Techniques(clip=1.0).apply(task), "clip"),
        (lambda task: Techniques(l2=0.1).apply(task), "penalize"),
        (lambda task: Techniques(precision="bf16").apply(task), "mixed_precision"),
        (lambda task: Techniques(freeze=("**",)).apply(task), "freeze"),
        (lambda task: Augment(noise=1.0).apply(task), "augment"),
        (lambda task: Optimizer(schedule="plateau").apply(task), "reduce_on_plateau"),
    ],
)
def test_what_acts_on_one_objective_is_refused_with_the_reason(technique, name):
    with pytest.raises(UsageError, match=f"{name} needs a task that .* Adversarial has a step of"):
        technique(game())


def test_techniques_that_are_switched_off_take_it():
    task = game()
    assert Augment().apply(task) is Optimizer().apply(task) is task
    assert Techniques(nonfinite="ignore").apply(task) is task


@pytest.mark.slow
def test_the_guard_takes_it():
    values, labels = data(32)
    values[7] = 1e30  # its square is infinite
    task = guard_nonfinite(game(preprocess=jnp.square), "skip")
    result = Trainer(task, LAST_STEP).fit((values, labels), epochs=1, batch_size=8)
    assert result.history["skipped_steps"] == [1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent of at least 1"),
        ({"critic_steps": 0}, "critic_steps of at least 1"),
        ({"gradient_penalty": -1.0}, "gradient_penalty of at least 0"),
        ({"ema": 1.0}, r"ema: expected a decay in \[0, 1\)"),
    ],
)
def test_impossible_numbers(options, message):
    with pytest.raises(UsageError, match=message):
        game(**options)


def test_players_that_do_not_fit_are_refused_before_compiling():
    with pytest.raises(InputError, match=r"makes examples of shape \(2,\).* have \(3,\)"):
        Trainer(game(generator=Dense(2)), LAST_STEP).fit(data(), epochs=1)
    with pytest.raises(InputError, match=r"one score .* got \(32, 2\)"):
        Trainer(game(discriminator=Dense(2)), LAST_STEP).fit(data(), epochs=1)
    with pytest.raises(UsageError, match="batch normalisation mixes the examples"):
        Trainer(game(norm=True, gradient_penalty=10.0), LAST_STEP).fit(data(), epochs=1)
