"""Metrics as users write them: the number over all data, or a refusal that says how."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet import metrics
from jaxnet.data import Arrays
from jaxnet.errors import UsageError
from jaxnet.metrics.by_name import by_name
from jaxnet.metrics.own import adapted
from jaxnet.training import Supervised, Trainer, with_auxiliary
from tests.training.helpers import table

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8)
# The last two rows are padding.
WEIGHTS = np.array([1, 2, 0.5, 1, 3, 1, 0, 0], np.float32)
SHARE = np.average(LOGITS.argmax(1) == LABELS, weights=WEIGHTS)


def accuracy(outputs, labels):
    return jnp.mean(outputs.argmax(-1) == labels)


def rights(outputs, labels):
    return outputs.argmax(-1) == labels


def right(outputs, labels):
    return (outputs.argmax(-1) == labels).astype(jnp.float32)


def weighted(outputs, labels, weights):
    return jnp.sum(weights * right(outputs, labels)) / jnp.sum(weights)


def maybe_weighted(outputs, labels, weights=None):
    return jnp.average(right(outputs, labels), weights=weights)


def at(outputs, labels, threshold=0.5):  # a third argument that isn't the weights
    return (outputs.argmax(-1) == labels) & (threshold < 1)


class Called:
    def __call__(self, outputs, labels):
        return rights(outputs, labels)


OWN = {
    "scalar": accuracy,
    "each": rights,
    "three": weighted,
    "optional weights": maybe_weighted,
    "option": at,
    "partial": functools.partial(at, threshold=0.25),
    "object": Called(),
    "library": metrics.accuracy,
    "lambda": lambda o, y: right(o, y),
    "any": lambda *arguments: weighted(*arguments),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "compiled"), [*((name, True) for name in OWN), ("each", False), ("three", False)]
)
def test_the_weighted_mean_over_the_examples(name, compiled):
    metric = adapted(name, OWN[name])
    assert adapted("again", metric) is metric
    measure = jax.jit(metric) if compiled else metric
    halves = [measure(LOGITS[i], LABELS[i], WEIGHTS[i]) for i in (slice(0, 3), slice(3, 8))]
    assert metrics.merge(*halves).compute() == pytest.approx(SHARE, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, y: jnp.sqrt(jnp.mean(jnp.square(o[:, 0] - y))), "isn't the mean over"),
        (lambda o, y: jnp.sum(o[:, 0] > y), "isn't the mean over"),
        (lambda o, y: jnp.corrcoef(o[:, 0], y)[0, 1], "isn't the mean over"),
        (lambda o, y, w: jnp.sum(w * o[:, 0]), "isn't the mean over"),
        (lambda o, y: o, r"shape \[8, 3\] for 8 examples"),
        (lambda o, y: sklearn_metrics.accuracy_score(y, o), "write it with jax.numpy"),
        (lambda o, y: 1.0 if o[0, 0] > 0 else 0.0, "write it with jax.numpy"),
        (lambda o, y: o[o > 0].mean(), "write it with jax.numpy"),
        (lambda o: o.mean(), r"takes \(o\): expected \(outputs, labels\) or"),
        (lambda o, y, w, more: o.mean(), r"takes \(o, y, w, more\)"),
        (lambda o, y, *, k: o.mean(), "give options with functools.partial"),
    ],
)
def test_what_cannot_be_put_together_is_refused_with_words(metric, message):
    labels = LABELS.astype(np.float32)
    with pytest.raises(UsageError, match=f"metric 'mine' .*{message}"):
        jax.jit(adapted("mine", metric))(LOGITS, labels, WEIGHTS)


def test_metrics_by_name_and_in_lists():
    named = by_name(["accuracy", rights, metrics.f1])
    assert list(named) == ["accuracy", "rights", "f1"]
    assert by_name("r2") == {"r2": metrics.r2}
    assert by_name({"right": "accuracy"}) == {"right": metrics.accuracy}
    with pytest.raises(UsageError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        by_name(["acuracy"])
    for nameless in (lambda o, y: o, functools.partial(at, threshold=1.0)):
        with pytest.raises(UsageError, match=r"a name of its own for each.*Give them as {'name'"):
            by_name([nameless])
    with pytest.raises(UsageError, match="a name of its own for each, got 'rights'"):
        by_name([rights, rights])
    with pytest.raises(UsageError, match=r"metric 'n': expected a function of .*got 3"):
        adapted.__wrapped__("n", 3)


def test_directions_that_are_declared():
    grows, shrinks = metrics.larger_is_better(rights), metrics.smaller_is_better(metrics.accuracy)
    for metric, better in ((grows, "max"), (shrinks, "min"), (rights, None)):
        assert jax.eval_shape(adapted("m", metric), LOGITS, LABELS, WEIGHTS).better == better
    assert not hasattr(rights, "better") and not hasattr(metrics.accuracy, "better")
    assert np.array_equal(grows(LOGITS, LABELS), rights(LOGITS, LABELS))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda task: task, with_auxiliary])
def test_a_run_reports_them_over_batches_of_which_the_last_is_padded(wrap):
    inputs, labels = table(10)
    task = Supervised(nn.Dense(3), "cross_entropy", optax.sgd(0.0), [accuracy, rights, "f1"])
    trainer = Trainer(wrap(task), eval_batch_size=4)
    weights = np.linspace(0.5, 2, 10).astype(np.float32)
    data = Arrays(inputs, labels, weights=weights)
    result = trainer.fit(data, data, epochs=1, batch_size=4)
    answers = result.model.predict(inputs).argmax(1)
    expected = np.average(answers == labels, weights=weights)
    for name in ("accuracy", "rights", "val_accuracy", "val_rights"):
        assert result.history[name][0] == pytest.approx(expected, rel=1e-6), name
    f1 = sklearn_metrics.f1_score(labels, answers, sample_weight=weights, average="macro")
    assert result.history["val_f1"][0] == pytest.approx(f1, rel=1e-6)


@pytest.mark.slow
def test_losses_and_optimizers_by_name():
    inputs, labels = table(30)
    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    result = Trainer(task).fit((inputs, labels), epochs=2)
    names = ["epoch", "step", "loss", "accuracy", "learning_rate"]
    assert list(result.history.rows[0]) == names
    for options, message in (
        (("crossentropy", "adam"), "unknown loss 'crossentropy'; did you mean 'cross_entropy'"),
        (("cross_entropy", "adm"), "unknown optimizer 'adm'; did you mean 'adam'"),
        (("cross_entropy", "lion"), r"'lion' has no usual learning rate: .*by_name\('lion', LEARN"),
        (("cross_entropy", 1e-3), "expected an Optax transformation, .* got 0.001"),
        ((None, "adam"), "expected a function of .outputs, labels. or the name of a loss, got N"),
    ):
        with pytest.raises(UsageError, match=message):
            Supervised(nn.Dense(3), *options)


def test_an_optimizer_by_name_has_the_learning_rate_that_keras_gives_it():
    from jaxnet.optimizers import by_name as optimizer_by_name
    from jaxnet.optimizers import usual

    params, gradient = {"w": np.ones(3, np.float32)}, {"w": np.full(3, 0.5, np.float32)}
    for name, rate in (("adam", 1e-3), ("sgd", 1e-2), ("rmsprop", 1e-3), ("momentum", 1e-2)):
        both = (usual(name), optimizer_by_name(name, rate))
        step = jax.jit(
            lambda grads, params, both=both: [
                made.update(grads, made.init(params), params)[0]["w"] for made in both
            ]
        )
        np.testing.assert_array_equal(*step(gradient, params))
