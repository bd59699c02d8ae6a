"""LeNet-5: published sizes, and the same function as PyTorch's layers compute."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.layers import max_pool
from jaxnet.models import LeNet5

SIZES = {"C1": 156, "C3": 2_416, "C5": 48_120, "F6": 10_164, "output": 850}


@pytest.mark.parametrize("side", [28, 31, 32])
def test_sizes(side):
    outputs, variables = jax.eval_shape(
        LeNet5().init_with_output, jax.random.key(0), jnp.zeros((2, side, side, 1))
    )
    assert outputs.shape == (2, 10)
    assert {name: trees.count(leaf) for name, leaf in variables["params"].items()} == SIZES
    assert sum(SIZES.values()) == 61_706


@pytest.mark.parametrize("form", ["paper", "modern"])
def test_equals_torch(form):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    tnn = torch.nn
    act, pool = {"paper": (tnn.Tanh, tnn.AvgPool2d), "modern": (tnn.ReLU, tnn.MaxPool2d)}[form]
    reference = tnn.Sequential(
        *(tnn.Conv2d(1, 6, 5, padding=2), act(), pool(2)),
        *(tnn.Conv2d(6, 16, 5), act(), pool(2)),
        *(tnn.Conv2d(16, 120, 5), act(), tnn.Flatten()),
        *(tnn.Linear(120, 84), act(), tnn.Linear(84, 10)),
    )
    layers = [layer for layer in reference if hasattr(layer, "weight")]
    params = {
        name: {
            "kernel": layer.weight.detach()
            .numpy()
            .transpose((2, 3, 1, 0) if layer.weight.ndim == 4 else (1, 0)),
            "bias": layer.bias.detach().numpy(),
        }
        for name, layer in zip(SIZES, layers, strict=True)
    }
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
    want = reference(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    model = LeNet5() if form == "paper" else LeNet5(activation=nn.relu, pool=max_pool)
    got = jax.jit(model.apply)({"params": params}, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 33, 33, 1), (28, 28, 1)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(InputError, match=r"at most 32x32, got \(2"):
        jax.eval_shape(LeNet5().init, jax.random.key(0), jnp.zeros(shape))
