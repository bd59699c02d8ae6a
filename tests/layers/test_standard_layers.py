"""The layers every library has, against PyTorch: several steps of training, then evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Bundle, layers, losses
from jaxnet.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Embed,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool,
    PReLU,
    Sequential,
)
from jaxnet.module_json import from_json, to_json
from jaxnet.optimizers import by_name
from jaxnet.training import Supervised, Trainer
from tests.networks import applied, drawn
from tests.training.helpers import images

RNG = np.random.default_rng(0)


def close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    expected = expected.detach().numpy() if hasattr(expected, "detach") else expected
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_batch_norm_equals_pytorch_over_several_steps():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    batches = (3 + 2 * RNG.normal(size=(5, 4, 3, 2, 6))).astype(np.float32)
    weights = RNG.normal(size=batches.shape[1:]).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(6, momentum=0.1, eps=1e-5).double()
    descent = torch.optim.SGD(theirs.parameters(), lr=0.1)
    ours = BatchNorm(momentum=0.9)
    variables = drawn(ours, batches[0], use_running_average=True)

    @jax.jit
    def step(variables, x):
        def loss(params, x):
            y, updated = ours.apply(
                {**variables, "params": params},
                x,
                use_running_average=False,
                mutable=["batch_stats"],
            )
            return (y * weights).sum(), (y, updated)

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (grads, dx), (y, updated) = gradient(variables["params"], x)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return {"params": params, **updated}, y, dx

    for x in batches:
        tx = torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float64, requires_grad=True)
        ty = theirs(tx)
        descent.zero_grad()
        (ty * torch.tensor(np.moveaxis(weights, -1, 1))).sum().backward()
        descent.step()
        variables, y, dx = step(variables, x)
        close(y, np.moveaxis(ty.detach().numpy(), 1, -1))
        close(dx, np.moveaxis(tx.grad.numpy(), 1, -1))
        close(variables["params"]["scale"], theirs.weight)
        close(variables["params"]["bias"], theirs.bias)
        close(variables["batch_stats"]["mean"], theirs.running_mean)
        # PyTorch remembers the variance by n - 1, we the one by n; both begin with 1.
        kept = 0.9 ** int(theirs.num_batches_tracked)
        unbiased = (variables["batch_stats"]["var"] - kept) * 24 / 23 + kept
        close(unbiased, theirs.running_var)

    theirs.running_var.copy_(torch.tensor(np.asarray(variables["batch_stats"]["var"])))
    expected = theirs.eval()(torch.tensor(np.moveaxis(batches[0], -1, 1)).double())
    got = jax.jit(partial(ours.apply, use_running_average=True))(variables, batches[0])
    close(got, np.moveaxis(expected.detach().numpy(), 1, -1))


def test_batch_norm_leaves_out_what_is_masked():
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    ours = BatchNorm()
    options = {"use_running_average": False, "mutable": ["batch_stats"]}

    @jax.jit
    def both(variables):
        masked = ours.apply(variables, x, mask=np.arange(6)[:, None] < 4, **options)
        return masked, ours.apply(variables, x[:4], **options)

    (got, statistics), expected = both(drawn(ours, x, use_running_average=True))
    close(np.asarray(got)[:4], expected[0])
    jax.tree.map(close, statistics, expected[1])


def test_layer_norm_dense_embed_and_prelu_equal_pytorch():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    x = (5 + RNG.normal(size=(4, 7, 6))).astype(np.float32)
    tokens = RNG.integers(0, 11, (4, 7))
    pairs = [
        (LayerNorm(epsilon=1e-5), torch.nn.LayerNorm(6), x),
        (Dense(3), torch.nn.Linear(6, 3), x),
        (Embed(11, 3), torch.nn.Embedding(11, 3), tokens),
        (PReLU(), torch.nn.PReLU(), x - 5),
    ]
    renamed = dict.fromkeys(["scale", "kernel", "embedding", "negative_slope"], "weight")
    for ours, theirs, inputs in pairs:
        theirs = theirs.double()
        params = {}
        for name, leaf in drawn(ours, inputs)["params"].items():
            value = RNG.normal(size=leaf.shape)
            params[name] = value.astype(np.float32)
            parameter = getattr(theirs, renamed.get(name, name))
            value = params[name].T if name == "kernel" else params[name]
            parameter.data.copy_(torch.tensor(value))
        tensor = torch.tensor(inputs)
        tensor = tensor if inputs is tokens else tensor.double()
        expected = theirs(tensor)
        weights = RNG.normal(size=expected.shape)
        (expected * torch.tensor(weights)).sum().backward()

        def loss(params, ours=ours, inputs=inputs, weights=weights):
            y = ours.apply({"params": params}, inputs)
            return (y * weights.astype(np.float32)).sum(), y

        grads, got = jax.jit(jax.grad(loss, has_aux=True))(params)
        close(got, expected)
        for name, gradient in grads.items():
            reference = getattr(theirs, renamed.get(name, name))
            reference = reference.grad.numpy()
            reference = reference.T if name == "kernel" else reference.reshape(gradient.shape)
            close(gradient, reference, 2e-5)


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_drops_whole_channels_on_request():
    x = np.ones((8, 5, 5, 40), np.float32)
    plain, spatial = Dropout(0.25), Dropout(0.25, broadcast_dims=(1, 2))
    key = jax.random.key(0)
    for layer in (plain, spatial):
        drop = jax.jit(
            lambda key, f=layer: f.apply({}, x, deterministic=False, rngs={"dropout": key})
        )
        dropped = np.asarray(drop(key))
        assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
        assert abs(dropped.mean() - 1) < 0.1
        per_channel = np.ptp(dropped, axis=(1, 2))
        assert (per_channel == 0).all() if layer is spatial else (per_channel > 0).all()
        assert layer.apply({}, x, deterministic=True) is x


def test_flatten_keeps_the_order_of_rows():
    x = jnp.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.testing.assert_array_equal(Flatten().apply({}, x), x.reshape(2, 12))
    assert Flatten().apply({}, x[:, 0, 0]).shape == (2, 1)


MODEL = Sequential(
    (
        Conv(4, 3),
        BatchNorm(momentum=0.5),
        jax.nn.relu,
        MaxPool(2),
        Sequential((Flatten(), Dropout(0.5))),
        Dense(3),
    )
)


@pytest.mark.slow
def test_sequential_tells_each_layer_whether_it_is_training():
    x = jnp.asarray(RNG.normal(size=(8, 4, 4, 1)).astype(np.float32))
    variables = drawn(MODEL, x)
    assert sorted(variables["params"]) == ["layers_0", "layers_1", "layers_5"]

    @jax.jit
    def run(variables, keys):
        trained = [
            MODEL.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
            for key in keys
        ]
        convolved = Conv(4, 3).apply({"params": variables["params"]["layers_0"]}, x)
        return MODEL.apply(variables, x), trained, convolved

    keys = [jax.random.key(1), jax.random.key(2)]
    calm, ((trained, updated), (other, _)), convolved = run(variables, keys)
    np.testing.assert_array_equal(calm, applied(MODEL, variables, x, rngs={"dropout": keys[0]}))
    assert not np.allclose(trained, other)  # dropout
    close(updated["batch_stats"]["layers_1"]["mean"], 0.5 * np.asarray(convolved).mean((0, 1, 2)))


def test_sequential_leaves_a_layer_its_own_mode():
    frozen = Sequential((BatchNorm(use_running_average=True), Dropout(0.5, deterministic=True)))
    x = np.ones((4, 2), np.float32)
    variables = drawn(frozen, x)
    trained, plain = (applied(frozen, variables, x, train=train) for train in (True, False))
    np.testing.assert_array_equal(trained, plain)


@pytest.mark.slow
def test_a_sequential_model_trains_and_becomes_a_bundle(tmp_path):
    data = images(60)
    task = Supervised(
        Sequential((Conv(8, 2), jax.nn.relu, GlobalAvgPool(), Dense(3))),
        losses.cross_entropy,
        by_name("adam", 1e-2),
    )
    result = Trainer(task).fit(data, epochs=3, batch_size=10)
    assert result.history["loss"][-1] < result.history["loss"][0]
    Bundle.of(result.model).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    close(loaded.predict(data[0]), result.model.predict(data[0]))
    assert from_json(to_json(MODEL)) == MODEL


def test_the_table_of_defaults_is_true():
    for name in ("Dense", "Conv", "BatchNorm", "LayerNorm", "Embed", "PReLU"):
        assert f"| `{name}` |" in layers.__doc__
    assert (BatchNorm().momentum, BatchNorm().epsilon) == (0.99, 1e-5)
    assert (LayerNorm().epsilon, Conv(1, 1).padding) == (1e-6, "SAME")
    start = jax.jit(Embed(1000, 64).init)
    table = start(jax.random.key(0), np.zeros(1, np.int32))["params"]["embedding"]
    assert np.asarray(table).var() == pytest.approx(1 / 64, rel=0.02)
