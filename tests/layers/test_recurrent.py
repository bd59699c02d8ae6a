"""Recurrent layers as functions: against formulas in float64, and by what must hold for any."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnet.errors import InputError
from jaxnet.layers import LSTMState, gru, lstm, sequence_mask, simple_rnn

BATCH, TIME, CHANNELS, FEATURES = 3, 6, 4, 5
FUNCTIONS = {
    "simple_rnn": (simple_rnn, 1),
    "lstm": (lstm, 4),
    "gru": (gru, 3),
    "gru_reset_before": (partial(gru, reset_after=False), 3),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
each_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])


def arguments(name: str, dtype: str = "float32", batch: int = BATCH, time: int = TIME):
    """Inputs, parameters and first states of a function, by name."""
    _, gates = FUNCTIONS[name]
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.uniform(-1, 1, shape), dtype)

    made = {
        "x": draw(batch, time, CHANNELS),
        "kernel": draw(CHANNELS, gates * FEATURES),
        "recurrent_kernel": draw(FEATURES, gates * FEATURES),
        "bias": draw(gates * FEATURES),
        "initial": draw(batch, FEATURES),
    }
    if name == "lstm":
        made["initial"] = LSTMState(made["initial"], draw(batch, FEATURES))
    if name == "gru":
        made["recurrent_bias"] = draw(FEATURES)
    return made


def by_hand(name, x, kernel, recurrent_kernel, bias, initial, recurrent_bias=0.0):
    """The papers' formulas, a step at a time and a gate at a time."""
    hidden, cell = initial if name == "lstm" else (initial, None)
    u = jnp.split(recurrent_kernel, FUNCTIONS[name][1], axis=-1)
    outputs = []
    for t in range(x.shape[1]):
        a = jnp.split(x[:, t] @ kernel + bias[None], FUNCTIONS[name][1], axis=-1)
        if name == "simple_rnn":
            hidden = jnp.tanh(a[0] + hidden @ u[0])
        elif name == "lstm":
            i, f, g, o = (z + hidden @ w for z, w in zip(a, u, strict=True))
            cell = sigmoid(f) * cell + sigmoid(i) * jnp.tanh(g)
            hidden = sigmoid(o) * jnp.tanh(cell)
        else:
            r, z = (sigmoid(a[k] + hidden @ u[k]) for k in (0, 1))
            if name == "gru":
                bias_after = jnp.broadcast_to(recurrent_bias, hidden.shape)
                n = jnp.tanh(a[2] + r * (hidden @ u[2] + bias_after))
            else:
                n = jnp.tanh(a[2] + (r * hidden) @ u[2])
            hidden = (1 - z) * n + z * hidden
        outputs.append(hidden)
    return jnp.stack(outputs, axis=1), ((hidden, cell) if name == "lstm" else hidden)


def sigmoid(z):
    return 1 / (1 + jnp.exp(-z))


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= tolerance * np.abs(want).max(initial=0)).all()


def weighted(tree):
    """A scalar that depends on every number of a tree in a different way."""
    leaves = jax.tree.leaves(tree)
    return sum(
        (jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape) * leaf).sum()
        for leaf in leaves
    )


def derivatives(function, given, first_order=False):
    """Values and gradients; and along one direction derivatives forwards and of second order."""

    def scalar(given):
        return weighted(function(given))

    along = jax.tree.map(jnp.cos, given)

    @jax.jit
    def all_of_them(given):
        found = {"values": function(given), "gradient": jax.grad(scalar)(given)}
        if not first_order:
            found["forwards"] = jax.jvp(function, (given,), (along,))[1]
            found["second order"] = jax.jvp(jax.grad(scalar), (given,), (along,))[1]
        return found

    return all_of_them(given)


def turned(x, reverse):
    return x[:, ::-1] if reverse else x


@every_function
@each_way
def test_every_derivative_is_that_of_the_papers_formula(name, reverse):
    def formula(given):
        outputs, last = by_hand(name, **{**given, "x": turned(given["x"], reverse)})
        return turned(outputs, reverse), last

    def ours(given):
        outputs, last = FUNCTIONS[name][0](**given, reverse=reverse)
        return outputs, tuple(last) if name == "lstm" else last

    single = derivatives(ours, arguments(name, time=2), first_order=True)
    with jax.enable_x64(True):
        given = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a, np.float64)), arguments(name, time=2)
        )
        want, got = (derivatives(one, given, first_order=reverse) for one in (formula, ours))
    jax.tree.map(lambda a, b: close(a, b, 1e-12), got, want)
    jax.tree.map(close, single, {key: want[key] for key in single})


def products_in_loops(jaxpr, inside=False) -> int:
    """How many matrix products the bodies of all loops hold."""
    count = 0
    for equation in jaxpr.eqns:
        count += inside and equation.primitive.name == "dot_general"
        loop = inside or equation.primitive.name in ("scan", "while")
        count += sum(products_in_loops(inner, loop) for inner in jaxprs_in_params(equation.params))
    return count


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_the_loops_hold_one_product_forwards_and_one_backwards(name):
    def scalar(given):
        return weighted(FUNCTIONS[name][0](**given))

    traced = jax.jit(jax.grad(scalar)).trace(arguments(name))
    assert products_in_loops(traced.jaxpr.jaxpr) == 2


@every_function
@each_way
def test_a_mask_is_running_each_sequence_at_its_own_length(name, reverse):
    given = arguments(name)
    lengths = [6, 2, 4]
    mask = sequence_mask(jnp.asarray(lengths), TIME)
    given["x"] = jnp.where(mask[..., None], given["x"], jnp.nan)
    function = partial(FUNCTIONS[name][0], reverse=reverse)

    @jax.jit
    def both(given):
        def scalar(given):
            outputs, last = function(**given, mask=mask)
            return weighted((jnp.where(mask[..., None], outputs, 0), last)), (outputs, last)

        return jax.grad(scalar, has_aux=True)(given)

    gradient, (outputs, last) = both(given)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, outputs, last)))
    np.testing.assert_array_equal(gradient["x"][~mask], 0)
    carried = given["initial"][0] if name == "lstm" else given["initial"]
    for row, length in enumerate(lengths):
        start = jax.tree.map(lambda a, row=row: a[row : row + 1], given["initial"])
        x = given["x"][row : row + 1, :length]
        alone, end = function(**{**given, "x": x, "initial": start})
        close(outputs[row, :length], alone[0], 1e-6)
        jax.tree.map(lambda a, b, row=row: close(a[row], b[0], 1e-6), last, end)
        rest = carried[row] if reverse else alone[0, -1]
        close(outputs[row, length:], jnp.broadcast_to(rest, (TIME - length, FEATURES)) + 0, 1e-6)


@every_function
def test_a_hole_in_a_mask_is_skipped(name):
    given, function = arguments(name), FUNCTIONS[name][0]
    mask = jnp.ones((BATCH, TIME), bool).at[:, jnp.array([0, 3])].set(False)
    outputs, last = function(**given, mask=mask)
    x = given["x"][:, jnp.array([1, 2, 4, 5])]
    without, end = function(**{**given, "x": x})
    close(outputs[:, jnp.array([1, 2, 4, 5])], without, 1e-6)
    np.testing.assert_array_equal(outputs[:, 3], outputs[:, 2])
    jax.tree.map(partial(close, tolerance=1e-6), last, end)


@every_function
@each_way
def test_no_output_sees_what_comes_after_it(name, reverse):
    given = arguments(name)

    def outputs(x):
        return FUNCTIONS[name][0](**{**given, "x": x}, reverse=reverse)[0].sum((0, 2))

    gradient = jax.jit(jax.jacrev(outputs))(given["x"])
    seen = np.abs(gradient).sum((1, 3)) > 0  # by output and input
    allowed = np.tri(TIME, dtype=bool)
    np.testing.assert_array_equal(seen, allowed.T if reverse else allowed)


@every_function
def test_a_run_in_two_halves_is_one_run(name):
    given, function = arguments(name), FUNCTIONS[name][0]
    whole, last = function(**given)
    first, middle = function(**{**given, "x": given["x"][:, :2]})
    second, end = function(**{**given, "x": given["x"][:, 2:], "initial": middle})
    close(jnp.concatenate([first, second], axis=1), whole, 1e-6)
    jax.tree.map(partial(close, tolerance=1e-6), end, last)


def test_without_bias_and_first_state_they_are_zero():
    for name, (function, _) in FUNCTIONS.items():
        given = arguments(name)
        zero = {key: jax.tree.map(jnp.zeros_like, given[key]) for key in ("bias", "initial")}
        if name == "gru":
            del given["recurrent_bias"]
        want = function(**{**given, **zero})
        got = function(given["x"], given["kernel"], given["recurrent_kernel"])
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_every_activation_has_its_own_derivative():
    given = arguments("simple_rnn")

    def by_steps(given, activation):
        hidden = given["initial"]
        for t in range(TIME):
            z = given["x"][:, t] @ given["kernel"] + hidden @ given["recurrent_kernel"]
            hidden = activation(z + given["bias"].reshape(1, -1))
        return weighted(hidden)

    for activation in (jnp.tanh, jax.nn.relu, jax.nn.gelu):
        got = jax.grad(lambda g, f=activation: weighted(simple_rnn(**g, activation=f)[1]))(given)
        want = jax.grad(partial(by_steps, activation=activation))(given)
        jax.tree.map(close, got, want)


def test_vmap_over_parameters_is_one_call_each():
    given = arguments("lstm")
    kernels = jnp.stack([given["kernel"], -given["kernel"]])

    def gradient(kernel):
        return jax.grad(lambda k: weighted(lstm(**{**given, "kernel": k})))(kernel)

    got = jax.jit(jax.vmap(gradient))(kernels)
    close(got, jnp.stack([gradient(kernel) for kernel in kernels]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": jnp.zeros((3, 4))}, r"\(batch, time, channels\).*float32 \(3, 4\)"),
        ({"x": jnp.zeros((3, 0, 4))}, "at least one step"),
        ({"x": jnp.zeros((3, 6, 4), jnp.int32)}, "int32.*embed tokens first"),
        ({"kernel": jnp.zeros((5, 20))}, r"kernel \(channels, 4 features\).*\(5, 20\)"),
        ({"recurrent_kernel": jnp.zeros((5, 15))}, r"recurrent_kernel.*\(5, 15\)"),
        ({"bias": jnp.zeros(5)}, r"bias \(20,\), got \(5,\)"),
        ({"initial": LSTMState(jnp.zeros((1, 5)), jnp.zeros((3, 5)))}, r"\(3, 5\), got \(1, 5\)"),
        ({"mask": jnp.ones((3, 6))}, r"bool \(batch, time\) \(3, 6\).*float32.*sequence_mask"),
        ({"mask": jnp.ones((6, 3), bool)}, r"got bool \(6, 3\)"),
    ],
)
def test_errors_say_what_was_expected(change, words):
    with pytest.raises(InputError, match=words):
        lstm(**{**arguments("lstm"), **change})


def test_a_recurrent_bias_needs_reset_after():
    given = arguments("gru")
    with pytest.raises(InputError, match="reset_after=True"):
        gru(**given, reset_after=False)
    with pytest.raises(InputError, match=r"recurrent_bias \(5,\), got \(15,\)"):
        gru(**{**given, "recurrent_bias": given["bias"]})
