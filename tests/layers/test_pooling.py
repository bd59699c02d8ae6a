"""Pooling against XLA's reduce_window and PyTorch, gradients and ties included."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet.errors import InputError
from jaxnet.layers import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    global_min_pool,
    max_pool,
    min_pool,
)

SHAPES = [
    ((3, 9, 2), (2,)),
    ((2, 8, 6, 5), (2, 2)),
    ((2, 7, 11, 3), (2, 3)),
    ((2, 5, 4, 7, 2), (2, 2, 3)),
    ((1, 10, 11, 2), (5, 5)),
]


def image(shape, dtype="float32", ties=True):
    """Small integers, so that most windows have ties, or distinct numbers."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, shape) if ties else rng.permutation(np.prod(shape)).reshape(shape)
    return jnp.asarray(x.astype(jnp.dtype(dtype)))


def with_gradient(pool, x):
    """The output, and the gradient under different weights for every output."""
    y, back = jax.vjp(pool, x)
    return y, back(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))[0]


def both_ways(ours, xla, x):
    """Ours and XLA's with their gradients, as one program."""
    return jax.jit(lambda x: [with_gradient(pool, x) for pool in (ours, xla)])(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "window", "dtype"),
    [*((*sides, "float32") for sides in SHAPES), *((*sides, "bfloat16") for sides in SHAPES[1:3])],
)
def test_tiles_equal_reduce_window_ties_included(shape, window, dtype):
    got, want = both_ways(
        lambda x: max_pool(x, window), lambda x: nn.max_pool(x, window, window), image(shape, dtype)
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_minimum_is_the_maximum_of_the_negative(dtype):
    got, want = both_ways(
        lambda x: min_pool(x, (2, 3)),
        lambda x: -nn.max_pool(-x, (2, 3), (2, 3)),
        image((2, 7, 11, 3), dtype),
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("shape", "window"), SHAPES)
def test_average_equals_reduce_window(shape, window):
    sides = (1, *window, 1)

    def xla(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, sides, sides, "VALID") / np.float32(
            np.prod(window)
        )

    got, want = both_ways(lambda x: avg_pool(x, window), xla, image(shape))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_first_maximum_takes_all(order):
    values = np.zeros(4, np.float32)
    values[list(order[:2])] = 7
    gradient = jax.jit(jax.grad(lambda v: max_pool(v.reshape(1, 2, 2, 1), 2).sum()))(values)
    assert gradient.tolist() == [float(i == min(order[:2])) for i in range(4)]


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("window", "stride", "pad"), [(2, 2, 0), (3, 3, 0), (3, 2, 1), (3, 1, 0), (2, 3, 0)]
)
def test_equals_torch(name, window, stride, pad):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    x = image((2, 9, 10, 3))
    ours = {"max_pool2d": max_pool, "avg_pool2d": avg_pool}[name]
    pool = partial(with_gradient, lambda x: ours(x, window, stride, [(pad, pad)] * 2))
    y, gradient = jax.jit(pool)(x)

    tx = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    ty = getattr(torch.nn.functional, name)(tx, window, stride, pad)
    weights = np.arange(y.size, dtype=np.float32).reshape(y.shape)
    ty.backward(torch.tensor(weights.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(y, ty.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-6)
    np.testing.assert_allclose(gradient, tx.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6)


def test_same_padding_counts_windows_and_leaves_padding_out_on_request():
    @jax.jit
    def all_of_them(x):
        return (
            max_pool(-x, 2, padding="SAME"),
            avg_pool(x, 2, padding="SAME"),
            avg_pool(x, 2, padding="SAME", count_include_pad=False),
        )

    most, mean, without = (y.ravel().tolist() for y in all_of_them(np.ones((1, 5, 1), "float32")))
    assert (most, mean, without) == ([-1, -1, -1], [1, 1, 0.5], [1, 1, 1])


def test_derivatives_of_every_kind():
    x = image((2, 6, 4, 1), ties=False)

    def f(x):
        return (max_pool(x, 2) ** 2).sum()

    @jax.jit
    def all_of_them(x):
        return (
            jax.grad(f)(x),
            jax.jvp(f, (x,), (jnp.cos(x),))[1],
            jax.vmap(lambda x: jax.grad(f)(x[None])[0])(x),
            jax.hessian(f)(x).reshape(x.size, x.size),
        )

    gradient, tangent, each, curvature = jax.device_get(all_of_them(x))
    assert (gradient != 0).sum() == 12
    np.testing.assert_allclose(tangent, (gradient * np.cos(x)).sum(), rtol=1e-5)
    np.testing.assert_array_equal(each, gradient)
    np.testing.assert_array_equal(curvature, 2 * np.diag(gradient.ravel() != 0))


def test_integers_and_not_a_number():
    pool = jax.jit(partial(max_pool, window=2))
    assert pool(np.asarray([[[3], [-4]]])).tolist() == [[[3]]]
    assert np.isnan(pool(np.asarray([[[1.0], [np.nan]]], np.float32))).all()


def test_tiles_need_no_reduce_window():
    text = jax.jit(jax.grad(lambda x: max_pool(x, 2).sum())).lower(image((2, 7, 7, 1))).as_text()
    assert "reduce_window" not in text and "select_and_scatter" not in text


def test_global_pooling():
    x = image((2, 3, 4, 5), ties=False)

    @jax.jit
    def all_of_them(x):
        windows = max_pool(x, (3, 4)), min_pool(x, (3, 4))
        return windows, (global_max_pool(x), global_min_pool(x)), global_avg_pool(x)

    windows, ends, mean = jax.device_get(all_of_them(x))
    for window, end in zip(windows, ends, strict=True):
        np.testing.assert_array_equal(end, window[:, 0, 0])
    np.testing.assert_allclose(mean, np.asarray(x).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 7), (9, 7), (5, 16)])
def test_adaptive_pooling_equals_torchs(size):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    x = image((2, 9, 7, 3), ties=False)
    want = torch.nn.AdaptiveAvgPool2d(size)(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)))
    got = jax.jit(lambda x: adaptive_avg_pool(x, size))(x)
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), rtol=1e-6)
    with pytest.raises(InputError, match="size takes a positive number for each of the 2"):
        adaptive_avg_pool(x, (2,))


@pytest.mark.parametrize(
    ("shape", "arguments", "words"),
    [
        ((1, 2, 2, 1), (3,), "longer than the input"),
        ((1, 2, 2, 1), (3, 1, [(0, 0), (1, 0)]), "longer than the input"),
        ((4, 4), (2,), r"\(batch, \*spatial, channels\)"),
        ((1, 4, 4, 1), ((2,),), "window takes a positive number for each of the 2"),
        ((1, 4, 4, 1), (2, 0), "strides takes a positive number"),
        ((1, 4, 4, 1), (2, 2, "HALF"), "'HALF'"),
        ((1, 4, 4, 1), (2, 2, [(0, 0)]), "2 pairs"),
    ],
)
def test_errors_say_what_to_do(shape, arguments, words):
    with pytest.raises(InputError, match=words):
        max_pool(jnp.asarray(np.zeros(shape, np.float32)), *arguments)
