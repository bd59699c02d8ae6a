"""The bound, its parts and its gradient, against torch and against sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.data import Arrays, fit_range, load_digits, split
from jaxnet.errors import InputError, UsageError
from jaxnet.losses.density import bernoulli, normal_divergence
from jaxnet.models import VAE, DenseDecoder, DenseEncoder
from jaxnet.training import Trainer, mixed_precision
from jaxnet.training.state import stream
from jaxnet.training.tasks.reconstruction import GaussianNoise, training_keys
from jaxnet.training.tasks.variational import (
    Variational,
    fixed_binarization,
    stochastic_binarization,
)
from tests.networks import Dense


def task(latent: int = 2, hidden: tuple[int, ...] = (), **options: Any) -> Variational:
    model = VAE(DenseEncoder(2 * latent, hidden), DenseDecoder((2, 3), hidden))
    return Variational(model, bernoulli, optax.sgd(0.1), **options)


def make_batch(n: int = 5) -> dict[str, jax.Array]:
    inputs = np.random.default_rng(0).random((n, 2, 3)).astype(np.float32)
    return {"inputs": jnp.asarray(inputs), "mask": jnp.asarray(np.arange(n) < n - 1)}


def test_the_divergence_is_that_of_torch_and_of_sampling():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 4, 3))
    got = normal_divergence(jnp.float32(mean), jnp.float32(log_variance))
    code = torch.distributions.Normal(torch.tensor(mean), torch.tensor(log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4, 3), torch.ones(4, 3))
    expected = torch.distributions.kl_divergence(code, prior).sum(dim=1)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)

    deviation = np.exp(log_variance / 2)
    noise = np.random.default_rng(1).normal(size=(200_000, 4, 3))
    log_q = -0.5 * noise**2 - log_variance / 2
    log_p = -0.5 * (mean + deviation * noise) ** 2
    terms = (log_q - log_p).sum(axis=2)
    error = terms.std(axis=0) / np.sqrt(len(terms))
    assert (np.abs(terms.mean(axis=0) - got) < 5 * error).all()


def test_a_certain_pixel_costs_nothing_and_pixels_add_up():
    logits = jnp.array([[[50.0, -50.0], [0.0, 0.0]]])
    got = bernoulli(logits, jnp.array([[[1.0, 0.0], [1.0, 0.0]]]))
    np.testing.assert_allclose(got, [2 * np.log(2)], rtol=1e-6)


@pytest.mark.slow
def test_the_bound_and_its_gradient_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    ours, batch = task(beta=2.0), make_batch()
    state = jax.jit(ours.init)(jax.random.key(0), batch)
    key = jax.random.key(7)
    differentiate = jax.jit(jax.value_and_grad(ours.objective, has_aux=True))
    (loss, aux), grads = differentiate(state.params, state.collections, batch, key)

    keys = jax.jit(training_keys)(key, batch["inputs"])
    noise = jax.jit(jax.vmap(lambda one: jax.random.normal(stream(one, "code"), (2,))))(keys)
    noise = np.asarray(noise)
    theirs = {
        (side, name): torch.tensor(np.asarray(value, np.float64), requires_grad=True)
        for side, layers in state.params.items()
        for name, value in layers["Dense_0"].items()
    }
    images = torch.tensor(np.asarray(batch["inputs"], np.float64))[:4]  # the fifth is padding
    outputs = images.flatten(1) @ theirs["encoder", "kernel"] + theirs["encoder", "bias"]
    mean, log_variance = outputs[:, :2], outputs[:, 2:]
    codes = mean + (log_variance / 2).exp() * torch.tensor(noise[:4], dtype=torch.float64)
    logits = codes @ theirs["decoder", "kernel"] + theirs["decoder", "bias"]
    cost = torch.nn.functional.binary_cross_entropy_with_logits
    reconstruction = cost(logits, images.flatten(1), reduction="none").sum(dim=1)
    code = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4, 2), torch.ones(4, 2))
    kl = torch.distributions.kl_divergence(code, prior).sum(dim=1)
    expected = (reconstruction + 2 * kl).mean()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    assert aux.metrics["kl"].compute() == pytest.approx(kl.mean().item(), rel=1e-5)
    expected.backward()
    for (side, name), value in theirs.items():
        grad = grads[side]["Dense_0"][name]
        np.testing.assert_allclose(grad, value.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_is_observed_is_what_is_encoded_and_what_should_come_out():
    """With grey that is always above one half, the fixed binarisation is white."""
    batch = make_batch()
    bright = {**batch, "inputs": 0.6 + 0.4 * batch["inputs"]}
    white = {**batch, "inputs": jnp.ones_like(batch["inputs"])}
    ours = task(observe=fixed_binarization)
    state = jax.jit(ours.init)(jax.random.key(0), batch)

    @jax.jit
    def loss(batch: Any) -> Any:
        key = jax.random.key(3)
        return ours.objective(state.params, state.collections, batch, key)[0]

    assert float(loss(bright)) == pytest.approx(float(loss(white)), rel=1e-6)
    draws = jax.vmap(stochastic_binarization, (0, None))(
        jax.random.split(jax.random.key(0), 4000), jnp.array([0.0, 0.3, 1.0])
    )
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), [0, 0.3, 1], atol=0.03)


@pytest.mark.slow
def test_spoilt_inputs_are_those_of_the_evaluation():
    """A code that is the input itself, without deviation, tells what the network was shown."""

    class Shown(nn.Module):
        def __call__(self, images: jax.Array) -> jax.Array:
            return self.decode(self.encode(images)[0])

        def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            codes = images.reshape(len(images), -1)
            return codes, jnp.full_like(codes, -100.0)

        def decode(self, codes: jax.Array) -> jax.Array:
            return codes.reshape(-1, 2, 3)

    seen = Variational(
        Shown(),
        lambda outputs, wanted: jnp.abs(outputs).sum(axis=(1, 2)),
        optax.sgd(0.1),
        observe=stochastic_binarization,
        noise=GaussianNoise(0.3),
    )
    batch = {**make_batch(40), "mask": jnp.ones(40, bool)}

    @jax.jit
    def run(key: jax.Array, batch: Any) -> Any:
        state = seen.init(key, batch)
        return seen.spoilt(state, batch["inputs"]), seen.eval_step(state, batch)

    spoilt, metrics = run(jax.random.key(0), batch)
    measured = metrics["reconstruction"].compute()
    assert measured == pytest.approx(np.abs(spoilt).sum(axis=(1, 2)).mean(), rel=1e-5)


def digits() -> tuple[Arrays, Arrays]:
    train, test = split(load_digits(), (0.8, 0.2))
    return train, test


def for_digits(train: Arrays, hidden: tuple[int, ...] = (32,), **options: Any) -> Variational:
    model = VAE(DenseEncoder(8, hidden), DenseDecoder((8, 8, 1), hidden))
    defaults = {"preprocess": fit_range(train), "observe": stochastic_binarization}
    return Variational(model, bernoulli, optax.adam(3e-3), **{**defaults, **options})


@pytest.fixture(scope="module")
def learnt() -> Any:
    train, test = digits()
    return Trainer(for_digits(train)).fit(train, test, epochs=8, batch_size=32)


@pytest.mark.slow
def test_the_bound_rises_as_it_learns_digits(learnt):
    elbo = np.array(learnt.history["val_elbo"])
    assert (np.diff(elbo) > 0).all()
    assert elbo[-1] > elbo[0] + 5
    sums = np.add(learnt.history["val_reconstruction"], learnt.history["val_kl"])
    np.testing.assert_allclose(elbo, -sums, rtol=1e-5)
    np.testing.assert_allclose(learnt.history["val_loss"], sums, rtol=1e-5)
    assert (np.array(learnt.history["val_kl"]) > 0.5).all()


@pytest.mark.slow
def test_it_predicts_encodes_and_draws(learnt):
    train, test = digits()
    ours = learnt.model.trainer.task
    images = test.inputs[:6]
    codes = jax.jit(ours.encode)(learnt.state, images)
    assert codes.shape == (6, 4)
    drawn = jax.jit(ours.decode)(learnt.state, codes)
    # A prediction is the image of the code's mean, and no noise is in it.
    np.testing.assert_allclose(learnt.model.predict(images), drawn, rtol=1e-5, atol=1e-6)
    new = ours.sample(learnt.state, jax.random.key(0), (3, 4))
    assert new.shape == (3, 8, 8, 1)
    assert ((new >= 0) & (new <= 1)).all()
    difference = learnt.model.predict(images) - ours.preprocess(images)
    assert np.square(difference).mean() < np.square(images / 16 - train.inputs.mean() / 16).mean()


@pytest.mark.slow
def test_the_evaluation_does_not_depend_on_the_batches(learnt):
    _, test = digits()
    expected = learnt.model.evaluate(test)
    assert expected["elbo"] == learnt.history["val_elbo"][-1]
    other = Trainer(learnt.model.trainer.task, eval_batch_size=50)
    order = np.random.default_rng(0).permutation(len(test))
    got = other.evaluate(learnt.state, test.take(order))
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.slow
def test_a_larger_beta_makes_the_codes_simpler(learnt):
    train, test = digits()
    strict = Trainer(for_digits(train, beta=8.0)).fit(train, test, epochs=8, batch_size=32)
    assert strict.history["val_kl"][-1] < 0.5 * learnt.history["val_kl"][-1]
    assert strict.history["val_reconstruction"][-1] > learnt.history["val_reconstruction"][-1]


@pytest.mark.slow
def test_it_learns_in_half_precision_and_removes_noise():
    train, test = digits()
    noisy = for_digits(train, (), noise=GaussianNoise(0.3))
    result = Trainer(mixed_precision(noisy, "bf16")).fit(train, test, epochs=3, batch_size=32)
    elbo = result.history["val_elbo"]
    assert elbo[0] < elbo[-1]


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="beta of at least 0"):
        task(beta=-1.0)
    plain = replace(task(), model=Dense(3))
    with pytest.raises(InputError, match="needs a Linen module with a method encode"):
        jax.eval_shape(plain.init, jax.random.key(0), make_batch())
    with pytest.raises(InputError, match="which is an even number of outputs; got 3"):
        VAE(DenseEncoder(3, ()), DenseDecoder((2, 3), ())).init(
            jax.random.key(0), jnp.zeros((1, 2, 3))
        )
