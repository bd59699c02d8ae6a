"""Digests of traced functions: of the computation, constants included.

Each value of a traced function gets a digest of the operation that computed it, its parameters and
the digests of its operands (value numbering); inputs are identified by their paths. So the digest
of an output depends on everything that it was computed from and on nothing else: not on the order
of operations, unused results, names, source lines or memory addresses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxnet import trees
from jaxnet.digests import array_digest, digest
from jaxnet.summary import scopes_of

PyTree = Any


class Traced(NamedTuple):
    """A traced function.

    Attributes:
        stage: the result of `trace(*arguments)` of the jitted function.
        arguments: those arguments, or their shapes, in the same order, by name.
    """

    stage: jax.stages.Traced
    arguments: Mapping[str, PyTree]


# Calls of a function with exactly the operands and results of the operation.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"}
    | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def outputs(traced: Traced) -> dict[str, str]:
    """The digest of each output of a function, by its path.

    Example:
        >>> from jaxnet.training.programs import compiled
        >>> shapes = {"x": jax.ShapeDtypeStruct((2,), np.float32)}
        >>> def step(rate):
        ...     stage = compiled(lambda x: {"y": x - rate * x}).trace(*shapes.values())
        ...     return outputs(Traced(stage, shapes))
        >>> step(0.1) == step(0.1), step(0.1) == step(0.2)
        (True, False)
    """
    results = _results(traced.stage.jaxpr, _inputs(traced.arguments))
    return dict(zip(trees.named(traced.stage.out_info), results, strict=True))


def within(traced: Traced, scope: str) -> str | None:
    """The digest of the computation within `jax.named_scope(scope)`; None without such a scope.

    Values from outside of the scope are numbered in the order of their use, so that the digest
    doesn't depend on them.

    Args:
        traced: the function.
        scope: the name of the scope, which must not be nested in another one.
    """
    jaxpr = _open(traced.stage.jaxpr)
    known = dict(zip(jaxpr.invars, _inputs(traced.arguments), strict=True))
    made: dict[Any, str] = {}
    given: dict[Any, str] = {}

    def read(atom: Any) -> str:
        if isinstance(atom, Literal):
            return _constant(atom.val)
        if digested := made.get(atom) or known.get(atom):
            return digested
        return given.setdefault(atom, f"given {len(given)}")

    for eqn in jaxpr.eqns:
        if scope in str(eqn.source_info.name_stack) and scopes_of(eqn)[0] == scope:
            made |= zip(eqn.outvars, _outcomes(eqn, list(map(read, eqn.invars))), strict=True)
    return _mixed(*made.values()) if made else None


def _inputs(arguments: Mapping[str, PyTree]) -> list[str]:
    return [
        f"{name}/{path} {leaf.dtype.name} {tuple(leaf.shape)}"
        for name, argument in arguments.items()
        for path, leaf in trees.named(argument).items()
    ]


def _results(closed: Any, given: Sequence[str]) -> list[str]:
    """The digests of a function's results, given those of its arguments."""
    jaxpr = _open(closed)
    env: dict[Any, str] = dict(zip(jaxpr.invars, given, strict=True))
    env |= zip(jaxpr.constvars, map(_constant, getattr(closed, "consts", ())), strict=True)

    def read(atom: Any) -> str:
        return _constant(atom.val) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env |= zip(eqn.outvars, _outcomes(eqn, list(map(read, eqn.invars))), strict=True)
    return list(map(read, jaxpr.outvars))


def _outcomes(eqn: JaxprEqn, given: list[str]) -> list[str]:
    """The digests of an operation's results."""
    name = eqn.primitive.name
    if name in _CALLS:
        called = [v for v in eqn.params.values() if isinstance(v, Jaxpr | ClosedJaxpr)]
        if len(called) == 1:
            return _results(called[0], given)
    if name == "scan":
        return _scanned(eqn, given)
    options = (f"{key}={_text(value)}" for key, value in sorted(eqn.params.items()))
    whole = _mixed(name, *options, *given)
    return [f"{whole} {place}" for place in range(len(eqn.outvars))]


def _scanned(eqn: JaxprEqn, given: list[str]) -> list[str]:
    """The digests of a scan's results: each depends on the part of the carry that reaches it."""
    body, (consts, carried) = eqn.params["jaxpr"], _constants_and_carry(eqn.params)
    begins = given[consts : consts + carried]
    carry = [f"carry {place}" for place in range(carried)]
    items = [f"item of {whole}" for whole in given[consts + carried :]]
    once = _results(body, [*given[:consts], *carry, *items])
    needs = [mask >> consts & (1 << carried) - 1 for mask in _dependencies(body)]
    course = f"scan {eqn.params['length']} {eqn.params['reverse']}"

    def outcome(place: int) -> str:
        reached, added = 0, needs[place]
        while added:
            reached |= added
            parts = [part for part in range(carried) if added >> part & 1]
            added = 0
            for part in parts:
                added |= needs[part] & ~reached
        loop = (
            f"{part} {once[part]} {begins[part]}" for part in range(carried) if reached >> part & 1
        )
        start = begins[place] if place < carried else ""
        return _mixed(course, once[place], start, *loop)

    return [outcome(place) for place in range(len(once))]


def _constants_and_carry(scan: Mapping[str, Any]) -> tuple[int, int]:
    """The number of constants of a scan, and of the carry, which follows them."""
    if "num_consts" in scan:
        return scan["num_consts"], scan["num_carry"]
    # From JAX 0.12 on the arguments are trees: constants, the carry, and the scanned inputs.
    constants, carry, _ = scan["ft_in"].unpack()
    return len(constants), len(carry)


def _dependencies(closed: Any) -> list[int]:
    """For each result the arguments that it may depend on, as a bit mask."""
    jaxpr = _open(closed)
    env: dict[Any, int] = dict.fromkeys(jaxpr.constvars, 0)
    env |= {var: 1 << place for place, var in enumerate(jaxpr.invars)}

    def read(atom: Any) -> int:
        return 0 if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        mask = 0
        for atom in eqn.invars:
            mask |= read(atom)
        env |= dict.fromkeys(eqn.outvars, mask)
    return list(map(read, jaxpr.outvars))


def _open(closed: Any) -> Jaxpr:
    return closed.jaxpr if hasattr(closed, "consts") and hasattr(closed, "jaxpr") else closed


def _constant(value: Any) -> str:
    """The digest of a constant, an array or a scalar."""
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.ndim:
        return array_digest(array)
    return f"{_name(array.dtype)} {array.tobytes().hex()}"


_name = cache(lambda dtype: dtype.name)


def _text(option: Any) -> str:
    """A parameter of an operation as text that is the same in every process."""
    if option is None or type(option) in (bool, int, str):
        return str(option)
    if isinstance(option, Jaxpr | ClosedJaxpr):
        count = len(_open(option).invars)
        return " ".join(_results(option, [f"argument {place}" for place in range(count)]))
    if isinstance(option, jax.Array | np.ndarray):
        return _constant(option)
    if isinstance(option, Mapping):
        return str(sorted((str(key), _text(value)) for key, value in option.items()))
    if isinstance(option, set | frozenset):
        return str(sorted(map(_text, option)))
    if isinstance(option, tuple | list):
        return f"({', '.join(map(_text, option))})"
    if callable(option) and hasattr(option, "__qualname__"):
        return option.__qualname__
    text = str(option)
    return _ADDRESS.sub("", text) if "0x" in text else text


def _mixed(*parts: str) -> str:
    return digest("\n".join(parts).encode())
