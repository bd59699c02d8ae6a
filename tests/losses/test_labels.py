"""Labels that a loss doesn't take are refused before training, and are NaN within it."""

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
from jaxnet.data import fit_range
from jaxnet.data.arrays import Arrays
from jaxnet.data.scaling import Scale
from jaxnet.errors import InputError, UsageError
from jaxnet.losses import check_labels
from jaxnet.losses.density import bernoulli
from jaxnet.training import (
    Reconstruction,
    Retrieval,
    Supervised,
    TeacherForcing,
    Trainer,
    Variational,
    guard_nonfinite,
    scaled_target,
    with_auxiliary,
)

INF = np.inf
INPUTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

# By loss: labels that it takes, and others with what its message says of them.
ONE_HOT = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
YES = np.array([0, 1, 1, 0, 1, 0])
SOFT = np.array([0.0, 1.0, 0.25, 0.5, 1.0, 0.0], np.float32)
SIGNS = np.array([-1, 1, 1, -1, 1, -1])
CLASSES = np.array([0, 2, 1, 0, 1, 2])
UNIT = r"from 0 \(no\) to 1 \(yes\)"
WRONG_YES = [
    (YES + 1, f"{UNIT}; got 2 in row 1"),
    (SIGNS, f"{UNIT}; got -1 in row 0"),
    (255 * YES, f"{UNIT}; got 255 in row 1"),
    (SOFT * 1.5, f"{UNIT}; got 1.5 in row 1"),
]
WRONG_SHARES = [
    (ONE_HOT * 2, r"sum 1; got \[2. 0. 0.\], sum 2, in row 0. Divide"),
    (np.maximum(ONE_HOT, ONE_HOT[::-1]), r"sum 2, in row 0.*several classes.*binary_cross_entropy"),
    (ONE_HOT - ONE_HOT[::-1] + 1 / 3, r"\[ 1.3\d* +0.3\d* +-0.6\d* *\], sum 1, in row 0"),
]
WRONG_CLASSES = [(CLASSES + 1, "from 0 to 2, because the model has 3 outputs; got 3 in row 1")]
MIXED = "got 0 in row 1"  # which a row by itself doesn't tell
WRONG_SIDES = [
    (YES + 1, r"0 \(no\) and 1 \(yes\), or -1 \(no\) and 1 \(yes\); got 2 in row 1"),
    (np.array([-1, 0, 1, 1, 1, 1]), MIXED),
    (SOFT, "got 0.25 in row 2"),
]
TAKES: dict[Any, tuple[list[np.ndarray], list[tuple[np.ndarray, str]]]] = {
    losses.binary_cross_entropy: ([YES, SOFT, YES.astype(bool), YES.astype(np.uint8)], WRONG_YES),
    losses.binary_focal: ([YES, SOFT], WRONG_YES),
    bernoulli: ([YES, SOFT], WRONG_YES),
    losses.hinge: ([YES, SIGNS, YES.astype(np.float32)], WRONG_SIDES),
    losses.squared_hinge: ([YES, SIGNS], WRONG_SIDES),
    losses.cross_entropy: ([CLASSES, YES], WRONG_CLASSES),
    losses.focal: ([CLASSES], WRONG_CLASSES),
    losses.multiclass_hinge: ([CLASSES], WRONG_CLASSES),
    losses.categorical_cross_entropy: ([ONE_HOT, 0.9 * ONE_HOT + 0.1 / 3], WRONG_SHARES),
    losses.kl_divergence: ([ONE_HOT], WRONG_SHARES),
    losses.categorical_hinge: ([ONE_HOT], WRONG_SHARES),
}
REGRESSION = {"squared_error", "absolute_error", "huber", "log_cosh", "sum_of_squares"}


def outputs_for(loss: Any, labels: np.ndarray) -> np.ndarray:
    classes = loss in (losses.cross_entropy, losses.focal, losses.multiclass_hinge)
    shape = (*labels.shape, 3) if classes else labels.shape
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_every_loss_by_name_is_among_those_tested_or_of_regression():
    named = {loss.__name__ for loss in TAKES} - {"bernoulli"}
    assert named | REGRESSION == set(losses.LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize("loss", TAKES, ids=lambda loss: loss.__name__)
def test_labels_that_a_loss_takes_and_those_it_does_not(loss):
    taken, refused = TAKES[loss]
    for labels in taken:
        outputs = outputs_for(loss, labels)
        check_labels(loss, labels, outputs.shape, "data")
        assert np.isfinite(loss(outputs, labels)).all()
    for labels, message in refused:
        outputs = outputs_for(loss, labels)
        with pytest.raises(InputError, match=f"data: .*{message}"):
            check_labels(loss, labels, outputs.shape, "data")
        # What reads the data as it goes finds it in the loss, of the wrong rows and no others.
        made, back = jax.vjp(lambda z, y=labels: loss(z, y), outputs)
        assert np.isnan(made).any() or message == MIXED
        if labels is not refused[0][0]:
            continue
        rows = np.isnan(made)
        assert np.array_equal(rows, labels > labels.max() - 1) or labels.ndim == 2
        assert np.isfinite(back(np.where(rows, 0, 1).astype(np.float32))[0]).all()


@pytest.mark.slow
def test_rounding_of_half_precision_is_let_pass():
    check_labels(bernoulli, np.array([[0.0, 1.004]]), (1, 2), "data")
    soft = jax.nn.softmax(jnp.linspace(0, 3, 40)).astype(jnp.float16)[None]
    check_labels(losses.categorical_cross_entropy, np.asarray(soft), (1, 40), "data")
    assert np.isfinite(losses.kl_divergence(jnp.zeros((1, 40)), soft)).all()


BINARY, WIDE = losses.binary_cross_entropy, (6, 1)


@pytest.mark.parametrize(
    ("loss", "labels", "outputs", "message"),
    [
        (functools.partial(losses.binary_focal, gamma=1.0), YES + 1, WIDE, "binary_focal .* got 2"),
        (losses.masked(BINARY), np.array([0, 1, -1, 2, 0, 1]), WIDE, "got 2 in row 3"),
        (losses.masked(losses.hinge, -100), np.array([-100, -1, 1, 2]), WIDE, "got 2 in row 3"),
        (losses.with_class_weights(BINARY, [1.0, 2.0]), YES + 1, WIDE, "weight .* got 2 in row 1"),
        (
            losses.masked(losses.with_class_weights(losses.focal, [1.0, 2.0, 3.0])),
            np.array([[0, -1], [2, 3]]),
            (2, 2, 3),
            r"got 3 in row 1, position 1",
        ),
        (
            functools.partial(losses.cross_entropy, label_smoothing=0.1),
            CLASSES + 1,
            (6, 3),
            "got 3 in row 1",
        ),
    ],
)
def test_losses_that_are_made_out_of_others(loss, labels, outputs, message):
    with pytest.raises(InputError, match=message):
        check_labels(loss, labels, outputs, "data")


def test_gaps_are_left_out_of_the_check():
    check_labels(losses.masked(BINARY), np.array([0, 1, -1]), (3, 1), "data")
    check_labels(losses.masked(losses.hinge, -100), np.array([-100, -1, 1]), (3, 1), "data")


def fit(task: Any, inputs: np.ndarray, labels: np.ndarray, **options: Any) -> Any:
    trainer = Trainer(task)
    try:
        return trainer.fit((inputs, labels), epochs=1, batch_size=6, **options)
    except InputError:
        assert set(trainer.programs.compiles.traces) <= {"initialisation"}
        raise


SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Supervised(nn.Dense(1), BINARY, SGD), "arrays: binary_cross_entropy .* got 2 in row 1"),
        (with_auxiliary(Supervised(nn.Dense(1), losses.hinge, SGD)), "hinge .* got 2 in row 1"),
        (
            with_auxiliary(Supervised(nn.Dense(2), losses.masked(losses.cross_entropy), SGD)),
            "from 0 to 1, .* got 2 in row 1",
        ),
        (
            scaled_target(Supervised(nn.Dense(1), BINARY, SGD), Scale(0.0, 2.0)),
            "on the scale of the target binary_cross_entropy .* got 2 in row 1",
        ),
    ],
)
def test_runs_are_refused_before_anything_is_compiled(task, message):
    with pytest.raises(InputError, match=message):
        fit(task, INPUTS, YES + 1)
    with pytest.raises(InputError, match=message):
        fit(task, INPUTS, 0 * YES, valid=(INPUTS, YES + 1))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal, losses.multiclass_hinge])
def test_one_logit_is_no_softmax(loss):
    """The softmax of one logit is 1 whatever it is: 0 and 1 as labels gave NaN."""
    with pytest.raises(InputError, match=f"{loss.__name__} compares .*binary_cross_entropy"):
        fit(Supervised(nn.Dense(1), loss, SGD), INPUTS, YES)
    with pytest.raises(InputError, match="compares the logits of several classes"):
        losses.categorical_cross_entropy(np.zeros((2, 1)), np.ones((2, 1)))


class Coder(nn.Module):
    """An autoencoder of the smallest kind; variational where it is asked for its parts."""

    def setup(self) -> None:
        self.mean, self.spread, self.out = nn.Dense(2), nn.Dense(2), nn.Dense(4)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.decode(self.encode(inputs)[0])

    def encode(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.mean(inputs), self.spread(inputs)

    def decode(self, codes: jax.Array) -> jax.Array:
        return self.out(codes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Reconstruction, Variational])
def test_what_is_to_be_given_back_has_to_be_a_label_of_the_loss(kind):
    pixels = np.array([[0, 3, 255, 8], [1, 0, 0, 1]], np.uint8)
    message = "inputs, as preprocess gives them: bernoulli .* got 3.0 in row 0, position 1.*fit_r"
    task = kind(Coder(), bernoulli, SGD, preprocess=lambda inputs: inputs.astype(np.float32))
    with pytest.raises(InputError, match=message):
        fit(task, pixels, np.zeros(2, np.int32))
    scale = fit_range(Arrays(pixels, np.zeros(2, np.int32)))
    assert np.isfinite(
        fit(kind(Coder(), bernoulli, SGD, preprocess=scale), pixels, np.zeros(2, np.int32)).best
    )


class Pair(nn.Module):
    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        return nn.Embed(9, 2)(inputs[:, 0]), nn.Embed(3, 2)(inputs[:, 1])


class Writer(nn.Module):
    @nn.compact
    def __call__(self, source: jax.Array, written: jax.Array) -> jax.Array:
        return nn.Dense(5)(nn.Embed(5, 2)(written))


def test_items_and_tokens():
    task = Retrieval(Pair(), losses.in_batch_softmax, SGD, catalogue=np.arange(3)[:, None])
    ids = np.array([[8, 2], [4, 0]])
    with pytest.raises(InputError, match=r"item numbers from 0 to 2.*got 3 in row 1"):
        fit(task, ids, np.array([2, 3]))
    with pytest.raises(InputError, match=r"item numbers \(n,\), integers, got float32"):
        fit(task, ids, np.array([2.0, 1.0], np.float32))
    tokens = np.array([[4, 1, -1], [2, 1, -1]])
    writing = TeacherForcing(Writer(), losses.masked(losses.cross_entropy), SGD)
    with pytest.raises(InputError, match="which are decoder inputs too; got -1 in row 0"):
        fit(writing, tokens * 0, tokens)


class Reads:
    """Data that is read as it goes, with a label that is none in its last row."""

    name = "reads"

    def __len__(self) -> int:
        return 6

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "inputs": jax.ShapeDtypeStruct((4,), np.float32),
            "labels": jax.ShapeDtypeStruct((), np.int32),
        }

    def read(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        return {"inputs": INPUTS[rows], "labels": np.where(rows == 5, 2, 1).astype(np.int32)}


@pytest.mark.slow
def test_a_label_that_is_read_as_it_goes_ends_the_run_by_name(caplog):
    task = guard_nonfinite(Supervised(nn.Dense(1), BINARY, SGD), "stop")
    result = Trainer(task).fit(Reads(), epochs=2, batch_size=6)
    assert (result.stop_reason, result.last_step) == ("nonfinite", 0)
    assert "the batch: binary_cross_entropy expects labels from 0 (no) to 1 (yes); got 2" in (
        caplog.text
    )


LOGITS = jnp.array([[2.0, -INF, -INF], [1.0, 3.0, -INF], [-INF, 0.5, 0.25]])
NUMBERS = jnp.array([0, 1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("loss", TAKES, ids=lambda loss: loss.__name__)
def test_classes_that_are_ruled_out_cost_nothing_and_have_no_gradient(loss):
    """Logits of -inf at other classes, and infinite ones on the right side, as masks make them."""
    if loss in (losses.cross_entropy, losses.focal, losses.multiclass_hinge):
        outputs, labels = LOGITS, NUMBERS
    elif loss in (losses.categorical_cross_entropy, losses.kl_divergence, losses.categorical_hinge):
        outputs, labels = LOGITS, jax.nn.one_hot(NUMBERS, 3)
    else:
        outputs, labels = jnp.array([INF, -INF, 200.0, -200.0, 0.5]), jnp.array([1, 0, 1, 0, 1])
    kinds = [loss]
    if "focal" in loss.__name__:
        kinds += [functools.partial(loss, gamma=gamma) for gamma in (0.0, 0.5)]
    for kind in kinds:
        made, back = jax.vjp(lambda z, f=kind: f(z, labels), outputs)
        assert np.isfinite(made).all()
        assert made[0] == 0 or "hinge" in loss.__name__
        gradient = back(jnp.ones_like(made))[0]
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[np.isinf(outputs)])


def test_a_loss_that_gives_their_mean_is_told_so():
    def mse(outputs, labels):
        return jnp.mean(jnp.square(outputs[:, 0] - labels))

    with pytest.raises(UsageError, match=r"your loss 'mse' gave one number.*Leave the mean out"):
        fit(Supervised(nn.Dense(1), mse, SGD), INPUTS, SOFT)
    each = Supervised(nn.Dense(2), lambda outputs, labels: outputs, SGD)
    with pytest.raises(UsageError, match=r"shape \[6, 2\] .*\(B,\) = \[6\]. Average over"):
        fit(each, INPUTS, SOFT)
