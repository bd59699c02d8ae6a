"""NNX modules: trained as by a loop of NNX's own, and with all that a Linen module has."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnet import Bundle, Checkpoints, Supervised, Trainer, losses
from jaxnet.data import batches
from jaxnet.data.order import epoch_order
from jaxnet.errors import InputError, UsageError
from jaxnet.parallel import Layout
from jaxnet.training import Nnx, accumulate, as_network, freeze, mixed_precision, with_ema
from jaxnet.training.nonfinite import first_nonfinite
from tests.training.helpers import table

X, Y = table(48)
KEY = jax.random.key(0)
BATCH = {"inputs": jnp.asarray(X), "labels": jnp.asarray(Y), "mask": jnp.ones(48, bool)}


class Net(nnx.Module):
    """Batch normalisation, dropout and a list of layers."""

    def __init__(self, inputs: int, hidden: int = 8, rate: float = 0.0, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(hidden, 3, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.norm(self.first(inputs)))))


class Switched(nnx.Module):
    """Told by an argument whether it is training."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        return self.last(inputs) + (1.0 if train else 0.0)


class Noisy(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.last, self.rngs = nnx.Linear(4, 3, rngs=rngs), rngs

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.last(inputs + jax.random.normal(self.rngs.noise(), inputs.shape))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense, self.dropout = nnx.Linear(4, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.dropout(self.dense(inputs))


class Deep(nnx.Module):
    """Layers made by `nnx.vmap`, each with a random stream of its own, and run by `nnx.scan`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: Block(rngs)))(rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        through = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.last(through(self.blocks, inputs))


class Told(nnx.Module):
    """Draws from an argument, drops by another, and has a second method."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.last, self.dropout = nnx.Linear(4, 3, rngs=rngs), nnx.Dropout(0.5)

    def __call__(
        self, inputs: jax.Array, deterministic: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        return self.dropout(self.last(inputs), deterministic=deterministic, rngs=rngs)

    def twice(self, inputs: jax.Array) -> jax.Array:
        return 2 * self.last(inputs)

    def check_inputs(self, inputs: np.ndarray) -> None:
        raise InputError("none will do")


def task_of(model: Any, **options: Any) -> Supervised:
    return Supervised(model, losses.cross_entropy, optax.adam(0.01), ["accuracy"], **options)


def fitted(task: Any, **options: Any) -> Any:
    return Trainer(task).fit((X, Y), **{"epochs": 2, "batch_size": 16, **options})


def leaves(result: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves((result.state.params, result.state.collections))]


def test_trains_as_a_loop_of_nnx_does():
    """The same parameters and running statistics, and the module given is left as it was."""
    ours, theirs = Net(4, rngs=nnx.Rngs(3)), Net(4, rngs=nnx.Rngs(3))
    before = np.array(ours.first.kernel[...])
    result = fitted(task_of(ours), epochs=3)
    optimizer = nnx.Optimizer(theirs, optax.adam(0.01), wrt=nnx.Param)

    @nnx.jit
    def step(model: Net, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
        def loss(model: Net) -> jax.Array:
            return losses.cross_entropy(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    theirs.train()
    with jax.numpy_dtype_promotion("standard"):
        for epoch in range(3):
            for rows in batches(epoch_order(0, epoch, 48, shuffle=True), 16):
                step(theirs, optimizer, jnp.asarray(X[rows]), jnp.asarray(Y[rows]))
    params, statistics = result.state.params, result.state.collections["batch_stats"]
    for name in ("first", "last"):
        expected = getattr(theirs, name).kernel[...]
        np.testing.assert_allclose(params[name]["kernel"], expected, atol=1e-5)
    np.testing.assert_allclose(statistics["norm"]["mean"], theirs.norm.mean[...], atol=1e-5)
    np.testing.assert_array_equal(ours.first.kernel[...], before)
    theirs.eval()
    np.testing.assert_allclose(result.model.predict(X), theirs(jnp.asarray(X)), atol=1e-4)
    assert not result.model.trainer.programs.compiles.repeated()


def test_a_class_starts_by_the_seed_and_a_module_with_what_it_has():
    batch = jnp.ones((2, 4))
    network = as_network(Nnx(Net, (4,), {"hidden": 5}))
    one, two = (network.init(jax.random.key(seed), batch)["params"] for seed in (0, 1))
    assert one["first"]["kernel"].shape == (4, 5)
    assert not np.allclose(one["first"]["kernel"], two["first"]["kernel"])
    module = Net(4, rngs=nnx.Rngs(0))
    started = as_network(module).init(jax.random.key(7), batch)["params"]
    np.testing.assert_array_equal(started["first"]["kernel"], module.first.kernel[...])
    with pytest.raises(UsageError, match="expected a class of flax"):
        Nnx(nn.Dense)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="Sequential takes no argument `rngs`"):
        Nnx(nnx.Sequential)


def test_dropout_differs_by_step_and_is_off_in_evaluation():
    network = as_network(Net(4, rate=0.5, rngs=nnx.Rngs(0)))
    variables = network.init(jax.random.key(0), jnp.asarray(X))

    def outputs(train: bool, seed: int | None) -> np.ndarray:
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(network.apply(variables, jnp.asarray(X), train, key)[0])

    assert not np.allclose(outputs(True, 0), outputs(True, 1))
    np.testing.assert_array_equal(outputs(True, 0), outputs(True, 0))
    np.testing.assert_array_equal(outputs(False, None), outputs(False, None))
    switched = as_network(Switched(nnx.Rngs(0)))
    variables = switched.init(jax.random.key(0), jnp.asarray(X))
    trained = switched.apply(variables, jnp.asarray(X), True, jax.random.key(0))[0]
    evaluated = switched.apply(variables, jnp.asarray(X), False, None)[0]
    np.testing.assert_allclose(trained - evaluated, 1.0, atol=1e-6)


@pytest.mark.parametrize("kind", [Deep, Told])
def test_random_streams_wherever_a_module_has_them(kind):
    network = as_network(Nnx(kind))
    variables = jax.jit(network.init)(KEY, jnp.asarray(X))
    apply = jax.jit(network.apply, static_argnums=2)

    def outputs(train: bool, key: jax.Array | None) -> np.ndarray:
        return np.asarray(apply(variables, jnp.asarray(X), train, key)[0])

    one, two, again = (outputs(True, jax.random.key(seed)) for seed in (0, 1, 0))
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(one, again)
    expected = jnp.asarray(X)
    if kind is Deep:
        for kernel in variables["params"]["blocks"]["dense"]["kernel"]:
            expected = expected @ kernel
    expected = expected @ variables["params"]["last"]["kernel"]
    np.testing.assert_allclose(outputs(False, None), expected, atol=1e-5)


def test_another_method_and_the_check_of_inputs():
    module = Told(nnx.Rngs(0))
    for model in (module, Nnx(Told)):
        network = as_network(model)
        variables = network.init(KEY, jnp.asarray(X))
        once = network.apply(variables, jnp.asarray(X), False, None)[0]
        for other in (network.part("twice"), as_network(model, "twice")):
            twice = other.apply(variables, jnp.asarray(X), False, None)[0]
            np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
        with pytest.raises(InputError, match="none will do"):
            network.check_inputs(X)


def test_a_frozen_batch_normalisation_uses_its_running_statistics():
    variables = as_network(Nnx(Net, (4,))).init(KEY, jnp.asarray(X))

    def outputs(pattern: str, train: bool) -> np.ndarray:
        task: Any = freeze(task_of(Nnx(Net, (4,))), pattern)
        network = task.inference(jax.eval_shape(task.init, KEY, BATCH)).network
        key = jax.random.key(0) if train else None
        return np.asarray(network.apply(variables, jnp.asarray(X), train, key)[0])

    np.testing.assert_allclose(outputs("norm/*", True), outputs("norm/*", False), atol=1e-6)
    assert not np.allclose(outputs("first/*", True), outputs("first/*", False))


def test_the_first_layer_that_isnt_finite_is_named():
    network = as_network(Nnx(Net, (4,)))
    variables: Any = network.init(KEY, jnp.asarray(X))
    variables["params"]["norm"]["scale"] = jnp.full(8, 3e38)
    stages = network.layers(variables, jnp.asarray(X), KEY)
    assert first_nonfinite(stages, {}).startswith("first in norm: ")
    layers = [name for name, _ in stages if not name.startswith("the input of")]
    assert layers == ["first", "norm", "dropout", "last", "the network"]


def test_random_numbers_in_evaluation_are_refused():
    with pytest.raises(InputError, match=r"Noisy draws random numbers \(.*\) in evaluation"):
        fitted(task_of(Nnx(Noisy)), valid=(X, Y))


def test_resumed_is_uninterrupted_under_techniques(tmp_path):
    model = Nnx(Net, (4,), {"rate": 0.2})
    task = with_ema(accumulate(freeze(task_of(model), "first/**"), 2), 0.9)
    whole = fitted(task, epochs=3)
    for epochs in (1, 3):
        resumed = Trainer(task, checkpoints=Checkpoints(tmp_path)).fit(
            (X, Y), epochs=epochs, batch_size=16
        )
    for mine, other in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_sharded_is_plain_and_half_precision_trains():
    # Not Adam: the gradient by the bias before a batch normalisation is nothing but rounding.
    task = Supervised(Nnx(Net, (4,)), "cross_entropy", optax.sgd(0.1))
    plain = fitted(task)
    for layout in (Layout(data=2), Layout(fsdp=2, fsdp_min_size=1)):
        other = Trainer(task, layout=layout).fit((X, Y), epochs=2, batch_size=16)
        for mine, theirs in zip(leaves(plain), leaves(other), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
    half = fitted(mixed_precision(task, "bf16"))
    assert half.model.predict(X).dtype == np.float32
    assert half.state.collections["batch_stats"]["norm"]["mean"].dtype == np.float32


LOADED = """
import sys
import numpy as np
from jaxnet import Bundle
print(Bundle.load(sys.argv[1]).predict(np.ones((2, 4), np.float32)).tolist())
"""


def test_a_bundle_of_a_class_predicts_in_another_process(tmp_path):
    model = fitted(task_of(Nnx(Net, (4,), {"hidden": 5}))).model
    Bundle.of(model).save(tmp_path)
    command = [sys.executable, "-c", LOADED, str(tmp_path)]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert there == f"{model.predict(np.ones((2, 4), np.float32)).tolist()}\n"
    with pytest.raises(InputError, match="keeps the class of a model and its arguments"):
        Bundle.of(fitted(task_of(Net(4, rngs=nnx.Rngs(0))), epochs=1).model)
    described = tmp_path / "bundle.json"
    described.write_text(described.read_text().replace("test_nnx:Net", "helpers:MLP"))
    with pytest.raises(InputError, match="MLP is no NNX module, and nothing else is taken"):
        Bundle.load(tmp_path)
