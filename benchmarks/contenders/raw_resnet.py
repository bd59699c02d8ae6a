"""ResNet-18 by hand in JAX: plain dicts of parameters and running statistics.

Options: `loop` and `form` as in `raw_jax`, whose loops it runs in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.contenders.raw_jax import LOOPS
from benchmarks.workloads import CLASSES, Contestant, Data, Workload

Tree = dict[str, Any]
Convolve = Callable[[jax.Array, jax.Array, int], jax.Array]

# Features and strides of the blocks.
BLOCKS = [(64 * 2**stage, 2 if stage and not i else 1) for stage in range(4) for i in range(2)]


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    examples = data.shaped(workload, scale=True)
    convolve = {"plain": _convolve, "im2col": _im2col}[options["form"]]
    optimizer = optax.adam(workload.learning_rate)
    params, stats = _init(np.random.default_rng(0))
    state: Any = (params, stats, optimizer.init(params))

    def step(state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        params, stats, opt_state = state

        def objective(params: Tree) -> Any:
            logits, after = _forward(params, stats, inputs, convolve, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = jnp.sum(jnp.argmax(logits, -1) == labels)
            return jnp.mean(losses), (after, (jnp.sum(losses), correct))

        grads, (stats, sums) = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), sums

    run_epoch = LOOPS[options["loop"]](step, examples, workload)

    def train(round_index: int) -> float:
        nonlocal state
        order = np.random.default_rng(round_index).permutation(workload.examples)
        state, loss = run_epoch(state, order.astype(np.int32))
        return loss / workload.examples

    def evaluate() -> float:
        predict = jax.jit(partial(_forward, convolve=convolve, train=False))
        logits, _ = predict(state[0], state[1], jnp.asarray(examples.test_inputs))
        return float(np.mean(np.argmax(logits, -1) == examples.test_labels))

    return Contestant(train, evaluate)


def _init(rng: np.random.Generator) -> tuple[Tree, Tree]:
    params: Tree = {}
    stats: Tree = {}

    def layer(name: str, size: int, fan: int, features: int) -> None:
        scale = np.sqrt(2 / (size * size * features))
        kernel = jnp.asarray(scale * rng.standard_normal((size, size, fan, features)), jnp.float32)
        params[name] = {"kernel": kernel, "scale": jnp.ones(features), "bias": jnp.zeros(features)}
        stats[name] = {"mean": jnp.zeros(features), "var": jnp.ones(features)}

    layer("stem", 7, 3, 64)
    fan = 64
    for i, (features, strides) in enumerate(BLOCKS):
        layer(f"block{i}a", 3, fan, features)
        layer(f"block{i}b", 3, features, features)
        if strides > 1:
            layer(f"block{i}c", 1, fan, features)
        fan = features
    kernel = jnp.asarray(rng.standard_normal((fan, CLASSES)) / np.sqrt(fan), jnp.float32)
    params["head"] = {"kernel": kernel, "bias": jnp.zeros(CLASSES)}
    return params, stats


def _forward(
    params: Tree, stats: Tree, inputs: jax.Array, convolve: Convolve, train: bool
) -> tuple[jax.Array, Tree]:
    after: Tree = {}

    def layer(name: str, x: jax.Array, strides: int = 1) -> jax.Array:
        x = convolve(x, params[name]["kernel"], strides)
        mean, var = stats[name]["mean"], stats[name]["var"]
        if train:
            mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
            var = square - mean * mean
        after[name] = {
            "mean": 0.9 * stats[name]["mean"] + 0.1 * mean,
            "var": 0.9 * stats[name]["var"] + 0.1 * var,
        }
        scale = params[name]["scale"] * lax.rsqrt(var + 1e-5)
        return x * scale + (params[name]["bias"] - mean * scale)

    x = jax.nn.relu(layer("stem", inputs, 2))
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)
    for i, (_, strides) in enumerate(BLOCKS):
        y = jax.nn.relu(layer(f"block{i}a", x, strides))
        y = layer(f"block{i}b", y)
        x = jax.nn.relu(y + (layer(f"block{i}c", x, strides) if strides > 1 else x))
    head = params["head"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"], after


def _convolve(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), [(pad, pad), (pad, pad)], dimension_numbers=numbers
    )


def _im2col(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    rows, columns = ((n - 1) // strides + 1 for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    down, across = (rows - 1) * strides + 1, (columns - 1) * strides + 1
    patches = jnp.concatenate(
        [
            x[:, i : i + down : strides, j : j + across : strides]
            for i in range(size)
            for j in range(size)
        ],
        axis=-1,
    )
    outputs = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return outputs.reshape(-1, rows, columns, kernel.shape[-1])
