"""Penalties: the formula, scikit-learn's solutions, and compositions with other techniques."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, optimizers, trees
from jaxnet.app.technique_options import Techniques
from jaxnet.errors import InputError, UsageError
from jaxnet.layers import GRU, LSTM, MultiHeadAttention, SeparableConv, SimpleRNN
from jaxnet.training import (
    Supervised,
    accumulate,
    freeze,
    guard_nonfinite,
    mixed_precision,
    penalize,
)
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    first_gradients,
    first_steps,
    gradients,
    make_batch,
    started,
    table,
    take_steps,
)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_formula_on_kernels_only():
    factors = [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)]
    tasks = [classifier(), *(penalize(classifier(), l1=l1, l2=l2) for l1, l2 in factors)]
    params, (plain, *others) = first_gradients(tasks, make_batch(8, masked=2))
    for (l1, l2), penalised in zip(factors, others, strict=True):
        for layer in ("Dense_0", "Dense_1"):
            kernel = np.asarray(params[layer]["kernel"], np.float64)
            expected = plain[layer]["kernel"] + l1 * np.sign(kernel) + 2 * l2 * kernel
            np.testing.assert_allclose(penalised[layer]["kernel"], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(penalised[layer]["bias"], plain[layer]["bias"])


def test_patterns_choose_what_is_penalised():
    batch = make_batch(8)
    tasks = classifier(), penalize(classifier(), "Dense_1/*", l2=1.0)
    params, (plain, penalised) = jax.tree.map(np.asarray, first_gradients(tasks, batch))
    assert bits(penalised["Dense_0"]) == bits(plain["Dense_0"])
    expected = jax.tree.map(lambda g, p: g + 2 * p, plain["Dense_1"], params["Dense_1"])
    assert_close(penalised["Dense_1"], expected)
    with pytest.raises(InputError, match=r"'\*\*/embedding' matches none of these 4 paths"):
        task = penalize(classifier(), "**/embedding", l2=1.0)
        jax.eval_shape(task.init, jax.random.key(0), batch)


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(3, num_layers=2, bidirectional=True),
        GRU(3),
        SimpleRNN(3),
        nn.RNN(nn.OptimizedLSTMCell(3)),
        nn.RNN(nn.GRUCell(3)),
        MultiHeadAttention(4, num_heads=2),
        nn.MultiHeadDotProductAttention(num_heads=2),
        SeparableConv(4, 3),
        nn.Sequential([nn.Embed(5, 4), nn.LayerNorm(), Dense(2)]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_weight_that_multiplies_is_a_kernel_by_default(layer):
    embeds = isinstance(layer, nn.Sequential)
    inputs = jnp.zeros((2, 6), jnp.int32) if embeds else jnp.zeros((2, 6, 4))
    params = jax.eval_shape(layer.init, jax.random.key(0), inputs)["params"]
    task = penalize(Supervised(layer, losses.squared_error, optax.sgd(0.1)), l2=1.0)
    pulled = trees.matching(params, *cast(Any, task).patterns)
    # Of one axis are biases, or of two by the head; a table of vectors multiplies nothing.
    multiply = [
        path
        for path, leaf in trees.named(params).items()
        if leaf.ndim > 1 and not path.endswith(("bias", "embedding"))
    ]
    assert pulled == multiply


def test_what_patterns_choose_is_said_once(caplog):
    caplog.set_level("INFO", logger="jaxnet.chosen")
    lstm = Supervised(LSTM(3), losses.squared_error, optax.sgd(0.1))
    batch = {"inputs": jnp.zeros((2, 6, 4)), "mask": jnp.ones(2, bool)}
    for _ in range(2):
        jax.eval_shape(penalize(lstm, "**/kernel", l2=0.125).init, jax.random.key(0), batch)
    said, warned = caplog.messages
    assert re.fullmatch(r"a penalty pulls at 1 of 3 parameters: \S+/kernel", said)
    assert re.search(r"at no \S+/recurrent_kernel, which '\*\*/kernel' doesn't match", warned)


def test_loss_stays_the_datas_and_penalty_is_reported_beside_it():
    batch = make_batch(8, masked=3)
    plain, task = classifier(), penalize(penalize(classifier(), l1=0.1), "**/bias", l2=2.0)
    state = started(task, batch)
    state = replace(state, params=jax.tree.map(lambda p: np.asarray(p) + 0.1, state.params))
    measured = jax.jit(lambda s, b: [t.train_step(s, b)[1] for t in (task, plain)])(state, batch)
    assert measured[0]["loss"].compute() == measured[1]["loss"].compute()
    by_path = {name: np.asarray(p["kernel"], np.float64) for name, p in state.params.items()}
    expected = 0.1 * sum(np.abs(kernel).sum() for kernel in by_path.values())
    expected += 2.0 * 0.1**2 * (8 + 3)
    assert measured[0]["penalty"].compute() == pytest.approx(expected, rel=1e-5)
    evaluated = jax.eval_shape(task.eval_step, state, batch)
    assert "loss" in evaluated and "penalty" not in evaluated


def solution(task: Any, inputs: Any, labels: Any, steps: int = 3000) -> tuple[Any, Any]:
    """Kernel and bias after descending for long on all examples at once."""
    batch = {"inputs": inputs, "labels": labels, "mask": np.ones(len(inputs), bool)}

    @jax.jit
    def descend(key: jax.Array, batch: Any) -> Any:
        start = task.init(key, batch)
        return jax.lax.fori_loop(0, steps, lambda _, s: task.train_step(s, batch)[0], start).params

    params = descend(jax.random.key(0), batch)
    return np.asarray(params["kernel"]), np.asarray(params["bias"])


def descent(steps: int = 3000) -> Any:
    # Under l1 plain descent swings around 0 by a step: the steps have to shrink.
    return optimizers.by_name("sgd", optimizers.schedule("cosine", 0.2, steps))


@pytest.mark.parametrize("ratio", [1.0, 0.4], ids=["lasso", "elastic net"])
def test_linear_regression_reaches_scikit_learns_solution(ratio):
    from sklearn.linear_model import ElasticNet

    rng = np.random.default_rng(0)
    n, alpha = 40, 0.5
    inputs = rng.normal(size=(n, 4)).astype(np.float32)
    targets = (inputs @ [2.0, -1.0, 0.2, 0.0] + 0.3 + 0.1 * rng.normal(size=n)).astype(np.float32)
    reference = ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-10, max_iter=10000)
    factors = {"l1": 2 * alpha * ratio, "l2": alpha * (1 - ratio)}
    reference.fit(inputs.astype(np.float64), targets)
    task = penalize(Supervised(Dense(1), losses.squared_error, descent()), **factors)
    kernel, bias = solution(task, inputs, targets)
    np.testing.assert_allclose(kernel[:, 0], reference.coef_, atol=5e-4)
    np.testing.assert_allclose(bias[0], reference.intercept_, atol=5e-4)


def test_logistic_regression_reaches_scikit_learns_solution():
    from sklearn.linear_model import LogisticRegression

    inputs, labels = table(60)
    c = 0.5
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=10000)
    reference.fit(inputs.astype(np.float64), labels)
    task = Supervised(Dense(3), losses.cross_entropy, optax.sgd(0.5))
    kernel, bias = solution(penalize(task, l2=1 / (2 * c * 60)), inputs, labels)
    np.testing.assert_allclose(kernel.T, reference.coef_, atol=2e-4)
    # Only differences of biases matter: scikit-learn's add up to 0.
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_, atol=2e-4)


@pytest.mark.slow
def test_pytorchs_weight_decay_is_half_of_it():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    decay, rate = 0.3, 0.1
    task = penalize(classifier(optimizer=optax.sgd(rate)), "**", l2=decay / 2)
    ((before, after),) = first_steps([task], make_batch(8))
    plain, _ = gradients(classifier(), make_batch(8))
    for layer in ("Dense_0", "Dense_1"):
        for name in ("kernel", "bias"):
            weight = torch.nn.Parameter(torch.tensor(np.asarray(before.params[layer][name])))
            weight.grad = torch.tensor(np.asarray(plain[layer][name]))
            torch.optim.SGD([weight], lr=rate, weight_decay=decay).step()
            np.testing.assert_allclose(
                after.params[layer][name], weight.detach(), rtol=1e-5, atol=1e-6
            )


@pytest.mark.slow
def test_an_accumulated_batch_has_the_penalty_once():
    batch = make_batch(8, masked=3)
    batch["weights"] = jnp.asarray(np.arange(1, 9, dtype=np.float32))

    def around(task: Any) -> Any:
        return penalize(task, l1=0.1, l2=0.1)

    tasks = [
        around(classifier()),
        around(accumulate(classifier(), 4)),
        accumulate(around(classifier()), 4),
    ]
    run = jax.jit(lambda key, b: [t.train_step(t.init(key, b), b) for t in tasks])
    (whole, sums), *others = run(jax.random.key(0), batch)
    for parts, part_sums in others:
        assert_close(parts.params, whole.params)
        assert_close(part_sums, sums, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_leaves_the_penalty_in_float32(precision):
    tasks = [
        mixed_precision(classifier(), precision),
        mixed_precision(penalize(classifier(), l2=0.1), precision),
        penalize(mixed_precision(classifier(), precision), l2=0.1),
    ]
    params, (without, *others) = jax.tree.map(np.asarray, first_gradients(tasks, make_batch(8)))
    for grads in others:
        pulls = jax.tree.map(lambda a, b: a - b, grads, without)
        for layer in pulls:
            np.testing.assert_allclose(
                pulls[layer]["kernel"], 0.2 * params[layer]["kernel"], rtol=1e-3, atol=1e-5
            )


@pytest.mark.slow
def test_what_is_frozen_is_not_pulled():
    batch = make_batch(8)
    task = freeze(penalize(classifier(), l2=0.5), "Dense_0/**")
    before, after = take_steps(task, batch, 2)[::2]
    assert bits(before.params["Dense_0"]) == bits(after.params["Dense_0"])
    assert bits(before.params["Dense_1"]) != bits(after.params["Dense_1"])
    grads, _ = gradients(task, batch)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["Dense_0"]))


def test_nothing_to_add_is_the_plain_task_and_what_cannot_be_is_refused():
    task = classifier()
    assert penalize(task) is task
    for factors in ({"l1": -0.1}, {"l2": float("nan")}, {"l2": float("inf")}):
        with pytest.raises(UsageError, match="expected l1 and l2 of at least 0, got l1="):
            penalize(task, **factors)
    with pytest.raises(UsageError, match=re.escape("guard_nonfinite(penalize(task, ...), ...)")):
        penalize(guard_nonfinite(task, "skip"), l2=0.1)  # pyright: ignore[reportArgumentType]


def test_the_recipe_has_it():
    task = Techniques(l1=0.01, l2=0.02, nonfinite="ignore").apply(classifier())
    assert task == penalize(classifier(), l1=0.01, l2=0.02)
