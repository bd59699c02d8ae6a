"""What comes out is compared with the clean inputs, whatever the network was shown."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics
from jaxnet.data import Scale
from jaxnet.errors import InputError, UsageError
from jaxnet.models import Autoencoder, DenseDecoder, DenseEncoder
from jaxnet.training import Trainer
from jaxnet.training.draws import example_keys
from jaxnet.training.tasks.reconstruction import GaussianNoise, MaskingNoise, Reconstruction
from tests.networks import Dense

pytestmark = pytest.mark.usefixtures("shared_programs")


class Seen(nn.Module):
    """Gives back what it is shown, times a parameter that starts at 1."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs * self.param("factor", nn.initializers.ones, (1, 1))


def rows(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(seed).integers(0, 17, (n, 6)).astype(np.uint8)
    return inputs, np.zeros(n, np.int32)


def task(noise: Any, **options: Any) -> Reconstruction:
    scale = {"preprocess": Scale(0.0, 1 / 16), "noise": noise}
    return Reconstruction(Seen(), losses.squared_error, optax.sgd(0.1), **{**scale, **options})


@pytest.mark.slow
def test_the_target_is_the_clean_input():
    """A network that hands on what it sees is wrong by the noise, and by nothing else."""
    noisy = task(GaussianNoise(0.5), metrics={"mse": metrics.mean_squared_error})
    inputs, _ = rows(400)
    batch = {"inputs": inputs, "mask": np.ones(400, bool)}

    @jax.jit
    def run(key: jax.Array, batch: Any) -> Any:
        state = noisy.init(key, batch)
        moved, measured = noisy.train_step(state, batch)
        return (
            moved,
            (measured, noisy.eval_step(state, batch)),
            noisy.spoilt(state, batch["inputs"]),
        )

    moved, measured, spoilt = run(jax.random.key(0), batch)
    for each in measured:
        assert each["loss"].compute() == pytest.approx(0.25, rel=0.1)
        assert each["mse"].compute() == pytest.approx(0.25, rel=0.1)
    assert np.square(spoilt - inputs / 16).mean() == pytest.approx(0.25, rel=0.1)
    # The best factor for noisy inputs is smaller than 1: it learns to, and only because the target
    # is clean.
    assert np.asarray(moved.params["factor"]).item() < 1


@pytest.mark.slow
def test_noise_is_new_in_each_step_and_the_same_in_each_evaluation():
    inputs, labels = rows()
    still = Reconstruction(
        Seen(),
        losses.squared_error,
        optax.sgd(0.0),
        preprocess=Scale(0.0, 1 / 16),
        noise=GaussianNoise(0.5),
    )
    result = Trainer(still).fit((inputs, labels), (inputs, labels), epochs=3, batch_size=40)
    assert len(set(result.history["loss"])) == 3
    assert len(set(result.history["val_loss"])) == 1
    order = np.random.default_rng(0).permutation(40)
    other = Trainer(still, eval_batch_size=7).evaluate(result.state, (inputs[order], labels))
    assert other["loss"] == pytest.approx(result.history["val_loss"][0], rel=1e-5)
    assert result.model.predict(inputs) == pytest.approx(inputs / 16)


def test_keys_belong_to_examples():
    inputs = np.random.default_rng(0).random((50, 4, 4)).astype(np.float32) > 0.5
    draw = jax.jit(lambda x: jax.random.key_data(example_keys(jax.random.key(0), x)))
    batch = inputs.astype(np.float32)
    keys = np.asarray(draw(batch))
    assert len({tuple(key) for key in keys}) == 50
    np.testing.assert_array_equal(draw(batch[::-1]), keys[::-1])


def test_masking_sets_to_zero_and_changes_nothing_else():
    example = jnp.ones(10_000)
    hidden = MaskingNoise(0.3)(jax.random.key(0), example)
    assert set(np.unique(hidden)) == {0.0, 1.0}
    assert float(hidden.mean()) == pytest.approx(0.7, abs=0.02)


@pytest.mark.slow
def test_an_autoencoder_encodes_and_decodes():
    inputs, _ = rows()
    model = Autoencoder(DenseEncoder(2, (8,)), DenseDecoder((6,), (8,)))
    whole = Reconstruction(
        model, losses.squared_error, optax.adam(1e-2), preprocess=Scale(0.0, 1 / 16)
    )
    result = Trainer(whole).fit(rows(), epochs=20, batch_size=8)
    codes = jax.jit(whole.encode)(result.state, inputs)
    assert codes.shape == (40, 2)
    decoded = jax.jit(whole.decode)(result.state, codes)
    np.testing.assert_allclose(decoded, result.model.predict(inputs), rtol=1e-5)
    assert result.history["loss"][-1] < result.history["loss"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(0.0), "positive deviation, got 0.0"),
        (lambda: MaskingNoise(1.0), r"share in \(0, 1\), got 1.0"),
    ],
)
def test_impossible_noise(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_outputs_of_another_shape_are_refused_before_compiling():
    wrong = Reconstruction(Dense(5), losses.squared_error, optax.sgd(0.1))
    inputs, labels = rows()
    with pytest.raises(InputError, match=r"outputs of shape \(5,\) for inputs of shape \(6,\)"):
        Trainer(wrong).fit((inputs.astype(np.float32), labels), epochs=1)


class Folder:
    """Rows that are read one by one, and labels in memory, as those of a folder of images."""

    name = "folder"

    def __init__(self) -> None:
        self.inputs, self.labels = rows()

    def __len__(self) -> int:
        return len(self.labels)

    def spec(self) -> Any:
        shape = jax.ShapeDtypeStruct
        return {"inputs": shape((6,), np.uint8), "labels": shape((), np.int32)}

    def read(self, chosen: np.ndarray, epoch: int) -> Any:
        return {"inputs": self.inputs[chosen], "labels": self.labels[chosen]}


@pytest.mark.slow
def test_what_is_not_in_memory_can_be_given_back():
    source: Any = Folder()
    read = Trainer(task(GaussianNoise(0.1))).fit(source, epochs=2, batch_size=10)
    held = Trainer(task(GaussianNoise(0.1))).fit(rows(), epochs=2, batch_size=10)
    assert read.history.rows == held.history.rows
    model = Autoencoder(DenseEncoder(2, (4,)), DenseDecoder((5,), (4,)))
    scale = Scale(0.0, 1 / 16)
    wrong = Reconstruction(model, losses.squared_error, optax.sgd(0.1), preprocess=scale)
    with pytest.raises(InputError, match=r"folder: the model gives outputs of shape \(5,\)"):
        Trainer(wrong).fit(source, epochs=1)
