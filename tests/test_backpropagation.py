"""Online back-propagation as the courses write it: the worked example, and momentum."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, optimizers
from jaxnet.layers.activations import ACTIVATIONS

sigmoid = ACTIVATIONS["sigmoid"]

INPUTS = jnp.array([0.35, 0.7])
TARGET = jnp.array([0.5])
WEIGHTS = {  # w11 w12, w21 w22 of two inputs to two units; w13, w23 of those to the output
    "hidden": jnp.array([[0.2, 0.3], [0.2, 0.3]]),
    "output": jnp.array([[0.3], [0.9]]),
}
ZERO_NETS = {"hidden": jnp.zeros(2), "output": jnp.zeros(1)}


def activities(weights: dict, nets: dict = ZERO_NETS) -> tuple[jax.Array, jax.Array]:
    """What the units send; `nets` is added to what they receive."""
    hidden = sigmoid(INPUTS @ weights["hidden"] + nets["hidden"])
    return hidden, sigmoid(hidden @ weights["output"] + nets["output"])


def error(weights: dict, nets: dict = ZERO_NETS) -> jax.Array:
    _, output = activities(weights, nets)
    return losses.sum_of_squares(output[None], TARGET[None])[0]


def to_four_decimals(got: jax.Array, expected: float | list) -> None:
    np.testing.assert_array_equal(np.round(np.asarray(got, np.float64), 4), expected)


def test_forward():
    hidden, output = activities(WEIGHTS)
    to_four_decimals(hidden, [0.5523, 0.5781])
    to_four_decimals(output, [0.6651])


def test_deltas():
    """A unit's delta is minus the derivative of the error by what the unit receives."""
    deltas = jax.tree.map(jnp.negative, jax.grad(error, argnums=1)(WEIGHTS, ZERO_NETS))
    to_four_decimals(deltas["output"], [-0.0368])
    to_four_decimals(deltas["hidden"], [-0.0027, -0.0081])


def test_one_step():
    optimizer = optimizers.by_name("sgd", 1.0)
    updates, _ = optimizer.update(jax.grad(error)(WEIGHTS), optimizer.init(WEIGHTS))
    weights = optax.apply_updates(WEIGHTS, updates)
    to_four_decimals(weights["output"][:, 0], [0.2797, 0.8787])
    # It is 0.65955, of which the course prints the first four decimals.
    np.testing.assert_allclose(activities(weights)[1], [0.65955], atol=5e-6)


def textbook(weights: dict[str, np.ndarray], rate: float, alpha: float, steps: int) -> dict:
    """dw(t) = -rate dE/dw + alpha dw(t-1), with the deltas written out, in float64."""
    x, target = np.array([0.35, 0.7]), np.array([0.5])
    w, v = weights["hidden"].copy(), weights["output"].copy()
    dw, dv = np.zeros_like(w), np.zeros_like(v)
    for _ in range(steps):
        h = 1 / (1 + np.exp(-x @ w))
        o = 1 / (1 + np.exp(-h @ v))
        delta_o = (target - o) * o * (1 - o)
        delta_h = (v @ delta_o) * h * (1 - h)
        dv = rate * np.outer(h, delta_o) + alpha * dv
        dw = rate * np.outer(x, delta_h) + alpha * dw
        w, v = w + dw, v + dv
    return {"hidden": w, "output": v}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_momentum_is_the_textbooks(alpha: float):
    optimizer = optimizers.by_name("momentum", 0.8, momentum=alpha)
    weights, state = WEIGHTS, optimizer.init(WEIGHTS)
    gradient: Callable = jax.jit(jax.grad(error))
    for _ in range(8):
        updates, state = optimizer.update(gradient(weights), state)
        weights = optax.apply_updates(weights, updates)
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), WEIGHTS)
    expected = textbook(start, 0.8, alpha, 8)
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], rtol=2e-6)
        assert np.abs(expected[name] - start[name]).max() > 1e-3
