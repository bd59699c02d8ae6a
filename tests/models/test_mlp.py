"""MLP: published size, and the function that it computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import trees
from jaxnet.models import MLP
from tests.networks import applied, drawn


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (MLP(), (2, 28, 28, 1), 266_610),
        (MLP(hidden=(512,)), (2, 784), 407_050),
        (MLP(hidden=(), num_classes=3), (2, 4), 15),
        (MLP(hidden=(5, 6, 7), dropout=0.5), (2, 4), 25 + 36 + 49 + 80),
    ],
)
def test_size(model, shape, parameters):
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros(shape))
    assert trees.count(variables["params"]) == parameters
    assert outputs.shape == (2, model.num_classes)


def test_is_matrices_and_activations():
    model = MLP(hidden=(6, 5), num_classes=3, activation=jnp.tanh)
    x = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    variables = drawn(model, x)
    want = x.reshape(4, 4)
    for i in range(3):
        layer = variables["params"][f"Dense_{i}"]
        want = want @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        want = np.tanh(want) if i < 2 else want
    got = applied(model, variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    model, x = MLP(dropout=0.5), np.ones((2, 8), np.float32)
    variables = drawn(model, x)
    one, other = (
        applied(model, variables, x, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (1, 2)
    )
    assert not np.allclose(one, other)
    np.testing.assert_allclose(applied(model, variables, x), applied(MLP(), variables, x))
