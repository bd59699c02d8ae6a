"""The transformer encoder by hand in JAX: plain dicts of parameters.

Options: `loop` as in `raw_jax`, whose loops it runs in. `form`: `heads` puts the heads before the
time, so that all products are of contiguous matrices; `einsum` leaves that to the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    examples = data.shaped(workload, scale=False)
    optimizer = optax.adam(workload.learning_rate)
    forward = partial(_forward, heads=workload.heads, attend=ATTENTION[options["form"]])
    params = _init(workload, np.random.default_rng(0))
    state: Any = (params, optimizer.init(params))

    def step(state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        params, opt_state = state

        def objective(params: Tree) -> Any:
            logits = forward(params, inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = jnp.sum(jnp.argmax(logits, -1) == labels)
            return jnp.mean(losses), (jnp.sum(losses), correct)

        grads, sums = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), sums

    run_epoch = LOOPS[options["loop"]](step, examples, workload)

    def train(round_index: int) -> float:
        nonlocal state
        order = np.random.default_rng(round_index).permutation(workload.examples)
        state, loss = run_epoch(state, order.astype(np.int32))
        return loss / workload.examples

    def evaluate() -> float:
        logits = jax.jit(forward)(state[0], jnp.asarray(examples.test_inputs))
        return float(np.mean(np.argmax(logits, -1) == examples.test_labels))

    return Contestant(train, evaluate)


def _init(workload: Workload, rng: np.random.Generator) -> Tree:
    width, (hidden,) = workload.embedding, workload.hidden

    def table(rows: int) -> jax.Array:
        return jnp.asarray(0.02 * rng.standard_normal((rows, width)), jnp.float32)

    def dense(fan: int, features: int) -> Tree:
        limit = np.sqrt(6 / (fan + features))
        kernel = jnp.asarray(rng.uniform(-limit, limit, (fan, features)), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(features)}

    def norm() -> Tree:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def block() -> Tree:
        attention = {name: dense(width, width) for name in ("query", "key", "value", "out")}
        mlp = {"up": dense(width, hidden), "down": dense(hidden, width)}
        return {**attention, **mlp, "norm1": norm(), "norm2": norm()}

    return {
        "embed": table(workload.vocabulary),
        "positions": table(workload.length),
        "blocks": [block() for _ in range(workload.blocks)],
        "norm": norm(),
        "head": dense(width, CLASSES),
    }


def _forward(params: Tree, words: jax.Array, heads: int, attend: Any) -> jax.Array:
    x = params["embed"].at[words].get(mode="promise_in_bounds") + params["positions"]
    for block in params["blocks"]:
        h = _norm(block["norm1"], x)
        query, key, value = (
            _dense(block[name], h).reshape(*h.shape[:2], heads, -1)
            for name in ("query", "key", "value")
        )
        y = attend(query * query.shape[-1] ** -0.5, key, value)
        x = x + _dense(block["out"], y.reshape(x.shape))
        h = _norm(block["norm2"], x)
        x = x + _dense(block["down"], jax.nn.gelu(_dense(block["up"], h), approximate=False))
    return _dense(params["head"], _norm(params["norm"], x).mean(1))


def _dense(layer: Tree, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _norm(layer: Tree, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    var = (x * x).mean(-1, keepdims=True) - mean * mean
    return (x - mean) * lax.rsqrt(var + 1e-5) * layer["scale"] + layer["bias"]


def _with_heads_first(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return (jax.nn.softmax(query @ key.swapaxes(-1, -2)) @ value).swapaxes(1, 2)


def _with_einsum(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", query, key))
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


ATTENTION = {"heads": _with_heads_first, "einsum": _with_einsum}
