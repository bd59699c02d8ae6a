"""Norms of gradients and activations, against NumPy, in compositions, in files and pictures."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, optimizers
from jaxnet.errors import UsageError
from jaxnet.models import Transformer
from jaxnet.report.plots import plot_curves, plot_norms
from jaxnet.training import (
    History,
    RunWriter,
    TeacherForcing,
    Trainer,
    accumulate,
    clip,
    guard_nonfinite,
    log_norms,
    mixed_precision,
    with_ema,
)
from jaxnet.training.adapters import as_network
from jaxnet.training.techniques.norms import layer_order
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    classifier,
    first_gradients,
    make_batch,
    regressor,
    table,
)
from tests.training.test_plots import is_a_picture


def norms_of(tasks: Any, batch: Any, steps: int = 1) -> list[dict[str, float]]:
    """Each task's norms of the last of some steps, all in one program."""

    @jax.jit
    def run(key: jax.Array, batch: Any) -> list[Any]:
        last = []
        for task in tasks:
            state, metrics = task.init(key, batch), {}
            for _ in range(steps):
                state, metrics = task.train_step(state, batch)
            last.append({name: m for name, m in metrics.items() if "_norm/" in name})
        return last

    measured = run(jax.random.key(0), batch)
    return [{name: m.compute() for name, m in metrics.items()} for metrics in measured]


def norms(task: Any, batch: Any) -> dict[str, float]:
    """The norms of the first step."""
    return norms_of([task], batch)[0]


@pytest.mark.slow
def test_norms_equal_numpys():
    task, batch = classifier(), make_batch(8, masked=3)
    params, (grads,) = first_gradients([task], batch)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    rows = np.asarray(batch["inputs"], np.float64)[:5]
    first = rows @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    second = np.tanh(first) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]

    def length(tree: Any) -> float:
        return np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(tree)))

    def spread(outputs: np.ndarray) -> float:
        return np.sqrt((outputs**2).mean(axis=1)).mean()

    expected = {
        "grad_norm/Dense_0": length(grads["Dense_0"]),
        "grad_norm/Dense_1": length(grads["Dense_1"]),
        "act_norm/Dense_0": spread(first),
        "act_norm/Dense_1": spread(second),
        "act_norm/the network": spread(second),
    }
    got = norms(log_norms(task), batch)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_training_is_what_it_would_be_without():
    pairs = [(task, log_norms(task)) for task in (classifier(), clip(classifier(), 0.1))]

    @jax.jit
    def run(key: jax.Array, batch: Any) -> Any:
        return [[t.train_step(pair[0].init(key, batch), batch) for t in pair] for pair in pairs]

    for (plain, metrics), (logged, more) in run(jax.random.key(0), make_batch(8)):
        assert_close(logged.params, plain.params)
        assert_close({name: more[name] for name in metrics}, metrics)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_batch_and_the_loss_unscaled():
    tasks = [
        log_norms(classifier()),
        log_norms(accumulate(classifier(), 4)),
        accumulate(log_norms(classifier()), 4),
        log_norms(mixed_precision(classifier(), "fp16")),
        mixed_precision(log_norms(classifier()), "fp16"),
    ]
    plain, *others = norms_of(tasks, make_batch(8))
    for got, tolerance in zip(others, (1e-5, 1e-5, 1e-2, 1e-2), strict=True):
        assert_close(got, plain, tolerance)


@pytest.mark.slow
def test_the_activations_are_those_of_the_parameters_that_the_gradient_is_of():
    plain = log_norms(classifier())
    tasks = plain, with_ema(plain, 0.9), log_norms(with_ema(classifier(), 0.9))
    expected, *others = norms_of(tasks, make_batch(8), steps=3)
    for got in others:
        assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "logged"),
    [
        ("stop", lambda plain: log_norms(mixed_precision(plain, "fp16"))),
        ("skip", lambda plain: mixed_precision(log_norms(plain), "fp16")),
    ],
)
def test_an_overflow_that_loss_scaling_leaves_out_is_no_reason_to_stop(policy, logged):
    # The bias has the gradient 2 * 10, and 20 * 2**15 is beyond float16.
    data = np.ones((16, 2), np.float32), np.full(16, 10.0, np.float32)
    half = logged(regressor(nn.Dense(1), optimizers.by_name("adam", 0.1)))
    result = Trainer(guard_nonfinite(half, policy)).fit(data, epochs=2, batch_size=4)
    assert (result.stop_reason, result.last_step) == ("epochs", 8)
    scale = result.state.memory["loss_scale"]["scale"]
    assert scale < 2.0**15
    # The mean over the steps that learnt something; the first of them has |(2, 2, 1)| * 20 / 2.
    assert 10 < result.history["grad_norm/the network"][0] < 40
    assert result.history.rows[0].get("skipped_steps", 0) == 0


class Looped(nn.Module):
    """Layers within a loop, a rematerialised block and a copy for each head."""

    @nn.compact
    def __call__(self, inputs):
        sequence = jnp.stack([inputs, inputs, inputs], axis=1)
        hidden = nn.RNN(nn.SimpleCell(5), name="rnn")(sequence)[:, -1]
        hidden = nn.remat(nn.Dense)(5, name="again")(hidden)
        return Dense(3, name="head")(hidden)


@pytest.mark.slow
def test_what_runs_within_a_loop_is_measured_where_it_comes_out():
    got = norms(guard_nonfinite(log_norms(classifier(Looped())), "skip"), make_batch(8))
    measured = [name for name in got if name.startswith("act_norm/")]
    assert {"act_norm/rnn", "act_norm/head"} <= set(measured)
    assert all(np.isfinite(value) for value in got.values())
    assert "grad_norm/SimpleCell_0/h" in got


class Shapes(nn.Module):
    """Layers that return no rows of floating-point numbers."""

    @nn.compact
    def __call__(self, inputs):
        sign = Sign(name="sign")(inputs)
        return Dense(3)(inputs) + sign.astype(jnp.float32) + Total(name="total")(inputs)


class Sign(nn.Module):
    def __call__(self, inputs):
        return (inputs.sum(axis=1, keepdims=True) > 0).astype(jnp.int32)


class Total(nn.Module):
    def __call__(self, inputs):
        return inputs.sum()[None, None]


@pytest.mark.slow
def test_a_decoder_is_measured_on_what_it_reads():
    model = Transformer(9, 8, 1, 2, 16, 0.0)
    task = TeacherForcing(model, losses.masked(losses.cross_entropy, ignored=0), optax.sgd(0.1))
    tokens = np.random.default_rng(0).integers(4, 9, (2, 3, 5)).astype(np.int32)
    source, target = map(jnp.asarray, tokens)
    batch = {"inputs": source, "labels": target, "mask": jnp.ones(3, bool)}

    @jax.jit
    def run(key: jax.Array, batch: Any) -> Any:
        state = task.init(key, batch)
        seen: Any = model.apply(
            {"params": state.params},
            *task.network_inputs(batch),
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        outputs = seen[1]["intermediates"]["decoder_0"]["mlp"]["__call__"][0]
        # The same parameters, of which the technique adds none.
        measured = log_norms(task).train_step(log_norms(task).init(key, batch), batch)[1]
        return outputs, measured["act_norm/decoder_0/mlp"]

    outputs, measured = run(jax.random.key(0), batch)
    expected = np.sqrt(np.square(np.asarray(outputs, np.float64)).mean(axis=(1, 2))).mean()
    assert measured.compute() == pytest.approx(expected, rel=1e-5)


def test_what_has_no_row_for_each_example_is_left_out():
    got = norms(log_norms(classifier(Shapes())), make_batch(8))
    assert "act_norm/Dense_0" in got
    assert "act_norm/sign" not in got and "act_norm/total" not in got


class Deep(nn.Module):
    """Sigmoids on sigmoids."""

    depth: int = 6

    @nn.compact
    def __call__(self, inputs):
        for _ in range(self.depth):
            inputs = nn.sigmoid(Dense(16)(inputs))
        return Dense(3)(inputs)


@pytest.mark.slow
def test_the_gradient_of_sigmoids_vanishes_towards_the_input():
    got = norms(log_norms(classifier(Deep(), optax.sgd(0.1))), make_batch(16))
    lengths = [got[f"grad_norm/Dense_{index}"] for index in range(7)]
    assert all(2 * a < b for a, b in itertools.pairwise(lengths[:-1]))
    assert lengths[0] < 1e-3 * lengths[-1]


@pytest.mark.slow
def test_norms_are_columns_of_the_history_and_its_files(tmp_path):
    task = with_ema(log_norms(classifier()), 0.9)
    trainer = Trainer(task, callbacks=[RunWriter(tmp_path)])
    result = trainer.fit(table(30), table(12, seed=1), epochs=2, batch_size=10)
    header = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert {"grad_norm/Dense_0", "act_norm/Dense_1"} <= set(header)
    assert not [name for name in header if name.startswith("val_") and "norm" in name]
    assert result.model.layers() == ["Dense_0", "Dense_1", "the network"]
    assert trainer.programs.compiles.repeated() == []
    plot_norms(result.history, tmp_path / "norms.png", result.model.layers())
    assert is_a_picture(tmp_path / "norms.png")


def test_layers_are_in_the_order_in_which_they_run():
    network = as_network(Deep(depth=11))
    inputs = jax.ShapeDtypeStruct((1, 4), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
    expected = [*(f"Dense_{index}" for index in range(12)), "the network"]
    assert layer_order(network, variables, inputs) == expected


@pytest.mark.parametrize("epochs", [0, 1, 40])
def test_pictures_of_short_and_long_runs(epochs, tmp_path):
    rows = tuple(
        {"epoch": e, "step": e, "loss": 1.0, "grad_norm/a": 0.0, "grad_norm/b": 10.0**-e}
        for e in range(1, epochs + 1)
    )
    plot_norms(History(rows), tmp_path / "norms.png", ["b", "a"])
    assert is_a_picture(tmp_path / "norms.png")


def test_learning_curves_leave_the_norms_out(tmp_path):
    rows = ({"epoch": 1, "step": 4, "loss": 1.0}, {"epoch": 2, "step": 8, "loss": 0.5})
    plot_curves(History(rows), tmp_path / "plain.png")
    plot_curves(History(tuple({**r, "grad_norm/a": 1.0} for r in rows)), tmp_path / "norms.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "norms.png").read_bytes()


def test_a_task_without_gradients_is_refused():
    with pytest.raises(UsageError, match="log_norms acts on gradients"):
        log_norms(guard_nonfinite(classifier(), "stop"))  # pyright: ignore[reportArgumentType]
