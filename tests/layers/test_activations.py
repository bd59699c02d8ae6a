from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers import Maxout
from jaxnet.layers.activations import ACTIVATIONS, leaky_relu, maxout

SMOOTH_AT_0 = {
    "sigmoid",
    "tanh",
    "softmax",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "mish",
    "log_sigmoid",
}
INPUTS = np.array([[-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0]], np.float32)
WEIGHTS = np.cos(np.arange(INPUTS.size)).reshape(INPUTS.shape).astype(np.float32)


@cache
def measured(dtype: str) -> dict[str, tuple[Any, Any]]:
    """Each function and the gradient of its sum with `WEIGHTS`, all of them as one program."""

    @jax.jit
    def all_of_them(inputs: jax.Array) -> dict[str, Any]:
        found = {}
        for name, function in ACTIVATIONS.items():
            outputs, back = jax.vjp(function, inputs)
            found[name] = outputs, back(jnp.asarray(WEIGHTS, outputs.dtype))[0]
        return found

    return jax.device_get(all_of_them(INPUTS.astype(jnp.dtype(dtype))))


def pytorch(name: str):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    f = torch.nn.functional
    return {
        "linear": lambda x: x * 1,
        "softmax": lambda x: f.softmax(x, -1),
        "log_softmax": lambda x: f.log_softmax(x, -1),
        "log_sigmoid": f.logsigmoid,
        "leaky_relu_0.1": lambda x: f.leaky_relu(x, 0.1),
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "swish": f.silu,
        "hard_sigmoid": f.hardsigmoid,
        "hard_silu": f.hardswish,
        "hard_tanh": f.hardtanh,
    }.get(name) or getattr(f, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"step"}))
def test_equals_pytorch(name: str):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    inputs = torch.tensor(INPUTS.astype(np.float64), requires_grad=True)
    expected = pytorch(name)(inputs)
    expected.backward(torch.from_numpy(WEIGHTS.astype(np.float64)))

    got, gradient = measured("float32")[name]
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-5, atol=1e-7)
    # At a corner (0, and 3 or 6 of some) any slope between the two is right.
    smooth = np.isin(INPUTS, [-3, 0, 3, 6], invert=True) | (name in SMOOTH_AT_0)
    np.testing.assert_allclose(gradient[smooth], inputs.grad[smooth], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_type_and_shape_are_kept_and_gradients_are_finite(name: str, dtype: str):
    outputs, gradient = measured(dtype)[name]
    assert outputs.dtype == gradient.dtype == dtype and outputs.shape == INPUTS.shape
    assert np.isfinite(gradient).all()


def test_linear_is_the_identity():
    np.testing.assert_array_equal(measured("float32")["linear"][0], INPUTS)


def test_step_fires_from_zero_upwards_and_has_no_gradient():
    fired, gradient = measured("float32")["step"]
    np.testing.assert_array_equal(fired, [[0, 0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(gradient, 0)


def test_the_slope_of_leaky_relu():
    slopes = jax.jit(lambda x: (leaky_relu(x), leaky_relu(x, negative_slope=0.3)))
    assert slopes(np.float32(-2.0)) == (np.float32(-0.02), np.float32(-0.6))


def test_maxout_takes_the_largest_of_neighbouring_pieces():
    inputs = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    expected = [[[max(row[i : i + 3]) for i in range(0, 12, 3)] for row in rows] for rows in inputs]
    got = jax.jit(maxout, static_argnums=1)(inputs, 3)
    np.testing.assert_array_equal(got, np.asarray(expected))
    with pytest.raises(InputError, match="pieces=5, got"):
        maxout(jnp.asarray(inputs), 5)


def test_a_maxout_unit_learns_the_absolute_value():
    # Two pieces are enough for any function with one corner (Goodfellow et al. 2013, figure 1).
    inputs = jnp.asarray(np.linspace(-1, 1, 21, dtype=np.float32)[:, None])
    layer = Maxout(1, pieces=2)

    def error(params):
        return jnp.square(layer.apply(params, inputs) - jnp.abs(inputs)).mean()

    @jax.jit
    def errors(key):
        def step(_, p):
            return jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(error)(p))

        first = layer.init(key, inputs)
        return error(first), error(jax.lax.fori_loop(0, 500, step, first))

    before, after = errors(jax.random.key(1))
    assert after < 1e-4 < 1e-2 < before
