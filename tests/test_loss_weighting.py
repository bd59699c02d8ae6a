"""What weighs in a loss: classes and positions, against PyTorch and scikit-learn."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.data import Arrays
from jaxnet.errors import InputError, UsageError
from jaxnet.metrics import weighted_mean
from jaxnet.optimizers import by_name
from jaxnet.training import Supervised, Trainer, accumulate
from tests.networks import Dense
from tests.programs import measured
from tests.training.helpers import assert_close, table, take_steps

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 4)).astype(np.float32)
LABELS = np.array([0, 0, 0, 1, 2, 3, 3])
WEIGHTS = [0.5, 2.0, 0.0, 1.25]
TOKENS = RNG.normal(size=(3, 5, 4)).astype(np.float32)
TOKEN_LABELS = np.array([[0, 1, 2, 3, 0], [1, 1, -1, -1, -1], [2, -1, -1, 3, -1]])


def pytorch(logits: np.ndarray, labels: np.ndarray, **options: Any) -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"])
    outputs = torch.tensor(np.moveaxis(logits, -1, 1))
    return torch.nn.functional.cross_entropy(outputs, torch.tensor(labels), **options).numpy()


def test_class_weights_multiply_and_the_mean_divides_by_the_number_of_examples():
    loss = losses.with_class_weights(losses.cross_entropy, WEIGHTS)
    expected = pytorch(LOGITS, LABELS, weight=WEIGHTS, reduction="none")
    got = measured(loss, LOGITS, LABELS)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    mean = measured(weighted_mean, got, np.ones(7, np.float32))
    np.testing.assert_allclose(mean, expected.sum() / 7, rtol=1e-6)


def test_example_weights_are_pytorchs_class_weights():
    each = np.asarray(WEIGHTS, np.float32)[LABELS]
    got = measured(weighted_mean, measured(losses.cross_entropy, LOGITS, LABELS), each)
    np.testing.assert_allclose(got, pytorch(LOGITS, LABELS, weight=WEIGHTS), rtol=1e-6)


def test_every_position_has_the_weight_of_its_own_class():
    loss = losses.with_class_weights(losses.cross_entropy, WEIGHTS)
    labels = np.abs(TOKEN_LABELS)
    expected = pytorch(TOKENS, labels, weight=WEIGHTS, reduction="none").mean(1)
    np.testing.assert_allclose(measured(loss, TOKENS, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.binary_cross_entropy, losses.binary_focal, losses.hinge])
@pytest.mark.parametrize("outputs", [LOGITS[:, 0], LOGITS[:, :1]])
def test_no_and_yes_have_weights_too(loss, outputs):
    labels = (LABELS > 0).astype(np.int32)
    weighted = losses.with_class_weights(loss, [0.25, 3.0])
    got, plain = measured(lambda *given: (weighted(*given), loss(*given)), outputs, labels)
    np.testing.assert_allclose(got, plain * np.where(labels, 3, 0.25), rtol=1e-6)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

    weights = losses.balanced_class_weights(LABELS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_allclose(weights[LABELS], compute_sample_weight("balanced", LABELS), 1e-6)
    assert weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.array([0, 2]), None, "class 1 of 3 has no example"),
        (np.array([0, 1]), 3, "class 2 of 3 has no example"),
        (np.array([0, 5]), 3, "label 5 is none of 3 classes"),
        (np.array([0, -1]), None, "from -1"),
        (np.array([0.0, 1.0]), None, "float64"),
        (np.array([], int), None, "0 labels"),
    ],
)
def test_balanced_weights_of_labels_that_have_none(labels, classes, message):
    with pytest.raises(InputError, match=message):
        losses.balanced_class_weights(labels, classes)


def test_masked_positions_count_for_nothing():
    loss = losses.masked(losses.cross_entropy)
    counts = TOKEN_LABELS >= 0
    each = pytorch(TOKENS, np.abs(TOKEN_LABELS), reduction="none")
    expected = [row[keep].mean() for row, keep in zip(each, counts, strict=True)]

    @jax.jit
    def both(logits: jax.Array) -> Any:
        got, back = jax.vjp(lambda z: loss(z, TOKEN_LABELS), logits)
        return got, back(jnp.ones(3))[0], loss(logits, np.full((3, 5), -1))

    got, gradient, of_none = jax.device_get(both(TOKENS))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert ((gradient != 0).any(-1) == counts).all()
    assert of_none.tolist() == [0, 0, 0]


@pytest.mark.parametrize("ignored", [-1, -100])
def test_masked_with_counts_as_weights_is_pytorchs_ignore_index(ignored):
    labels = np.where(TOKEN_LABELS < 0, ignored, TOKEN_LABELS)
    counts = losses.position_counts(labels, ignored)
    assert counts.tolist() == [5, 2, 2] and counts.dtype == np.float32
    loss = losses.masked(losses.cross_entropy, ignored)
    got = measured(lambda *given: weighted_mean(loss(*given), counts), TOKENS, labels)
    np.testing.assert_allclose(got, pytorch(TOKENS, labels, ignore_index=ignored), rtol=1e-6)


def test_masks_class_weights_and_smoothing_compose():
    smooth = functools.partial(losses.cross_entropy, label_smoothing=0.1)
    loss = losses.masked(losses.with_class_weights(smooth, WEIGHTS))
    table = np.asarray(WEIGHTS, np.float32)
    each = np.asarray(measured(smooth, TOKENS.reshape(15, 4), np.abs(TOKEN_LABELS).ravel()))
    each = each.reshape(3, 5) * table[np.abs(TOKEN_LABELS)]
    expected = [each[row, TOKEN_LABELS[row] >= 0].mean() for row in range(3)]
    np.testing.assert_allclose(measured(loss, TOKENS, TOKEN_LABELS), expected, rtol=1e-6)
    with pytest.raises(UsageError, match=r"masked\(with_class_weights"):
        losses.with_class_weights(losses.masked(smooth), WEIGHTS)


@pytest.mark.parametrize(("outputs", "expected"), [((3, 4), 4), ((3,), 2), ((3, 1), 2)])
def test_weights_for_classes_that_do_not_exist(outputs: tuple[int, ...], expected: int):
    loss = losses.cross_entropy if expected == 4 else losses.binary_cross_entropy
    labels = np.zeros(outputs if expected == 2 else 3, np.int32)
    logits = np.zeros(outputs, np.float32)
    for count in (expected - 1, expected + 1):
        weighted = losses.with_class_weights(loss, [1.0] * count)
        with pytest.raises(InputError, match=f"each of the {expected} classes .* got {count}"):
            weighted(logits, labels)
    fitting = losses.with_class_weights(loss, [1.0] * expected)
    assert jax.eval_shape(fitting, logits, labels).size == 3


def test_class_weights_by_name():
    assert losses.named_class_weights({"cat": 2.5}, ("dog", "cat")).tolist() == [1.0, 2.5]
    with pytest.raises(UsageError, match=r"unknown class 'cta'; did you mean 'cat'\?"):
        losses.named_class_weights({"cta": 2.0}, ("dog", "cat"))


class PerToken(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return Dense(4)(inputs)


@pytest.mark.slow
def test_the_trainer_takes_masked_labels_and_accumulates_them_exactly():
    labels = np.tile(TOKEN_LABELS, (4, 1)).astype(np.int32)
    inputs = RNG.normal(size=(12, 5, 3)).astype(np.float32)
    data = Arrays(inputs, labels, weights=losses.position_counts(labels))
    task = Supervised(PerToken(), losses.masked(losses.cross_entropy), optax.sgd(0.5))
    result = Trainer(task).fit(data, epochs=3, batch_size=5)
    assert result.history["loss"][-1] < result.history["loss"][0]

    batch = {name: jnp.asarray(column) for name, column in data.columns().items()}
    batch["mask"] = jnp.arange(12) < 11
    whole, parts = (take_steps(t, batch, 2)[-1] for t in (task, accumulate(task, 4)))
    assert_close(parts.params, whole.params)

    plain = Supervised(PerToken(), losses.cross_entropy, optax.sgd(0.5))
    with pytest.raises(InputError, match="expected labels from 0 to 3"):
        Trainer(plain).fit(data, epochs=1)
    with pytest.raises(InputError, match="expected labels from 0 to 3"):
        Trainer(task).fit((inputs, labels - (labels < 0)), epochs=1)


@pytest.mark.slow
def test_balanced_training_finds_the_rare_class():
    inputs, _ = table(400)
    rare = (inputs[:, 0] > 1.2).astype(np.int32)
    assert 0.02 < rare.mean() < 0.2
    weights = losses.balanced_class_weights(rare)

    def recall(loss: Any, data: Any) -> float:
        task = Supervised(nn.Dense(2), loss, by_name("adam", 0.03))
        result = Trainer(task).fit(data, steps=60, batch_size=100)
        answers = result.model.predict(inputs).argmax(axis=1)
        return float((answers[rare == 1] == 1).mean())

    plain = recall(losses.cross_entropy, (inputs, rare))
    balanced = recall(losses.with_class_weights(losses.cross_entropy, weights), (inputs, rare))
    assert plain < 0.7 < 0.9 < balanced


@pytest.mark.parametrize("weights", [[], [1.0, -1.0], [1.0, float("nan")], [float("inf")]])
def test_impossible_class_weights_are_refused(weights):
    with pytest.raises(UsageError, match="a finite number of at least 0 a class"):
        losses.with_class_weights(losses.cross_entropy, weights)


@pytest.mark.parametrize(
    "loss", [losses.masked(losses.huber), losses.with_class_weights(losses.hinge, [1.0, 1.0])]
)
def test_what_is_no_class_number_is_refused_with_advice(loss):
    with pytest.raises(InputError, match=r"integer labels.*float32\[7\].*Arrays\(inputs, labels"):
        loss(LOGITS[:, 0], LOGITS[:, 0])
    with pytest.raises(InputError, match=r"labels \[7\], got \[6\]"):
        loss(LOGITS[:6, 0], LABELS)
