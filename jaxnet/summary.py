"""What a network consists of: its layers, parameters and arithmetic, without running it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.switch import train_option

Path = tuple[str, ...]

_WIDTHS = (36, 20, 18, 13, 9)
"""Of the columns of the printed table: 100 with the spaces between them."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: a module that has parameters or arithmetic of its own, or no module within it."""

    path: str
    """Where its parameters lie: `"Dense_0"`."""
    layer: str
    """The name of its class."""
    output_shape: Any
    """The shape of what it first returns; for several arrays the same structure of shapes.

    Of a layer under `nn.scan` or `nn.vmap` it is the shape that one turn or one copy returns."""
    parameters: int
    """Its own trainable scalars, without those of the modules within it."""
    flops: int
    """Its own floating-point operations in one forward pass over the whole input."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows in the order of the calls; `str()` gives a table 100 columns wide."""

    model: str
    """The class of the network."""
    inputs: tuple[str, ...]
    """The type and shape of each input."""
    rows: tuple[Row, ...]
    parameter_bytes: int
    """The memory of the parameters, in bytes."""

    @property
    def parameters(self) -> int:
        """The number of trainable scalars."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """The floating-point operations of one forward pass over the whole input."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        """The table."""
        rule = "-" * (sum(_WIDTHS) + len(_WIDTHS) - 1)
        shapes = [_shape_text(row.output_shape) for row in self.rows]
        body = [
            _line(
                row.path or self.model, row.layer, shape, f"{row.parameters:,}", _short(row.flops)
            )
            for row, shape in zip(self.rows, shapes, strict=True)
        ]
        total = (
            f"{self.parameters:,} parameters ({_short(self.parameter_bytes, 'B')}), "
            f"{_short(self.flops, 'FLOP')} forward"
        )
        head = _line("path", "layer", "output", "parameters", "FLOPs")
        title = f"{self.model}({', '.join(self.inputs)})"
        return "\n".join([title, rule, head, rule, *body, rule, total])


def summary(model: nn.Module, *inputs: Any, **call: Any) -> Summary:
    """Lists the layers of a Linen module, from shapes alone: nothing is allocated or computed.

    FLOPs are those of matrix products and convolutions, two for each multiplication with its
    addition, as papers count them: what is element-wise (biases, activations, normalisation,
    pooling) is left out. They are those of the whole input, so a batch of 1 gives the FLOPs of an
    example. Both branches of a `lax.cond` are priced as the dearer one, and a `lax.while_loop`,
    whose length nobody knows, as one turn.

    Args:
        model: the module; it is called with `train=False` if it takes that.
        inputs: what it is called with: shapes (batch axis included) for float32 arrays, and
            arrays or `jax.ShapeDtypeStruct` for any other type.
        call: further keyword arguments of the call.

    Raises:
        InputError: no input, or one that is neither a shape nor an array.

    Example:
        >>> network = summary(nn.Dense(10), (1, 64))
        >>> network.parameters, network.flops
        (650, 1280)
        >>> print(str(network).splitlines()[-1])
        650 parameters (2.60 KB), 1.28 KFLOP forward
    """
    arrays = tuple(abstract(value) for value in inputs)
    if not arrays:
        raise InputError("summary needs the shape of an input, with its batch axis: (1, 784)")
    call = {**train_option(model, False), **call}

    def init(*args: Any) -> Any:
        return model.init(jax.random.key(0), *args, **call)

    def forward(variables: Any, *args: Any) -> Any:
        # Some layers draw random numbers even when they are not trained.
        rngs = {"params": jax.random.key(0)}
        return model.apply(variables, *args, rngs=rngs, mutable=True, **call)

    variables = jax.eval_shape(init, *arrays)
    calls: dict[Path, _Call] = {}
    with nn.intercept_methods(lambda *args: _recorded(calls, *args)):
        traced = jax.make_jaxpr(forward)(variables, *arrays)
    params = variables.get("params", {})
    return Summary(
        model=type(model).__name__,
        inputs=tuple(f"{array.dtype}[{','.join(map(str, array.shape))}]" for array in arrays),
        rows=_rows(calls, params, traced.jaxpr),
        parameter_bytes=trees.size_bytes(params),
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    """A module that was called: its class, and what each of its methods first returned."""

    layer: str
    outputs: dict[str, Any]

    @property
    def output_shape(self) -> Any:
        return self.outputs.get("__call__", next(iter(self.outputs.values()), ()))


def _recorded(
    calls: dict[Path, _Call],
    method: Any,
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls `method` and notes in `calls` which module returned what."""
    module, name = context.module, context.method_name
    if name == "setup":
        return method(*args, **kwargs)
    call = calls.setdefault(module.path, _Call(type(module).__name__, {}))
    outputs = method(*args, **kwargs)
    # A helper may return what has no shape, such as another module.
    if all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(outputs)):
        call.outputs.setdefault(name, jax.tree.map(jnp.shape, outputs))
    return outputs


def _rows(calls: Mapping[Path, _Call], params: Any, jaxpr: Jaxpr) -> tuple[Row, ...]:
    parameters, flops = dict.fromkeys(calls, 0), dict.fromkeys(calls, 0)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        parameters[_owner([key.key for key in keys], calls)] += math.prod(leaf.shape)
    for names, operations in _operations(jaxpr):
        flops[_owner(names, calls)] += operations
    containers = {path[:depth] for path in calls for depth in range(len(path))}
    return tuple(
        Row("/".join(path), call.layer, call.output_shape, parameters[path], flops[path])
        for path, call in calls.items()
        if parameters[path] or flops[path] or path not in containers
    )


def _owner(names: Sequence[str], calls: Mapping[Path, _Call]) -> Path:
    """The innermost module on the way `names`, which may hold other scopes in between."""
    path: Path = ()
    for name in names:
        if (*path, name) in calls:
            path = (*path, name)
    return path


def _operations(
    jaxpr: Jaxpr, names: tuple[str, ...] = (), times: int = 1
) -> Iterator[tuple[tuple[str, ...], int]]:
    """The FLOPs of each product and convolution, with the scopes it was written in."""
    for equation in jaxpr.eqns:
        primitive, params = equation.primitive.name, equation.params
        scopes = (*names, *scopes_of(equation))
        if primitive in _FLOPS:
            yield scopes, times * _FLOPS[primitive](equation)
        elif primitive == "cond":
            branches = [list(_operations(b.jaxpr, scopes, times)) for b in params["branches"]]
            yield from max(branches, key=lambda found: sum(flops for _, flops in found))
        else:
            turns = params["length"] if primitive == "scan" else 1
            for inner in jaxprs_in_params(params):
                yield from _operations(inner, scopes, times * turns)


def scopes_of(equation: JaxprEqn) -> list[str]:
    """The names of the modules that an operation was written in, from the outside to the inside.

    `vmap(M)/cell.step/Dense_0` is the modules M, cell (in its method step) and Dense_0.
    """
    text = re.sub(r"\w+\(|\)", "", str(equation.source_info.name_stack))
    return [scope.split(".")[0] for scope in text.split("/")]


def _product_flops(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution_flops(equation: JaxprEqn) -> int:
    kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    # A transposed convolution is written as one over an input widened by zeros.
    widening = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(out) * math.prod(kernel) // features // widening


_FLOPS = {"dot_general": _product_flops, "conv_general_dilated": _convolution_flops}


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def abstract(value: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an input that is given as a shape or an array.

    Raises:
        InputError: it is neither.

    Example:
        >>> abstract((1, 784))
        ShapeDtypeStruct(shape=(1, 784), dtype=float32)
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        # As JAX would take it: float64 only where that is switched on.
        return jax.ShapeDtypeStruct(value.shape, jax.dtypes.canonicalize_dtype(value.dtype))
    if isinstance(value, tuple | list) and _is_shape(tuple(value)):
        return jax.ShapeDtypeStruct(tuple(value), jnp.float32)
    raise InputError(f"an input is a shape, an array or a jax.ShapeDtypeStruct; got {value!r}")


def _shape_text(shape: Any) -> str:
    shapes = jax.tree.leaves(shape, is_leaf=_is_shape)
    return ", ".join(f"({', '.join(map(str, sizes))})" for sizes in shapes)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def _line(path: str, layer: str, *cells: str) -> str:
    left = [_fit(path, _WIDTHS[0]).ljust(_WIDTHS[0]), _fit(layer, _WIDTHS[1]).ljust(_WIDTHS[1])]
    right = [_fit(cell, width).rjust(width) for cell, width in zip(cells, _WIDTHS[2:], strict=True)]
    return " ".join(left + right)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _short(number: float, unit: str = "") -> str:
    gap = " " if unit else ""
    for prefix in ("", "K", "M", "G", "T"):
        if number < 1000:
            digits = f"{number:.2f}" if prefix else f"{number}"
            return f"{digits}{gap}{prefix}{unit}"
        number /= 1000
    return f"{number:.2f}{gap}P{unit}"
