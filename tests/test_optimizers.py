from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optimizers, trees
from jaxnet.errors import UsageError

RNG = np.random.default_rng(0)
# The gradient of a quadratic bowl is CURVATURE @ weights.
CURVATURE = np.diag([3.0, 1.0, 0.3, 0.1, 0.03]) + 0.05
START = RNG.normal(size=5)
RATE = 0.05
STEPS = 20


def walked(optimizer: Any) -> np.ndarray:
    """Where the steps of an optimizer lead, as one program."""

    @jax.jit
    def walk(weights):
        def step(carry, _):
            weights, state = carry
            gradient = jnp.asarray(CURVATURE, jnp.float32) @ weights
            updates, state = optimizer.update(gradient, state, weights)
            return (optax.apply_updates(weights, updates), state), None

        start = weights, optimizer.init(weights)
        return jax.lax.scan(step, start, length=STEPS)[0][0]

    return np.asarray(walk(START.astype(np.float32)))


def by_jaxnet(name: str, learning_rate: float = RATE, **options: Any) -> np.ndarray:
    return walked(optimizers.by_name(name, learning_rate, **options))


def by_torch(name: str, lr: float = RATE, **options: Any) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    weights = torch.nn.Parameter(torch.tensor(START, dtype=torch.float32))
    optimizer = getattr(torch.optim, name)([weights], lr=lr, **options)
    curvature = torch.tensor(CURVATURE, dtype=torch.float32)
    for _ in range(STEPS):
        weights.grad = curvature @ weights.detach()
        optimizer.step()
    return weights.detach().numpy()


def by_formula(update: Callable[..., np.ndarray]) -> np.ndarray:
    weights, memory = START.copy(), {}
    for t in range(1, STEPS + 1):
        weights = weights + update(CURVATURE @ weights, weights, memory, t)
    return weights


def assert_same_way(got: np.ndarray, expected: np.ndarray):
    """To 1e-5 of the way gone: Adam's `1 - b2**t` is good to 6e-5 in float32 at t=1."""
    way = np.abs(expected - START).max()
    assert way > 0.1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * way)


@pytest.mark.parametrize(
    ("name", "options", "torch_name", "torch_options"),
    [
        ("sgd", {}, "SGD", {}),
        ("sgd", {"momentum": 0.8}, "SGD", {"momentum": 0.8}),
        ("momentum", {}, "SGD", {"momentum": 0.9}),
        ("nesterov", {}, "SGD", {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"weight_decay": 0.1}, "SGD", {"weight_decay": 0.1}),
        ("momentum", {"weight_decay": 0.1}, "SGD", {"momentum": 0.9, "weight_decay": 0.1}),
        ("adadelta", {"learning_rate": 10.0}, "Adadelta", {"lr": 10.0}),
        ("rmsprop", {"decay": 0.99, "eps_in_sqrt": False}, "RMSprop", {}),
        (
            "rmsprop",
            {"decay": 0.99, "eps_in_sqrt": False, "momentum": 0.9},
            "RMSprop",
            {"momentum": 0.9},
        ),
        ("adam", {}, "Adam", {}),
        ("adam", {"b1": 0.8, "b2": 0.9, "eps": 1e-3}, "Adam", {"betas": (0.8, 0.9), "eps": 1e-3}),
        ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
        ("adamax", {}, "Adamax", {}),
    ],
)
def test_equals_pytorch(name: str, options: dict, torch_name: str, torch_options: dict):
    assert_same_way(by_jaxnet(name, **options), by_torch(torch_name, **torch_options))


def adagrad(g, w, memory, t):
    """Duchi et al. 2011, the diagonal form; Keras's start 0.1 and eps inside the root."""
    memory["v"] = memory.get("v", 0.1) + g**2
    return -RATE * g / np.sqrt(memory["v"] + 1e-7)


def rmsprop(g, w, memory, t):
    """Tieleman and Hinton 2012, lecture 6e, with eps inside the root."""
    memory["v"] = 0.9 * memory.get("v", 0.0) + 0.1 * g**2
    return -RATE * g / np.sqrt(memory["v"] + 1e-8)


def keras_rmsprop(g, w, memory, t):
    memory["v"] = 0.9 * memory.get("v", 0.0) + 0.1 * g**2
    return -RATE * g / np.sqrt(memory["v"] + 1e-7)


def adam_moments(g, memory, t, b1=0.9, b2=0.999):
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t), memory["v"] / (1 - b2**t)


def nadam(g, w, memory, t):
    """Dozat 2016, algorithm 2, with a constant b1 and without its second b2."""
    _, v = adam_moments(g, memory, t)
    m = 0.9 * memory["m"] / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
    return -RATE * m / (np.sqrt(v) + 1e-8)


def lamb(g, w, memory, t):
    """You et al. 2020, algorithm 2, with weight decay 0.01 and phi the identity."""
    m, v = adam_moments(g, memory, t)
    direction = m / (np.sqrt(v) + 1e-6) + 0.01 * w
    return -RATE * direction * np.linalg.norm(w) / np.linalg.norm(direction)


def lion(g, w, memory, t):
    """Chen et al. 2023, algorithm 2."""
    m = memory.get("m", 0.0)
    memory["m"] = 0.99 * m + 0.01 * g
    return -RATE * (np.sign(0.9 * m + 0.1 * g) + 1e-3 * w)


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("adagrad", {}, adagrad),
        ("rmsprop", {}, rmsprop),
        ("rmsprop", {"eps": 1e-7}, keras_rmsprop),
        ("nadam", {}, nadam),
        ("lamb", {"weight_decay": 0.01}, lamb),
        ("lion", {}, lion),
    ],
)
def test_equals_the_papers_formula_in_float64(name: str, options: dict, formula: Callable):
    assert_same_way(by_jaxnet(name, **options), by_formula(formula))


@cache
def half_steps() -> dict[str, Any]:
    """The first update of half-precision parameters by each optimizer, all by one program."""

    def bowl(params):
        return (params["w"] * params["w"]).sum() / 2

    @jax.jit
    def all_of_them(params):
        found, extra = {}, {"value": bowl(params), "grad": params, "value_fn": bowl}
        for name in optimizers.OPTIMIZERS:
            optimizer = optax.with_extra_args_support(optimizers.by_name(name, 0.1))
            found[name], _ = optimizer.update(params, optimizer.init(params), params, **extra)
        return found

    return jax.device_get(all_of_them({"w": np.ones(3, jnp.bfloat16)}))


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_half_precision_parameters_stay_so(name: str):
    update = half_steps()[name]["w"]
    assert update.dtype == jnp.bfloat16 and bool((update < 0).all())


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_weight_decay_can_leave_out_leaves_by_path(name: str):
    ones = np.ones(2, np.float32)
    params = {"Dense_0": {"kernel": ones, "bias": ones}}
    optimizer = optimizers.by_name(
        name, 0.1, weight_decay=0.5, mask=lambda p: trees.mask(p, "**/kernel")
    )

    @jax.jit
    def update(zero, params):
        return optimizer.update(zero, optimizer.init(params), params)[0]

    updates = update(jax.tree.map(np.zeros_like, params), params)
    # LAMB makes the update as long as the parameters: 0.1 instead of 0.1 times the decay of 0.5.
    expected = -0.1 if name == "lamb" else -0.05
    np.testing.assert_allclose(updates["Dense_0"]["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(updates["Dense_0"]["bias"], 0)


def test_a_schedule_is_a_learning_rate():
    optimizer = optimizers.by_name("sgd", optimizers.schedule("cosine", 1.0, 4))

    @jax.jit
    def run():
        def step(state, _):
            update, state = optimizer.update(jnp.ones(()), state)
            return state, -update

        return jax.lax.scan(step, optimizer.init(jnp.zeros(())), length=5)[1]

    rates = run()
    np.testing.assert_allclose(rates, (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, atol=1e-7)


def test_the_learning_rate_can_be_traced():
    @jax.jit
    def update(rate):
        optimizer = optimizers.by_name("sgd", rate)
        return optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))[0]

    assert update(jnp.float32(0.25)) == -0.25


@pytest.mark.parametrize(
    ("name", "rate", "options", "message"),
    [
        ("adm", 0.1, {}, "did you mean 'adam'"),
        ("adam", -0.1, {}, "learning_rate must be.*-0.1"),
        ("adam", float("nan"), {}, "learning_rate must be.*nan"),
        ("adam", float("inf"), {}, "learning_rate"),
        ("adam", "0.1", {}, "learning_rate"),
        ("adam", 0.1, {"eps_rot": 0.9}, "optimizer 'adam' has no option 'eps_rot'.*'eps_root'"),
        ("adam", 0.1, {"learning_rat": 0.9}, "has no option 'learning_rat'"),
        ("adam", 0.1, {"b1": 1.0}, r"b1 must be in \[0, 1\)"),
        ("sgd", 0.1, {"momentum": 1.5}, "momentum"),
        ("adam", 0.1, {"eps": -1e-8}, "eps"),
        ("adamw", 0.1, {"weight_decay": float("nan")}, "weight_decay"),
        ("sgd", 0.1, {"nesterov": True}, "needs momentum"),
        ("rmsprop", 0.1, {"nesterov": True}, "needs momentum"),
        ("adam", None, {}, "learning_rate must be.*None"),
        ("lbfgs", -1.0, {}, "learning_rate must be.*-1.0"),
    ],
)
def test_bad_optimizers_are_refused(name: str, rate: Any, options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        optimizers.by_name(name, rate, **options)


@pytest.mark.parametrize("options", [{"eps_root": 1e-3}, {"eps": 1e-2, "b2": 0.99}])
def test_adam_equals_optax_in_its_cheaper_order(options: dict):
    with jax.numpy_dtype_promotion("standard"):
        theirs = walked(optax.adam(RATE, **options))
    assert_same_way(by_jaxnet("adam", **options), theirs)


def rosenbrock(w: Any) -> Any:
    return ((1 - w[:-1]) ** 2 + 100 * (w[1:] - w[:-1] ** 2) ** 2).sum()


def descend(optimizer: Any, steps: int) -> np.ndarray:
    """L-BFGS's way down the Rosenbrock valley."""

    @jax.jit
    def step(w, state):
        value, grad = jax.value_and_grad(rosenbrock)(w)
        extra = {"value": value, "grad": grad, "value_fn": rosenbrock}
        updates, state = optimizer.update(grad, state, w, **extra)
        return optax.apply_updates(w, updates), state

    w = jnp.array([-1.2, 1.0, 0.5])
    state = jax.jit(optimizer.init)(w)
    for _ in range(steps):
        w, state = step(w, state)
    # One compile: the state keeps its types.
    assert step._cache_size() == 1
    return np.asarray(w)


@pytest.mark.slow
def test_lbfgs_finds_scipys_minimum_in_about_as_many_steps():
    optimize = pytest.importorskip("scipy.optimize")
    start = np.array([-1.2, 1.0, 0.5])
    theirs = optimize.minimize(rosenbrock, start, method="L-BFGS-B", jac="3-point")
    got = descend(optimizers.by_name("lbfgs"), steps=int(1.5 * theirs.nit))
    np.testing.assert_allclose(got, theirs.x, atol=2e-3)
    np.testing.assert_allclose(got, 1, atol=2e-3)


@pytest.mark.slow
def test_the_learning_rate_of_lbfgs_damps_the_step_that_it_found():
    whole, half = (descend(optimizers.by_name("lbfgs", rate), 1) for rate in (None, 0.5))
    start = np.array([-1.2, 1.0, 0.5])
    np.testing.assert_allclose(half - start, (whole - start) / 2, rtol=1e-5)
    assert rosenbrock(whole) < rosenbrock(start)


def test_lbfgs_without_an_objective_says_what_it_needs():
    optimizer, weights = optimizers.by_name("lbfgs"), jnp.ones(2)
    with pytest.raises(UsageError, match="value_fn of the objective"):
        optimizer.update(weights, optimizer.init(weights), weights)
