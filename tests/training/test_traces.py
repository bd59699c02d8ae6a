"""What a traced function computes is told apart, and how it is written isn't."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.training.traces import Traced, outputs, within

X = jax.ShapeDtypeStruct((3,), np.float32)
TABLE = np.arange(3, dtype=np.float32)


def of(function, *arguments) -> dict[str, str]:
    named = {f"a{i}": argument for i, argument in enumerate(arguments or (X, X))}
    return outputs(Traced(jax.jit(function).trace(*named.values()), named))


SAME = {
    "operations in another order, and unused ones": (
        lambda x, y: {"z": jnp.sin(x) + jnp.cos(y)},
        lambda x, y: [jnp.cos(y), jnp.tan(x), {"z": jnp.sin(x) + jnp.cos(y)}][2],
    ),
    "a function compiled by itself": (
        lambda x, y: jnp.sin(x) * y,
        lambda x, y: jax.jit(lambda b, a: jnp.sin(a) * b)(y, x),
    ),
    "rematerialised": (
        lambda x, y: jnp.sin(x) * y,
        lambda x, y: jax.checkpoint(lambda a, b: jnp.sin(a) * b)(x, y),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_how_it_is_written_does_not_count(name):
    one, other = SAME[name]
    assert of(one) == of(other)


def _sum(step):
    """A loop with a carry that its result needs, one that it doesn't, and outputs."""

    def function(x, y):
        def body(carry, item):
            total, metric = carry
            return (step(total, item), metric + item.sum()), item * 2

        (total, _), stacked = jax.lax.scan(body, (x, jnp.float32(0)), y)
        return {"total": total, "stacked": stacked}

    return of(function, X, jax.ShapeDtypeStruct((4, 3), np.float32))


def test_of_a_loop_only_what_a_result_needs_counts():
    one, other = _sum(lambda total, item: total + item), _sum(lambda total, item: total - item)
    assert one["total"] != other["total"] and one["stacked"] == other["stacked"]


def test_a_metric_within_a_loop_does_not_count():
    def function(measure):
        def run(x, y):
            def body(carry, item):
                total, metric = carry
                return (total * item, metric + measure(total)), None

            (total, metric), _ = jax.lax.scan(body, (x, jnp.float32(0)), y)
            return {"total": total, "metric": metric}

        return of(run, X, jax.ShapeDtypeStruct((4, 3), np.float32))

    one, other = function(jnp.sum), function(jnp.max)
    assert one["total"] == other["total"] and one["metric"] != other["metric"]


def _one(x):
    return x


def _other(x):
    return -x


DIFFERENT = {
    "operation": (lambda x, y: x + y, lambda x, y: x - y),
    "order of arguments": (lambda x, y: x - y, lambda x, y: y - x),
    "number": (lambda x, y: 0.1 * x, lambda x, y: 0.2 * x),
    "sign of zero": (lambda x, y: x / 0.0, lambda x, y: x / -0.0),
    "array": (lambda x, y: x * TABLE, lambda x, y: x * TABLE[::-1]),
    "option": (lambda x, y: jnp.cumsum(x), lambda x, y: jax.lax.cumsum(x, reverse=True)),
    "branch": (
        lambda x, y: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, y),
        lambda x, y: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.tan, y),
    ),
    "while": (
        lambda x, y: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, y),
        lambda x, y: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 2, y),
    ),
    "key": (
        lambda x, y: x * jax.random.normal(jax.random.key(0), (3,)),
        lambda x, y: x * jax.random.normal(jax.random.key(1), (3,)),
    ),
    "precision": (
        lambda x, y: jnp.dot(x, y),
        lambda x, y: jnp.dot(x, y, precision="highest"),
    ),
    "activation": (lambda x, y: jax.nn.relu(x), lambda x, y: jax.nn.gelu(x)),
    "callback": (
        lambda x, y: jax.pure_callback(_one, X, x),
        lambda x, y: jax.pure_callback(_other, X, x),
    ),
    "carry of a loop": (
        lambda x, y: jax.lax.fori_loop(0, 3, lambda i, c: (c[1], c[0] + 1), (x, y))[0],
        lambda x, y: jax.lax.fori_loop(0, 3, lambda i, c: (c[1], c[0] + 1), (y, x))[0],
    ),
    "length of a loop": (
        lambda x, y: jax.lax.fori_loop(0, 3, lambda i, c: c * 2, x),
        lambda x, y: jax.lax.fori_loop(0, 4, lambda i, c: c * 2, x),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_it_computes_counts(name):
    one, other = map(of, DIFFERENT[name])
    assert one != other
    assert of(DIFFERENT[name][0]) == one


def test_inputs_go_by_their_paths():
    one = of(lambda tree: tree["a"] * 2, {"a": X})
    assert one == of(lambda tree: tree["a"] * 2, {"a": X, "b": X})
    assert one != of(lambda tree: tree["b"] * 2, {"a": X, "b": X})


def test_a_scope_counts_by_itself():
    def scoped(before, rate):
        def function(x, y):
            gradient = before(x, y)
            with jax.named_scope("update"):
                return x - rate * gradient

        arguments = {"x": X, "y": X}
        return within(Traced(jax.jit(function).trace(X, X), arguments), "update")

    one = scoped(lambda x, y: jnp.sin(x) * y, 0.1)
    assert one == scoped(lambda x, y: jnp.tanh(x) + y + 1, 0.1)
    assert one != scoped(lambda x, y: jnp.sin(x) * y, 0.2)
    assert within(Traced(jax.jit(jnp.sin).trace(X), {"x": X}), "update") is None
