"""Linen modules as their authors spell them: the switch of training, and random streams."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Supervised, Trainer
from jaxnet.errors import InputError
from jaxnet.layers import Sequential
from jaxnet.training import freeze
from jaxnet.training.adapters import as_network
from jaxnet.training.network import compute_in
from jaxnet.training.techniques.scaled_target import Unscaled
from tests.training.helpers import classifier, make_batch

ONES = jnp.ones((2, 64))


class Train(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.Dropout(0.5)(inputs, deterministic=not train)


class Training(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, training: bool):
        return nn.Dropout(0.5, deterministic=not training)(inputs)


class IsTraining(nn.Module):
    @nn.compact
    def __call__(self, inputs, is_training=False):
        return nn.Dropout(0.5)(inputs, deterministic=not is_training)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, inputs, deterministic=True):
        return nn.Dropout(0.5)(inputs, deterministic)


SWITCHED = [
    Train(),
    Training(),
    IsTraining(),
    Deterministic(),
    nn.Dropout(0.5),
    Sequential([Deterministic()]),
    Unscaled(Training(), 0.0, 2.0),
]


def run(model: Any, train: bool, inputs: Any = ONES) -> Any:
    network = as_network(model)
    variables = network.init(jax.random.key(0), inputs)
    return network.apply(variables, inputs, train, jax.random.key(1) if train else None)


@pytest.mark.parametrize("model", SWITCHED, ids=lambda model: type(model).__name__)
def test_every_spelling_of_the_switch_drops_in_training_and_not_in_evaluation(model):
    scale = 2 if isinstance(model, Unscaled) else 1
    assert set(np.unique(run(model, True)[0] * scale)) == {0.0, 2.0}
    assert set(np.unique(run(model, False)[0] * scale)) == {1.0}


@pytest.mark.parametrize("model", ["Mode", "NoSwitch"])
def test_a_run_that_would_train_in_evaluation_mode_is_refused(model):
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(3)({"Mode": Mode, "NoSwitch": NoSwitch}[model]()(inputs))

    task = Supervised(Classifier(), "cross_entropy", "sgd")
    with pytest.raises(InputError, match="Classifier would be trained in evaluation mode"):
        Trainer(task).fit((np.ones((8, 64), np.float32), np.zeros(8, np.int64)), epochs=1)


def test_batch_normalisation_by_itself_is_told_too():
    inputs = jnp.arange(8.0).reshape(4, 2)
    outputs, collections = run(nn.BatchNorm(momentum=0.5), True, inputs)
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-6)
    assert float(collections["batch_stats"]["mean"][0]) == 1.5


class Mode(nn.Module):
    """Its switch is one that nobody knows."""

    @nn.compact
    def __call__(self, inputs, mode="eval"):
        return nn.Dropout(0.5, name="drop")(inputs, deterministic=mode == "eval")


class NoSwitch(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.BatchNorm(use_running_average=True, name="norm")(inputs)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=True)
        return attention(inputs[:, None])[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (Mode(), "Dropout drop"),
        (NoSwitch(), "BatchNorm norm"),
        (Attention(), "MultiHeadDotProductAttention"),
        (Sequential([Mode(), nn.Dense(3)]), "Dropout layers_0/drop"),
        (Unscaled(Mode()), "Dropout network/drop"),
        (nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)]), "Dropout layers_1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_would_train_as_it_is_evaluated_is_refused(model, layer):
    with pytest.raises(InputError, match=f"nothing tells {layer}.*is training. Give its call"):
        run(model, True)
    run(model, False)


def test_what_drops_nothing_and_what_is_frozen_needs_no_switch():
    run(nn.Sequential([nn.Dropout(0.0, deterministic=True)]), True)

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(inputs))

    task = freeze(classifier(Normed()), "BatchNorm_0/*")
    batch = make_batch(4)
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    jax.eval_shape(task.train_step, state, batch)


class Always(nn.Module):
    what: str

    @nn.compact
    def __call__(self, inputs, train=False):
        if self.what == "drops":
            return nn.Dropout(0.5, deterministic=False)(inputs)
        return nn.BatchNorm(use_running_average=False)(inputs)


@pytest.mark.parametrize(("what", "said"), [("drops", "uses random"), ("norms", "changes")])
def test_what_trains_in_evaluation_is_refused_with_words(what, said):
    network = as_network(Always(what))
    variables = Always("norms").init(jax.random.key(0), ONES)
    with pytest.raises(InputError, match=f"Always {said}.*in evaluation.*Give its call"):
        network.apply(variables, ONES, False, None)


# --- random streams -----------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws from streams of its own, from one of them if there is one, and from the default."""

    @nn.compact
    def __call__(self, inputs, train=False):
        if not train:
            return inputs
        drawn = [jax.random.normal(self.make_rng(name), (3,)) for name in ("noise", "gate")]
        if self.has_rng("maybe"):
            drawn.append(jax.random.normal(self.make_rng("maybe"), (3,)))
        drawn.append(jax.random.normal(self.make_rng(), (3,)))
        return jnp.stack([*drawn, nn.Dropout(0.5)(jnp.ones(3), deterministic=False)])


class Steps(nn.Module):
    """Copies along an axis, each with noise of its own."""

    @nn.compact
    def __call__(self, inputs, train=False):
        def step(module, carry, _):
            drawn = jax.random.normal(module.make_rng("noise"), ()) if train else 0.0
            return carry, drawn

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"noise": True}, length=3)
        return scan(self, 0.0, None)[1]


def test_every_random_stream_that_a_module_asks_for_is_derived_from_the_key():
    network = as_network(Noisy())

    def draw(seed: int) -> Any:
        return np.asarray(network.apply({"params": {}}, ONES, True, jax.random.key(seed))[0])

    first, again, other = draw(0), draw(0), draw(1)
    assert first.shape == (5, 3)  # the stream that it asks for politely is there too
    np.testing.assert_array_equal(first, again)
    assert not np.intersect1d(first[:4], other[:4]).size
    assert len(np.unique(first[:4])) == 12  # no two streams are one
    run(Noisy(), False)
    half = compute_in(as_network(Noisy()), "bf16")
    half.apply({"params": {}}, ONES, True, jax.random.key(0))


def test_copies_of_a_module_draw_by_themselves():
    assert len(np.unique(run(Steps(), True)[0])) == 3


def test_dropout_draws_what_it_drew_before_there_were_other_streams():
    key = jax.random.key(1)
    expected = Train().apply({}, ONES, True, rngs={"dropout": key})
    np.testing.assert_array_equal(run(Train(), True)[0], expected)
