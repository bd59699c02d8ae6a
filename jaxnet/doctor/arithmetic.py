"""Whether this machine computes what NumPy does: reproducers of published miscompilations.

Each is a few lines that gave wrong numbers, without an error, under some release of JAX or XLA.
They are tried with what is installed, on the device that would train; on a processor that takes
about a second, compiling included. Old faults are among them: what broke once breaks again, and
what broke on one kind of device breaks on another.

To add one, add a record: what JAX computes, and the same in float64 by NumPy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.doctor.answers import Arithmetic, Wrong

PyTree = Any

TOLERANCE = 1e-4
"""The largest difference that counts as rounding, relative to the expected value or to 1."""


@dataclass(frozen=True)
class Reproducer:
    """A published miscompilation, as small as it gets.

    Attributes:
        issue: where it was published: `OWNER/REPOSITORY#NUMBER`.
        what: what it computes, in words.
        inputs: makes the arguments, NumPy arrays.
        computed: what JAX computes of them.
        expected: the same by NumPy, of the arguments with floats in float64.
        program: makes a program of `computed`.
        rare: whether it takes a pattern that no network or loop of jaxnet has.
        right_since: the first release of jaxlib that gets it right on processors, where earlier
            ones that may be installed do not; `"?"` for none so far.
    """

    issue: str
    what: str
    inputs: Callable[[], tuple[PyTree, ...]]
    computed: Callable[..., PyTree]
    expected: Callable[..., PyTree]
    program: Callable[[Callable[..., PyTree]], Callable[..., PyTree]] = jax.jit
    rare: bool = False
    right_since: str | None = None

    def error(self) -> float:
        """The largest difference, relative to the expected value or to 1; infinite for a NaN."""
        inputs = self.inputs()
        with jax.default_matmul_precision("highest"):
            got = self.program(self.computed)(*jax.tree.map(jnp.asarray, inputs))
        wanted = self.expected(*jax.tree.map(_exact, inputs))
        pairs = zip(jax.tree.leaves(jax.device_get(got)), jax.tree.leaves(wanted), strict=True)
        return max(_distance(_exact(one), _exact(other)) for one, other in pairs)


def _exact(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    apart = np.abs(got - wanted) / np.maximum(1.0, np.abs(wanted))
    return float(np.where(np.isnan(apart), np.inf, apart).max())


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _unit(length: int) -> np.ndarray:
    return np.eye(1, length, dtype=np.float32)[0]


def _numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


def _shifted(x: Any, by: int) -> np.ndarray:
    return np.concatenate([x[:by], x[:-by]])


def _moved_down(x: jax.Array) -> jax.Array:
    y = x + 1
    return lax.dynamic_update_slice(y, y[:3], (1, 0, 0)).reshape(1, 4, 1)


def _powers(x: jax.Array) -> jax.Array:
    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, None]:
        value, go_on = carry
        grown = lax.cond(go_on, lambda v: (v * x, True), lambda v: (v, False), value)
        return grown, None

    return lax.scan(step, (jnp.ones_like(x), jnp.array(True)), length=4)[0][0]


def _weighted(x: jax.Array, ys: jax.Array, w: jax.Array) -> jax.Array:
    def one(y: jax.Array) -> jax.Array:
        apart = y - x
        return apart @ w + (apart @ jnp.zeros((3, 3), x.dtype)) @ apart

    return jnp.mean(jax.vmap(one)(ys))


REPRODUCERS: tuple[Reproducer, ...] = (
    Reproducer(
        issue="jax-ml/jax#39103",
        what="a matrix-vector product under vmap, squared and summed, over 32,769 rows",
        inputs=lambda: (np.eye(3, dtype=np.float32), np.outer(_numbers(32_769), _unit(3))),
        computed=lambda m, x: jax.vmap(lambda row: jnp.sum(jnp.square(m @ row)))(x),
        expected=lambda m, x: np.sum(np.square(x @ m.T), axis=1),
    ),
    Reproducer(
        issue="openxla/xla#49176",
        what="a dynamic_update_slice of a shifted slice of the same array, then a reshape",
        inputs=lambda: (_numbers(4, 1, 1),),
        computed=_moved_down,
        expected=lambda x: _shifted(x + 1, 1).reshape(1, 4, 1),
        rare=True,
        right_since="?",
    ),
    Reproducer(
        issue="jax-ml/jax#7461",
        what="an update in place by a shifted slice of the same array",
        inputs=lambda: (_normal(8),),
        computed=lambda x: x.at[1:].set(1 + x[:-1]),
        expected=lambda x: np.append(x[:1], 1 + x[:-1]),
    ),
    Reproducer(
        issue="jax-ml/jax#10129",
        what="an update in place by a row that is rolled",
        inputs=lambda: (_normal(2, 100),),
        computed=lambda x: x.at[0].set(jnp.roll(x[0], 5)),
        expected=lambda x: np.stack([np.roll(x[0], 5), x[1]]),
    ),
    Reproducer(
        issue="openxla/xla#49121",
        what="a dynamic_slice beyond the end of a rolled array",
        inputs=lambda: (_numbers(9), np.int32(4), np.int32(12)),
        computed=lambda x, shift, start: lax.dynamic_slice(jnp.roll(x, shift), [start], [4]),
        expected=lambda x, shift, start: np.roll(x, shift)[-4:],
        rare=True,
        right_since="0.12.0",
    ),
    Reproducer(
        issue="openxla/xla#49120",
        what="a dynamic_update_slice beyond the end",
        inputs=lambda: (_numbers(3, 1, 33),),
        computed=lambda x: lax.dynamic_update_slice(x, 3 * x[:1, :, :8] - 1, (1, 1, 31)),
        expected=lambda x: np.concatenate(
            [x[:1], np.append(x[1:2, :, :25], 3 * x[:1, :, :8] - 1, axis=2), x[2:]]
        ),
    ),
    Reproducer(
        issue="tensorflow/tensorflow#123067",
        what="a while_loop of one step, which counts up by more than its limit",
        inputs=lambda: (np.float32(3),),
        computed=lambda x: lax.while_loop(
            lambda carry: carry[0] < 1,
            lambda carry: (carry[0] + 2, carry[1] + x),
            (jnp.int32(0), jnp.zeros_like(x)),
        ),
        expected=lambda x: (2, x),
        rare=True,
        right_since="0.12.0",
    ),
    Reproducer(
        issue="openxla/xla#44705",
        what="atan2 of 0 and 0 that come of an xor",
        inputs=lambda: (_numbers(5),),
        computed=lambda x: lax.atan2(*[((x != 0) ^ (x != 0)).astype(jnp.float32)] * 2),
        expected=lambda x: np.zeros(5),
        rare=True,
        right_since="0.11.1",
    ),
    Reproducer(
        issue="jax-ml/jax#39625",
        what="outputs before a donated argument that is handed through",
        inputs=lambda: (tuple(_ones(3)), np.float32(0)),
        computed=lambda state, x: ((x - x,) * 3, state),
        expected=lambda state, x: ((0.0,) * 3, state),
        program=partial(jax.jit, donate_argnums=0),
    ),
    Reproducer(
        issue="jax-ml/jax#39336",
        what="a matrix product under vmap, plus a bias, times a factor",
        inputs=lambda: (np.float32(0.1), _normal(32, 15), 100 * _normal(32), _normal(100, 15)),
        computed=lambda f, a, bias, b: jax.vmap(lambda row: f * (a @ row + bias))(b),
        expected=lambda f, a, bias, b: f * (b @ a.T + bias),
    ),
    Reproducer(
        issue="openxla/xla#13054",
        what="the gradient of a mean over 100,000 rows of a product, plus one with zeros",
        inputs=lambda: (_ones(3), _ones(10**5, 3), _normal(3)),
        computed=jax.grad(_weighted),
        expected=lambda x, ys, w: -w,
    ),
    Reproducer(
        issue="jax-ml/jax#5900",
        what="the gradient through a cond within a scan",
        inputs=lambda: (np.float32(3),),
        computed=jax.grad(_powers),
        expected=lambda x: 4 * x**3,
    ),
    Reproducer(
        issue="jax-ml/jax#7229",
        what="a scalar added to an image of odd size",
        inputs=lambda: (_normal(131, 111, 3), np.float32(0.3)),
        computed=lambda x, delta: x + delta,
        expected=lambda x, delta: x + delta,
    ),
    Reproducer(
        issue="jax-ml/jax#40633",
        what="single operations, one kernel each",
        inputs=lambda: (np.float32(512), _ones(4)),
        computed=lambda x, ones: (jnp.sqrt(x), ones + 1),
        expected=lambda x, ones: (np.sqrt(x), ones + 1),
        program=lambda function: function,
    ),
)


def tried() -> Arithmetic:
    """Try all of them, on the device that computes by default."""
    begun = time.perf_counter()
    wrong = tuple(_wrong())
    return Arithmetic(len(REPRODUCERS), wrong, time.perf_counter() - begun)


def _wrong() -> Iterator[Wrong]:
    for each in REPRODUCERS:
        error = each.error()
        if error > TOLERANCE:
            known = error if np.isfinite(error) else None
            yield Wrong(each.issue, each.what, known, each.rare, each.right_since)
