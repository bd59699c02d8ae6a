"""Frozen layers: every bit of them stays, and they compute what they compute in evaluation."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optimizers, trees
from jaxnet.errors import InputError
from jaxnet.training import (
    accumulate,
    clip,
    freeze,
    freeze_except,
    log_norms,
    mixed_precision,
    with_ema,
)
from tests.networks import Dense, applied
from tests.training.helpers import (
    bits,
    classifier,
    compiled,
    first_steps,
    make_batch,
    started,
    take_steps,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "frozen"),
    [
        (lambda t: freeze(t, "Dense_0/**"), {"Dense_0/kernel", "Dense_0/bias"}),
        (lambda t: freeze(t, "**/bias"), {"Dense_0/bias", "Dense_1/bias"}),
        (lambda t: freeze_except(t, "Dense_1/*"), {"Dense_0/kernel", "Dense_0/bias"}),
    ],
)
def test_frozen_parameters_keep_every_bit_and_the_others_move(task, frozen):
    adamw = optimizers.by_name("adamw", 1e-2, weight_decay=0.1)
    task = task(classifier(optimizer=adamw))
    batch = make_batch(8)
    state = started(task, batch)
    # A negative zero, too, has to stay one.
    params = jax.tree.map(lambda p: np.where(p == 0, -np.asarray(p), p), state.params)
    state = after = state.replace(params=params)
    for _ in range(5):
        after = compiled(task).train_step(after, batch)[0]
    for layer, name in itertools.product(("Dense_0", "Dense_1"), ("kernel", "bias")):
        old, new = np.asarray(state.params[layer][name]), np.asarray(after.params[layer][name])
        if f"{layer}/{name}" in frozen:
            assert old.tobytes() == new.tobytes()
        else:
            assert (old != new).all()
    moments = {leaf.shape for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim}
    assert ((4, 8) in moments) == ("Dense_0/kernel" not in frozen)


def test_frozen_parameters_take_no_part_in_clipping():
    plain, frozen = classifier(optimizer=optax.sgd(1.0)), "Dense_0/**"
    tasks = freeze(clip(plain, 0.1), frozen), clip(freeze(plain, frozen), 0.1)
    for before, after in first_steps(tasks, make_batch(8)):
        moved = jax.tree.map(
            lambda a, b: np.asarray(a, np.float64) - b, before.params, after.params
        )
        norm = np.sqrt(sum((m**2).sum() for m in jax.tree.leaves(moved["Dense_1"])))
        np.testing.assert_allclose(norm, 0.1, rtol=1e-5)


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_paths():
    for technique in (freeze, freeze_except):
        with pytest.raises(
            InputError, match=r"'Dense_9/\*' matches none of these 4 paths"
        ) as error:
            task = technique(classifier(), "Dense_9/*")
            jax.eval_shape(task.init, jax.random.key(0), make_batch())
        assert "Dense_0/kernel" in str(error.value)


# --- running statistics -------------------------------------------------------------------------


class Block(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        calls = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value += 1
        hidden = Dense(6)(inputs)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.5)(hidden)
        # By an argument, and without parameters of its own.
        plain = nn.BatchNorm(use_scale=False, use_bias=False, momentum=0.5, name="plain")
        return nn.relu(plain(hidden, use_running_average=not train))


class Deep(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = Block(name="trunk")(inputs, train)
        return Dense(3)(Block(name="head")(hidden, train))


ALL = {f"{block}/{name}" for block in ("trunk", "head") for name in (
    "calls", "BatchNorm_0/mean", "BatchNorm_0/var", "plain/mean", "plain/var")}  # fmt: skip
TRUNK = {path for path in ALL if path.startswith("trunk/")}
PLAIN = {path for path in ALL if "/plain/" in path}
CALLS = {path for path in ALL if path.endswith("/calls")}
CHOICES = {
    "a block": (lambda t: freeze(t, "trunk/**"), TRUNK),
    "all but a head": (lambda t: freeze_except(t, "Dense_0/**", "head/**"), TRUNK),
    "the norms": (lambda t: freeze(t, "**/BatchNorm_0/*"), ALL - PLAIN - CALLS),
    "one by its names": (
        lambda t: freeze(t, "trunk/BatchNorm_0/scale", "trunk/BatchNorm_0/bias"),
        {path for path in TRUNK if "BatchNorm_0" in path},
    ),
    "kernels": (lambda t: freeze(t, "**/kernel"), set()),
    "half of the norms": (lambda t: freeze(t, "**/scale"), set()),
    "all but biases": (lambda t: freeze_except(t, "**/bias"), PLAIN | CALLS),
    "everything": (lambda t: freeze(t, "**"), ALL),
}


@pytest.fixture(scope="module")
def states() -> list[Any]:
    """Of a network whose statistics are none that a batch has; before and after 2 steps."""
    return take_steps(classifier(Deep()), make_batch(8), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_a_layer_of_whose_parameters_all_are_frozen_keeps_its_other_variables(name, states):
    make, expected = CHOICES[name]
    frozen = make(classifier(Deep())).frozen.variables(states[0].collections, states[0].params)
    marked = {path: mark for tree in frozen.values() for path, mark in trees.named(tree).items()}
    assert marked == {path: path in expected for path in ALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a block", "all but biases", "half of the norms"])
def test_frozen_layers_keep_and_use_their_statistics(name, states):
    make, expected = CHOICES[name]
    task, batch, before = make(classifier(Deep())), make_batch(8), states[2]
    # Of what is trained alone, with which momentum begins at 0.
    opt_state = jax.eval_shape(task.init, jax.random.key(0), batch).opt_state
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), opt_state)
    before = before.replace(opt_state=zeros)
    after, _ = jax.jit(task.train_step)(before, batch)
    old, new = bits(list(before.collections.values())), bits(list(after.collections.values()))
    paths = [path for tree in before.collections.values() for path in trees.named(tree)]
    kept = {path for path, key in zip(paths, old, strict=True) if old[key] == new[key]}
    assert kept == expected


def test_a_frozen_trunk_gives_the_features_of_evaluation(states):
    batch = make_batch(8)
    network, _, variables = freeze(classifier(Deep()), "trunk/**").inference(states[2])
    layers = jax.jit(lambda *args: dict(network.layers(*args)))
    seen = layers(variables, batch["inputs"], jax.random.key(1))
    trunk = {kind: tree["trunk"] for kind, tree in variables.items() if "trunk" in tree}
    expected = applied(Block(), trunk, batch["inputs"])
    np.testing.assert_allclose(seen["trunk"], expected, rtol=1e-6)


@pytest.mark.slow
def test_it_goes_along_with_the_other_techniques():
    around = [
        lambda t: freeze(t, "trunk/**"),
        lambda t: accumulate(t, 2),
        lambda t: mixed_precision(t, "bf16"),
        log_norms,
        lambda t: with_ema(t, 0.9),
    ]
    task: Any = classifier(Deep())
    for technique in around:
        task = technique(task)
    before, after = take_steps(task, make_batch(8), 1)
    for collection in ("batch_stats", "counts"):
        old, new = before.collections[collection], after.collections[collection]
        assert bits(old["trunk"]) == bits(new["trunk"])
        assert bits(old["head"]) != bits(new["head"])
    assert bits(before.params["trunk"]) == bits(after.params["trunk"])
    ema = after.memory["ema"].values
    assert bits(ema["params"]["trunk"]) == bits(before.params["trunk"])


class Lifted(nn.Module):
    """Batch normalisation under transformations of modules."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.remat(nn.BatchNorm)(use_running_average=not train, name="again")(inputs)
        copies = nn.vmap(
            nn.BatchNorm,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=-1,
            out_axes=-1,
        )
        hidden = copies(use_running_average=not train, name="copies")(hidden[..., None])
        return Dense(3)(hidden[..., 0])


def test_it_reaches_layers_within_transformations_of_modules():
    before, after = take_steps(
        freeze(classifier(Lifted()), "again/*", "copies/*"), make_batch(8), 1
    )
    assert bits(after.collections) == bits(before.collections)
    assert bits(after.params["Dense_0"]) != bits(before.params["Dense_0"])


def test_a_method_of_a_model_is_frozen_as_the_model_is():
    from jaxnet import losses
    from jaxnet.training import Reconstruction

    class Coder(nn.Module):
        def setup(self):
            self.norm, self.dense = nn.BatchNorm(momentum=0.5), Dense(4)

        def encode(self, inputs, train=False):
            return self.norm(inputs, use_running_average=not train)

        def decode(self, codes, train=False):
            return self.dense(codes)

        def __call__(self, inputs, train=False):
            return self.decode(self.encode(inputs, train), train)

    task = Reconstruction(Coder(), losses.squared_error, optax.sgd(0.1))
    batch = make_batch(8)
    state = started(task, batch)
    variables = {"params": state.params, **state.collections}
    for frozen in (False, True):
        changed: Any = freeze(task, "norm/*").task if frozen else task  # pyright: ignore
        encode = jax.jit(changed.part("encode").apply, static_argnums=2)
        codes, new = encode(variables, batch["inputs"], True, state.key)
        same = np.allclose(codes, np.asarray(batch["inputs"]), atol=1e-4)
        assert same == frozen
        assert (bits(new) == bits(state.collections)) == frozen
