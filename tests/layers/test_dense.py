"""Dense layers over sequences: Linen's results, as products of two matrices."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.layers import Dense, Embed, LearnedPositions
from jaxnet.layers.dense import rows_dot_general
from tests.networks import applied, drawn

OVER_LAST = (((2,), (0,)), ((), ()))


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


def curved(product, x, kernel):
    """A scalar with second derivatives by both arguments."""
    return jnp.sum(jnp.sin(product(x, kernel, OVER_LAST)))


@pytest.mark.parametrize(
    "derivative", [lambda f: f, jax.grad, jax.hessian], ids=["value", "gradient", "hessian"]
)
def test_as_laxs_own(derivative):
    x, kernel = draw(2, 3, 4), draw(4, 5)
    both = jax.jit(
        lambda *given: [
            derivative(partial(curved, product))(*given)
            for product in (rows_dot_general, jax.lax.dot_general)
        ]
    )
    got, want = both(x, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "ours, linens, method, shape",
    [
        (Dense(5), nn.Dense(5), "__call__", (2, 3, 4)),
        (Dense(5), nn.Dense(5), "__call__", (3, 4)),
        (Dense(5, dtype=jnp.bfloat16), nn.Dense(5, dtype=jnp.bfloat16), "__call__", (2, 3, 4)),
        (Embed(7, 4), nn.Embed(7, 4), "attend", (2, 3, 4)),
    ],
    ids=["sequences", "rows", "bfloat16", "attend"],
)
def test_as_linens_with_its_parameters(ours, linens, method, shape):
    start = np.zeros((2, 3), np.int32) if method == "attend" else draw(*shape)
    variables = drawn(linens, start)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), start)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    got, want = (applied(m, variables, draw(*shape), method=method) for m in (ours, linens))
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(
        np.asarray(got, np.float32), np.asarray(want, np.float32), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "layer, method", [(Dense(5), "__call__"), (Embed(7, 4), "attend")], ids=["Dense", "Embed"]
)
def test_every_product_of_a_gradient_sums_over_one_axis(layer, method):
    """A sum over batch and time at once is what the CPU compiler is slow at."""
    start = np.zeros((2, 3), np.int32) if method == "attend" else draw(2, 3, 4)
    variables = drawn(layer, start)

    def scalar(variables, x):
        return jnp.sum(layer.apply(variables, x, method=method))

    gradient = jax.make_jaxpr(jax.grad(scalar, (0, 1)))(variables, draw(2, 3, 4))
    products = [e for e in gradient.eqns if e.primitive.name == "dot_general"]
    assert len(products) >= 2
    for product in products:
        (left, right), _ = product.params["dimension_numbers"]
        assert len(left) == len(right) == 1


@pytest.mark.parametrize(
    ("layer", "inputs", "name"),
    [
        (Dense(3, dtype=jnp.bfloat16), np.zeros((1000, 2, 4), np.float32), "bias"),
        (Embed(1, 3, dtype=jnp.bfloat16), np.zeros((1000, 2), np.int32), "embedding"),
        (LearnedPositions(2), jnp.zeros((2000, 2, 3), jnp.bfloat16), "embedding"),
    ],
    ids=["Dense", "Embed", "LearnedPositions"],
)
def test_in_half_precision_gradients_are_added_up_in_float32(layer, inputs, name):
    """In bfloat16 a sum of ones stays at 256: the next number is 258."""
    variables = drawn(layer, inputs)
    lowered = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)

    def scalar(variables):
        return layer.apply(variables, inputs).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(scalar))(lowered)["params"][name]
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), 2000)
