from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.layers.activations import ACTIVATIONS, leaky_relu, step

INPUTS = np.array([[-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0]], np.float32)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"linear", "step"}))
def test_equals_pytorch(name: str):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    f = torch.nn.functional
    reference = {
        "softmax": lambda x: f.softmax(x, -1),
        "leaky_relu_0.1": lambda x: f.leaky_relu(x, 0.1),
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
    }.get(name) or getattr(f, name)
    got = ACTIVATIONS[name](jnp.asarray(INPUTS))
    np.testing.assert_allclose(got, reference(torch.from_numpy(INPUTS)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_type_and_shape_are_kept_and_gradients_are_finite(name: str, dtype: jnp.dtype):
    inputs = jnp.asarray(INPUTS).astype(dtype)
    outputs = ACTIVATIONS[name](inputs)
    assert outputs.dtype == dtype and outputs.shape == inputs.shape
    assert jnp.isfinite(jax.grad(lambda x: ACTIVATIONS[name](x).sum())(inputs)).all()


def test_linear_is_the_identity():
    np.testing.assert_array_equal(ACTIVATIONS["linear"](INPUTS), INPUTS)


def test_step_fires_from_zero_upwards_and_has_no_gradient():
    np.testing.assert_array_equal(step(jnp.asarray(INPUTS)), [[0, 0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(jax.grad(lambda x: step(x).sum())(jnp.asarray(INPUTS)), 0)


def test_the_slope_of_leaky_relu():
    assert leaky_relu(jnp.float32(-2.0)) == np.float32(-0.02)
    assert leaky_relu(jnp.float32(-2.0), negative_slope=0.3) == np.float32(-0.6)
