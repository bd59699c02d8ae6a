"""Small tasks and data that the tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import losses, metrics
from jaxnet.training import Supervised
from tests.networks import Conv, Dense


class MLP(nn.Module):
    """Two dense layers: a network that is quick to compile."""

    hidden: int = 8
    outputs: int = 3

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = nn.tanh(Dense(self.hidden)(inputs))
        return Dense(self.outputs)(hidden)


class ConvNet(nn.Module):
    """One convolution, for which training on a CPU goes step by step."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = nn.tanh(Conv(2, (3, 3))(inputs))
        return Dense(3)(hidden.reshape(len(hidden), -1))


def table(n: int = 30, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows of four numbers, and classes that can be learnt from them."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 4)).astype(np.float32)
    labels = (inputs @ rng.normal(size=(4, classes)) + rng.normal(size=classes)).argmax(axis=1)
    return inputs, labels.astype(np.int32)


def images(n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same as 2x2 images."""
    inputs, labels = table(n, seed)
    return inputs.reshape(n, 2, 2, 1), labels


def make_batch(n: int = 8, masked: int = 0, seed: int = 0) -> dict[str, jax.Array]:
    """A batch of `table`, the last `masked` rows of which are padding."""
    inputs, labels = table(n, seed)
    return {
        "inputs": jnp.asarray(inputs),
        "labels": jnp.asarray(labels),
        "mask": jnp.asarray(np.arange(n) < n - masked),
    }


SGD = optax.sgd(0.1, momentum=0.9)


def classifier(model: Any = None, optimizer: Any = None, **options: Any) -> Supervised:
    """A task for `table`."""
    return Supervised(
        model or MLP(),
        losses.cross_entropy,
        optimizer or SGD,
        **{"metrics": {"accuracy": metrics.accuracy}, **options},
    )


def regressor(model: Any = None, optimizer: Any = None, **options: Any) -> Supervised:
    """A task for one number an example."""
    return Supervised(
        model or Dense(1), losses.squared_error, optimizer or optax.sgd(0.1), **options
    )


class Compiled:
    """The functions of a task, each compiled once at most."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.init = jax.jit(task.init)
        self.train_step = jax.jit(task.train_step)
        self.gradients = jax.jit(lambda state, b: task.gradients(task.objective, state, b))


_COMPILED: list[Compiled] = []


def compiled(task: Any) -> Compiled:
    """The compiled functions of a task, those of an equal one where there was one."""
    for known in _COMPILED:
        if known.task == task:
            return known
    _COMPILED.append(Compiled(task))
    return _COMPILED[-1]


def started(task: Any, batch: Any, seed: int = 0) -> Any:
    """The state before the first step."""
    return compiled(task).init(jax.random.key(seed), batch)


def gradients(task: Any, batch: Any) -> tuple[Any, Any]:
    """The gradient of the first step, and what came of the forward pass beside it."""
    return compiled(task).gradients(started(task, batch), batch)


def first_gradients(tasks: Any, batch: Any) -> tuple[Any, list[Any]]:
    """The parameters before the first step and each task's gradient there, in one program."""

    def run(key: jax.Array, batch: Any) -> tuple[Any, list[Any]]:
        states = [task.init(key, batch) for task in tasks]
        pairs = zip(tasks, states, strict=True)
        grads = [task.gradients(task.objective, state, batch)[0] for task, state in pairs]
        return states[0].params, grads

    return jax.jit(run)(jax.random.key(0), batch)


def take_steps(task: Any, batch: Any, steps: int, seed: int = 0) -> list[Any]:
    """The states after 0, 1, ..., `steps` steps on one batch."""
    states = [started(task, batch, seed)]
    for _ in range(steps):
        states.append(compiled(task).train_step(states[-1], batch)[0])
    return states


def first_steps(tasks: Any, batch: Any, steps: int = 1) -> list[list[Any]]:
    """`take_steps` of each task, all in one program: what they share is compiled once."""

    def run(key: jax.Array, batch: Any) -> list[list[Any]]:
        runs = []
        for task in tasks:
            states = [task.init(key, batch)]
            for _ in range(steps):
                states.append(task.train_step(states[-1], batch)[0])
            runs.append(states)
        return runs

    return jax.jit(run)(jax.random.key(0), batch)


def bits(tree: Any) -> dict[str, Any]:
    """The bytes of each leaf by its path: two trees are equal bit for bit where these are."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        described[jax.tree_util.keystr(path)] = (array.dtype.name, array.shape, array.tobytes())
    return described


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first."""
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir())


def assert_close(got: Any, expected: Any, tolerance: float = 1e-6) -> None:
    """All leaves agree, relatively or absolutely."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(got):
        other = jax.tree_util.tree_leaves_with_path(expected)
        reference = dict((jax.tree_util.keystr(p), v) for p, v in other)[jax.tree_util.keystr(path)]
        np.testing.assert_allclose(
            np.asarray(leaf, np.float64),
            np.asarray(reference, np.float64),
            rtol=tolerance,
            atol=tolerance,
            err_msg=jax.tree_util.keystr(path),
        )
