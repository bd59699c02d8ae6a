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
from jaxnet.errors import InputError, UsageError
from jaxnet.layers import GRU, LSTM, MultiHeadAttention, SeparableConv, SimpleRNN
from jaxnet.recipe import Techniques
from jaxnet.training import (
    Supervised,
    Trainer,
    accumulate,
    freeze,
    guard_nonfinite,
    mixed_precision,
    penalize,
)
from tests.networks import Dense
from tests.training.helpers import assert_close, bits, classifier, make_batch, table, take_steps


def gradient(task: Any, batch: Any) -> Any:
    state = task.init(jax.random.key(0), batch)
    return state.params, jax.jit(lambda s, b: task.gradients(task.objective, s, b))(state, batch)[0]


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_the_gradient_is_that_of_the_formula_on_kernels_only(l1, l2):
    batch = make_batch(8, masked=2)
    params, plain = gradient(classifier(), batch)
    _, penalised = gradient(penalize(classifier(), l1=l1, l2=l2), batch)
    for layer in ("Dense_0", "Dense_1"):
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        expected = plain[layer]["kernel"] + l1 * np.sign(kernel) + 2 * l2 * kernel
        np.testing.assert_allclose(penalised[layer]["kernel"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(penalised[layer]["bias"], plain[layer]["bias"])


def test_patterns_choose_what_is_penalised():
    batch = make_batch(8)
    params, plain = gradient(classifier(), batch)
    _, penalised = gradient(penalize(classifier(), "Dense_1/*", l2=1.0), batch)
    assert bits(penalised["Dense_0"]) == bits(plain["Dense_0"])
    expected = jax.tree.map(lambda g, p: g + 2 * p, plain["Dense_1"], params["Dense_1"])
    assert_close(penalised["Dense_1"], expected)
    with pytest.raises(InputError, match=r"'\*\*/embedding' matches none of these 4 paths"):
        penalize(classifier(), "**/embedding", l2=1.0).init(jax.random.key(0), batch)


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
    state = task.init(jax.random.key(0), batch)
    state = replace(state, params=jax.tree.map(lambda p: p + 0.1, state.params))
    measured = [jax.jit(t.train_step)(state, batch)[1] for t in (task, plain)]
    assert measured[0]["loss"].compute() == measured[1]["loss"].compute()
    by_path = {name: np.asarray(p["kernel"], np.float64) for name, p in state.params.items()}
    expected = 0.1 * sum(np.abs(kernel).sum() for kernel in by_path.values())
    expected += 2.0 * 0.1**2 * (8 + 3)
    assert measured[0]["penalty"].compute() == pytest.approx(expected, rel=1e-5)

    result = Trainer(task).fit(table(20), table(10, 1), epochs=2, batch_size=8)
    assert {"loss", "penalty", "val_loss"} <= result.history.rows[0].keys()
    assert "val_penalty" not in result.history.rows[0]


def solution(task: Any, inputs: Any, labels: Any, steps: int = 3000) -> tuple[Any, Any]:
    """Kernel and bias after descending for long on all examples at once."""
    batch = {"inputs": inputs, "labels": labels, "mask": np.ones(len(inputs), bool)}
    state = task.init(jax.random.key(0), batch)
    descend = jax.jit(
        lambda s, b: jax.lax.fori_loop(0, steps, lambda _, t: task.train_step(t, b)[0], s)
    )
    params = descend(state, batch).params
    return np.asarray(params["kernel"]), np.asarray(params["bias"])


def descent(steps: int = 3000) -> Any:
    # Under l1 plain descent swings around 0 by a step: the steps have to shrink.
    return optimizers.by_name("sgd", optimizers.schedule("cosine", 0.2, steps))


@pytest.mark.parametrize("model", ["ridge", "lasso", "elastic_net"])
def test_linear_regression_reaches_scikit_learns_solution(model):
    from sklearn.linear_model import ElasticNet, Ridge

    rng = np.random.default_rng(0)
    n, alpha, ratio = 40, 0.5, {"ridge": 0.0, "lasso": 1.0, "elastic_net": 0.4}[model]
    inputs = rng.normal(size=(n, 4)).astype(np.float32)
    targets = (inputs @ [2.0, -1.0, 0.2, 0.0] + 0.3 + 0.1 * rng.normal(size=n)).astype(np.float32)
    if model == "ridge":
        reference, factors = Ridge(alpha=alpha, tol=1e-10), {"l2": alpha / n}
    else:
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


def test_pytorchs_weight_decay_is_half_of_it():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    decay, rate = 0.3, 0.1
    task = penalize(classifier(optimizer=optax.sgd(rate)), "**", l2=decay / 2)
    before, after = take_steps(task, make_batch(8), 1)
    _, plain = gradient(classifier(), make_batch(8))
    for layer in ("Dense_0", "Dense_1"):
        for name in ("kernel", "bias"):
            weight = torch.nn.Parameter(torch.tensor(np.asarray(before.params[layer][name])))
            weight.grad = torch.tensor(np.asarray(plain[layer][name]))
            torch.optim.SGD([weight], lr=rate, weight_decay=decay).step()
            np.testing.assert_allclose(
                after.params[layer][name], weight.detach(), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("outside", [True, False])
def test_an_accumulated_batch_has_the_penalty_once(outside):
    batch = make_batch(8, masked=3)
    batch["weights"] = jnp.arange(1.0, 9)

    def around(task: Any) -> Any:
        return penalize(task, l1=0.1, l2=0.1)

    task = around(accumulate(classifier(), 4)) if outside else accumulate(around(classifier()), 4)
    (whole, sums), (parts, part_sums) = (
        jax.jit(t.train_step)(t.init(jax.random.key(0), batch), batch)
        for t in (around(classifier()), task)
    )
    assert_close(parts.params, whole.params)
    assert_close(part_sums, sums, 1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_leaves_the_penalty_in_float32(precision):
    batch = make_batch(8)
    orders = [
        mixed_precision(penalize(classifier(), l2=0.1), precision),
        penalize(mixed_precision(classifier(), precision), l2=0.1),
    ]
    plain = mixed_precision(classifier(), precision)
    params, without = gradient(plain, batch)
    for task in orders:
        _, grads = gradient(task, batch)
        pulls = jax.tree.map(lambda a, b: a - b, grads, without)
        for layer in pulls:
            np.testing.assert_allclose(
                pulls[layer]["kernel"], 0.2 * params[layer]["kernel"], rtol=1e-3, atol=1e-5
            )


def test_what_is_frozen_is_not_pulled():
    batch = make_batch(8)
    task = freeze(penalize(classifier(), l2=0.5), "Dense_0/**")
    before, after = take_steps(task, batch, 2)[::2]
    assert bits(before.params["Dense_0"]) == bits(after.params["Dense_0"])
    assert bits(before.params["Dense_1"]) != bits(after.params["Dense_1"])
    _, grads = gradient(task, batch)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["Dense_0"]))


def test_nothing_to_add_is_the_plain_task_and_what_cannot_be_is_refused():
    task = classifier()
    assert penalize(task) is task
    for factors in ({"l1": -0.1}, {"l2": float("nan")}, {"l2": float("inf")}):
        with pytest.raises(UsageError, match="expected l1 and l2 of at least 0, got l1="):
            penalize(task, **factors)
    with pytest.raises(UsageError, match=re.escape("guard_nonfinite(penalize(task, ...), ...)")):
        penalize(guard_nonfinite(task, "skip"), l2=0.1)  # pyright: ignore[reportArgumentType]


def test_the_recipe_has_it():
    batch = make_batch(8)
    expected = take_steps(penalize(classifier(), l1=0.01, l2=0.02), batch, 2)[-1]
    got = take_steps(Techniques(l1=0.01, l2=0.02).apply(classifier()), batch, 2)[-1]
    assert_close(got.params, expected.params)
