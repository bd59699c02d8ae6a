"""Recurrent layers as functions: against formulas in float64, and by what must hold for any."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnet.errors import InputError
from jaxnet.layers import LSTMState, gru, lstm, simple_rnn

BATCH, TIME, CHANNELS, FEATURES = 4, 6, 4, 5
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
        return jnp.asarray(rng.uniform(-1, 1, shape).astype(dtype))

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


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_hand(name, x, kernel, recurrent_kernel, bias, initial, recurrent_bias=None, reverse=False):
    """The papers' formulas in NumPy, a step at a time and a gate at a time."""
    hidden, cell = initial if name == "lstm" else (initial, None)
    u = np.split(recurrent_kernel, FUNCTIONS[name][1], axis=-1)
    outputs = []
    for t in range(x.shape[1])[:: -1 if reverse else 1]:
        a = np.split(x[:, t] @ kernel + bias[None], FUNCTIONS[name][1], axis=-1)
        if name == "simple_rnn":
            hidden = np.tanh(a[0] + hidden @ u[0])
        elif name == "lstm":
            i, f, g, o = (z + hidden @ w for z, w in zip(a, u, strict=True))
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
        else:
            r, z = (sigmoid(a[k] + hidden @ u[k]) for k in (0, 1))
            if name == "gru":
                n = np.tanh(a[2] + r * (hidden @ u[2] + recurrent_bias[None]))
            else:
                n = np.tanh(a[2] + (r * hidden) @ u[2])
            hidden = (1 - z) * n + z * hidden
        outputs.append(hidden)
    outputs = np.stack(outputs[:: -1 if reverse else 1], axis=1)
    return outputs, ((hidden, cell) if name == "lstm" else hidden)


def in_float64(given, rows=slice(None)):
    """Arguments as NumPy's doubles, those of some rows of the batch only."""
    wide = jax.tree.map(lambda array: np.asarray(array, np.float64), given)
    batched = {"x", "initial"} & set(wide)
    of_rows = {key: jax.tree.map(lambda array: array[rows], wide[key]) for key in batched}
    return {**wide, **of_rows}


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= tolerance * np.abs(want).max(initial=0)).all()


def sines(array):
    """Weights with which a sum depends on every number in a different way."""
    return np.sin(np.arange(array.size)).reshape(array.shape).astype(array.dtype)


def weighted(tree, weights=None):
    weights = jax.tree.map(sines, tree) if weights is None else weights
    return sum(jax.tree.leaves(jax.tree.map(lambda a, w: (a * w).sum(), tree, weights)))


TINY = 1e-30


def gradient_by_hand(function, given):
    """By a complex step for each number, exact to the last digits (Squire and Trapp 1998)."""
    leaves, structure = jax.tree.flatten(given)
    slopes = [np.empty_like(leaf) for leaf in leaves]
    for n, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            moved = leaf.astype(complex)
            moved[index] += 1j * TINY
            changed = structure.unflatten([*leaves[:n], moved, *leaves[n + 1 :]])
            slopes[n][index] = function(changed).imag / TINY
    return structure.unflatten(slopes)


def slope_by_hand(function, given, along, step=1e-3):
    """The derivative along a direction by differences, good to the sixth power of the step."""

    def at(steps):
        return function(jax.tree.map(lambda a, b: a + steps * step * b, given, along))

    pairs = [(3 / 4, at(1), at(-1)), (-3 / 20, at(2), at(-2)), (1 / 60, at(3), at(-3))]
    parts = [jax.tree.map(lambda a, b, c=c: c * (a - b) / step, f, g) for c, f, g in pairs]
    return jax.tree.map(lambda *each: sum(each), *parts)


@pytest.mark.slow
@every_function
@each_way
def test_every_derivative_is_that_of_the_papers_formula(name, reverse):
    def ours(given):
        outputs, last = FUNCTIONS[name][0](**given, reverse=reverse)
        return outputs, tuple(last) if name == "lstm" else last

    def values_and_gradient(given):
        return ours(given), jax.grad(lambda given: weighted(ours(given)))(given)

    def formula(given):
        return by_hand(name, **given, reverse=reverse)

    def gradient(given):
        return gradient_by_hand(lambda given: weighted(formula(given), weights), given)

    given = arguments(name, batch=2, time=2)
    wide = in_float64(given)
    weights = jax.tree.map(sines, formula(wide))
    want = formula(wide), gradient(wide)
    if reverse:
        with jax.enable_x64(True):
            got = jax.jit(values_and_gradient)(wide)
    else:
        along = jax.tree.map(np.cos, wide)
        want = want, tuple(slope_by_hand(each, wide, along) for each in (formula, gradient))
        with jax.enable_x64(True):
            got = jax.jit(partial(jax.jvp, values_and_gradient))((wide,), (along,))
        single = jax.jit(values_and_gradient)(given)
        jax.tree.map(close, single, want[0])
    jax.tree.map(partial(close, tolerance=1e-12), got, want)


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


MASK = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 1]], bool
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reverse"), [*((name, False) for name in FUNCTIONS), ("lstm", True)]
)
def test_a_mask_is_running_each_sequence_without_its_padding(name, reverse):
    """At the end of a sequence or anywhere: a step of padding carries the state over."""
    given = arguments(name)
    given["x"] = np.where(MASK[..., None], given["x"], np.nan).astype("float32")
    function = partial(FUNCTIONS[name][0], reverse=reverse)

    @jax.jit
    def both(given):
        def scalar(given):
            outputs, last = function(**given, mask=MASK)
            return weighted((jnp.where(MASK[..., None], outputs, 0), last)), (outputs, last)

        return jax.grad(scalar, has_aux=True)(given)

    gradient, (outputs, last) = jax.device_get(both(given))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, outputs, last)))
    np.testing.assert_array_equal(gradient["x"][~MASK], 0)
    steps = np.arange(TIME)[:: -1 if reverse else 1]
    for row in range(BATCH):
        real = [t for t in steps if MASK[row, t]]
        alone = in_float64(given, slice(row, row + 1))
        carried = alone["initial"][0] if name == "lstm" else alone["initial"]
        ran, end = by_hand(name, **{**alone, "x": alone["x"][:, real]})
        for got, want in zip(jax.tree.leaves(last), jax.tree.leaves(end), strict=True):
            close(got[row], want[0], 1e-6)
        for t in steps:
            carried = ran[:, real.index(t)] if t in real else carried
            close(outputs[row, t], carried[0], 1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_without_bias_and_first_state_they_are_zero(name):
    given = arguments(name)
    zero = {key: jax.tree.map(np.zeros_like, value) for key, value in in_float64(given).items()}
    weights = {key: given[key] for key in ("x", "kernel", "recurrent_kernel")}
    want, _ = by_hand(name, **{**zero, **in_float64(weights)})
    close(jax.jit(FUNCTIONS[name][0])(**weights)[0], want, 1e-6)


@pytest.mark.slow
def test_every_activation_has_its_own_derivative():
    given = arguments("simple_rnn", time=2)

    def by_steps(given, activation):
        hidden = given["initial"]
        for t in range(2):
            z = given["x"][:, t] @ given["kernel"] + hidden @ given["recurrent_kernel"]
            hidden = activation(z + given["bias"].reshape(1, -1))
        return weighted(hidden)

    def ours(given, activation):
        return weighted(simple_rnn(**given, activation=activation)[1])

    @jax.jit
    def gradients(given):
        return [
            [jax.grad(partial(one, activation=each))(given) for one in (ours, by_steps)]
            for each in (jax.nn.relu, jax.nn.gelu)
        ]

    for got, want in gradients(given):
        jax.tree.map(close, got, want)


def test_vmap_over_parameters_is_one_call_each():
    given = arguments("simple_rnn", time=2)
    kernels = np.stack([given["kernel"], -np.asarray(given["kernel"])])

    def gradient(kernel):
        return jax.grad(lambda k: weighted(simple_rnn(**{**given, "kernel": k})))(kernel)

    got, want = jax.jit(lambda each: (jax.vmap(gradient)(each), [gradient(k) for k in each]))(
        kernels
    )
    close(got, np.stack(want))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((3, 4), "float32")}, r"\(batch, time, channels\).*float32 \(3, 4\)"),
        ({"x": np.zeros((3, 0, 4), "float32")}, "at least one step"),
        ({"x": np.zeros((3, 6, 4), np.int32)}, "int32.*embed tokens first"),
        ({"kernel": np.zeros((5, 20))}, r"kernel \(channels, 4 features\).*\(5, 20\)"),
        ({"recurrent_kernel": np.zeros((5, 15))}, r"recurrent_kernel.*\(5, 15\)"),
        ({"bias": np.zeros(5)}, r"bias \(20,\), got \(5,\)"),
        ({"initial": LSTMState(np.zeros((1, 5)), np.zeros((3, 5)))}, r"\(3, 5\), got \(1, 5\)"),
        (
            {"mask": np.ones((3, 6), "float32")},
            r"bool \(batch, time\) \(3, 6\).*float32.*sequence_mask",
        ),
        ({"mask": np.ones((6, 3), bool)}, r"got bool \(6, 3\)"),
    ],
)
def test_errors_say_what_was_expected(change, words):
    with pytest.raises(InputError, match=words):
        lstm(**{**arguments("lstm", batch=3), **change})


def test_a_recurrent_bias_needs_reset_after():
    given = arguments("gru")
    with pytest.raises(InputError, match="reset_after=True"):
        jax.eval_shape(partial(gru, reset_after=False), **given)
    with pytest.raises(InputError, match=r"recurrent_bias \(5,\), got \(15,\)"):
        gru(**{**given, "recurrent_bias": given["bias"]})
