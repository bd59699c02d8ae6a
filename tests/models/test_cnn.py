"""CNN: known sizes, PyTorch's results, and what happens when the image is too small."""

from __future__ import annotations

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import models, trees
from jaxnet.errors import InputError
from jaxnet.models import CNN
from tests.networks import applied, drawn


@pytest.mark.parametrize(
    ("model", "image", "parameters"),
    [
        (CNN(), (28, 28, 1), 93_322),
        (CNN(batch_norm=True, dropout=0.5), (28, 28, 1), 93_322 + 2 * (32 + 64 + 64)),
        (CNN(filters=(32, 64), dense=()), (28, 28, 1), 320 + 18_496 + 11 * 11 * 64 * 10 + 10),
        (CNN(filters=(16, 32), padding="SAME"), (8, 8, 1), 160 + 4_640 + 32_832 + 650),
        (CNN(filters=(8,), kernel_size=5, num_classes=3), (9, 7, 2), 408 + 7_744 + 195),
    ],
)
def test_size(model, image, parameters):
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, *image))
    )
    assert trees.count(variables["params"]) == parameters
    assert outputs.shape == (2, model.num_classes)


@pytest.mark.slow
def test_equals_torch():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    tnn = torch.nn
    reference = tnn.Sequential(
        *(tnn.Conv2d(1, 4, 3), tnn.BatchNorm2d(4, eps=1e-5), tnn.ReLU(), tnn.MaxPool2d(2)),
        *(tnn.Conv2d(4, 5, 3), tnn.BatchNorm2d(5, eps=1e-5), tnn.ReLU()),
    )
    head = tnn.Sequential(tnn.Linear(5 * 4 * 3, 6), tnn.ReLU(), tnn.Linear(6, 10))
    convs = [layer for layer in reference if isinstance(layer, tnn.Conv2d)]
    denses = [layer for layer in head if isinstance(layer, tnn.Linear)]
    model = CNN(filters=(4, 5), dense=(6,), batch_norm=True)
    x = np.random.default_rng(0).normal(size=(3, 14, 12, 1)).astype(np.float32)
    variables = drawn(model, x)
    params = dict(variables["params"])
    for i, layer in enumerate(convs):
        kernel = layer.weight.detach().numpy().transpose(2, 3, 1, 0)
        params[f"Conv_{i}"] = {"kernel": kernel, "bias": layer.bias.detach().numpy()}
    for i, layer in enumerate(denses):
        kernel = layer.weight.detach().numpy().T
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": layer.bias.detach().numpy()}

    features = reference(torch.tensor(x.transpose(0, 3, 1, 2)))
    want = head(features.permute(0, 2, 3, 1).flatten(1)).detach().numpy()
    apply = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    got = apply({**variables, "params": params})
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_dropout_acts_in_training_only():
    model, x = CNN(filters=(4,), dropout=0.5), np.ones((2, 6, 6, 1), np.float32)
    variables = drawn(model, x)
    one, other = (
        applied(model, variables, x, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (1, 2)
    )
    assert not np.allclose(one, other)
    plain = applied(CNN(filters=(4,)), variables, x)
    np.testing.assert_allclose(applied(model, variables, x), plain)


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        (CNN(), (8, 8, 1), r"image of \(8, 8\) is too small for layer 2.*gets \(3, 3\)"),
        (CNN(filters=(4,) * 5, padding="SAME"), (8, 8, 1), r"layer 4.*gets \(1, 1\)"),
        (CNN(filters=(4,), kernel_size=9), (8, 8, 1), "layer 1.*window of 9"),
        (CNN(), (28, 28), r"\(batch, height, width, channels\), got \(2, 28, 28\)"),
    ],
)
def test_images_that_do_not_fit(model, image, words):
    with pytest.raises(InputError, match=words):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, *image)))


def test_every_batch_normalisation_of_the_zoo_has_the_same_momentum():
    # With Flax's own 0.99 running statistics lag behind in short runs, whose validation is poor.
    calls = [
        call
        for file in Path(models.__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "nn.BatchNorm"
    ]
    momenta = [
        {k.arg: ast.unparse(k.value) for k in call.keywords}.get("momentum") for call in calls
    ]
    assert len(momenta) >= 6 and set(momenta) == {"0.9"}
