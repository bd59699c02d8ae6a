"""Every kind of pooling against PyTorch in one, two and three axes, gradients included."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet.layers import (
    AvgPool,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalMinPool,
    MaxPool,
    MinPool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    global_min_pool,
    max_pool,
    min_pool,
)

SPATIAL = (7, 6, 5)
# Tiles, overlapping windows, gaps between windows, padding, and a window and step for each axis.
WINDOWS = [(2, 2, 0), (3, 1, 0), (3, 2, 1), (2, 3, 0), (2, 2, 1), ((3, 2, 4), (2, 1, 3), (1, 0, 2))]
POOLS = {
    "max": max_pool,
    "min": min_pool,
    "avg": avg_pool,
    "avg_without_padding": partial(avg_pool, count_include_pad=False),
}


def torch_pool(name: str, rank: int, x: Any, window: Any, strides: Any, padding: Any) -> Any:
    import torch

    f = torch.nn.functional
    highest = getattr(f, f"max_pool{rank}d")
    if name == "max":
        return highest(x, window, strides, padding)
    if name == "min":
        return -highest(-x, window, strides, padding)
    mean = getattr(f, f"avg_pool{rank}d")
    return mean(x, window, strides, padding, count_include_pad=name == "avg")


def first(value: Any, rank: int) -> Any:
    return value[:rank] if isinstance(value, tuple) else value


@pytest.mark.parametrize("rank", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_equals_pytorch(rank):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    # Small whole numbers: most windows have ties.
    x = np.random.default_rng(0).integers(-2, 3, (2, *SPATIAL[:rank], 3)).astype(np.float32)
    chosen = [
        (name, *(first(value, rank) for value in window)) for name in POOLS for window in WINDOWS
    ]

    @jax.jit
    def all_cases(x):
        results = []
        for name, window, strides, padding in chosen:
            each = padding if isinstance(padding, tuple) else (padding,) * rank
            pairs = [(p, p) for p in each]
            y, back = jax.vjp(lambda x, n=name, a=(window, strides, pairs): POOLS[n](x, *a), x)
            results.append((y, back(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))[0]))
        return results

    for case, (y, gradient) in zip(chosen, all_cases(x), strict=True):
        tx = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
        expected = torch_pool(case[0], rank, tx, *case[1:])
        weights = np.arange(y.size, dtype=np.float32).reshape(y.shape)
        expected.backward(torch.tensor(np.moveaxis(weights, -1, 1)))
        close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5, err_msg=str(case))
        close(y, np.moveaxis(expected.detach().numpy(), 1, -1))
        close(gradient, np.moveaxis(tx.grad.numpy(), 1, -1))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pooling_equals_numpy(rank):
    x = np.random.default_rng(1).normal(size=(2, *SPATIAL[:rank], 3)).astype(np.float32)
    axes = tuple(range(1, 1 + rank))
    pools = (global_max_pool, global_min_pool, global_avg_pool)
    highest, lowest, mean = jax.jit(lambda x: [pool(x) for pool in pools])(x)
    np.testing.assert_array_equal(highest, x.max(axes))
    np.testing.assert_array_equal(lowest, x.min(axes))
    np.testing.assert_allclose(mean, x.mean(axes), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_the_lowest_and_the_highest_integers(dtype):
    info = np.iinfo(dtype)
    x = np.asarray([[[info.min], [info.max], [3], [info.min], [5], [4]]], dtype)

    @jax.jit
    def pooled(x):
        return min_pool(x, 2), max_pool(x, 2), min_pool(x, 3, 1, [(1, 1)])

    lowest, highest, overlapping = (y.ravel().tolist() for y in pooled(x))
    assert lowest == [info.min, info.min, 4]
    assert highest == [info.max, 3, 5]
    assert overlapping == [info.min] * 5 + [4]


def test_layers_are_the_functions():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 6, 6, 3)).astype(np.float32))
    pairs = [(1, 0), (0, 1)]
    options = {"window": 3, "strides": 2, "padding": pairs}

    @jax.jit
    def pairs_of_outputs(x):
        expected = [
            (MaxPool(**options), max_pool(x, 3, 2, pairs)),
            (MinPool(**options), min_pool(x, 3, 2, pairs)),
            (AvgPool(**options, count_include_pad=False), avg_pool(x, 3, 2, pairs, False)),
            (GlobalMaxPool(), global_max_pool(x)),
            (GlobalMinPool(), global_min_pool(x)),
            (GlobalAvgPool(), global_avg_pool(x)),
        ]
        return [
            (nn.Sequential([layer, lambda y: 2 * y]).apply({}, x), 2 * values)
            for layer, values in expected
        ]

    for got, want in pairs_of_outputs(x):
        np.testing.assert_array_equal(got, want)
