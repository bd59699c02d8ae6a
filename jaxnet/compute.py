"""Estimates of the compute and memory of training, before it starts.

A matrix product costs two operations per multiply-add, and a training step three forward passes:
one forward, and two for the gradients with respect to inputs and weights. So a network that uses
each of its N parameters once per token costs `6 N` per token (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.extend.core import Jaxpr, JaxprEqn, Var, jaxprs_in_params

from jaxnet import trees
from jaxnet.errors import UsageError
from jaxnet.summary import abstract, scopes_of, summary
from jaxnet.switch import train_option

PF_DAY = 1e15 * 24 * 60 * 60
"""The number of operations in a petaflop/s-day."""
FORWARD_PASSES = 3
"""The cost of a training step in forward passes."""


@dataclass(frozen=True)
class Compute:
    """The compute of a training run.

    Attributes:
        flops: floating-point operations.
    """

    flops: float

    @property
    def pf_days(self) -> float:
        """The same in petaflop/s-days."""
        return self.flops / PF_DAY

    def seconds(self, flops_per_second: float, utilization: float = 0.4) -> float:
        """The training time in seconds.

        Args:
            flops_per_second: the peak of all devices together, from their data sheet.
            utilization: the fraction of the peak that training reaches; 0.3 to 0.5 is usual for
                large models.

        Raises:
            UsageError: `flops_per_second` isn't positive, or `utilization` isn't in (0, 1].
        """
        if not (flops_per_second > 0 and 0 < utilization <= 1):
            raise UsageError(
                "expected flops_per_second above 0 and utilization in (0, 1], got "
                f"{flops_per_second} and {utilization}"
            )
        return self.flops / (flops_per_second * utilization)


def training_compute(parameters: float, tokens: float, active: float = 1.0) -> Compute:
    """The compute to train a language model: `6 N D` (Brown et al. 2020, appendix D).

    As there, attention's products of activations are left out: they are small for contexts much
    shorter than 12 times the width. `network_compute` includes them.

    Args:
        parameters: N, the total number of parameters.
        tokens: D, the number of training tokens, repeats included.
        active: the fraction of the parameters used per token: 1 for encoders and decoders, 0.5 for
            encoder-decoders, whose tokens pass through one of the two, and less for mixtures of
            experts.

    Raises:
        UsageError: a number isn't positive, or `active` isn't in (0, 1].

    Example:
        >>> gpt3 = training_compute(parameters=174.6e9, tokens=300e9)
        >>> f"{gpt3.flops:.2e} FLOP, {gpt3.pf_days:.2e} PF-days"
        '3.14e+23 FLOP, 3.64e+03 PF-days'
    """
    if not (parameters > 0 and tokens > 0 and 0 < active <= 1):
        raise UsageError(
            "training_compute: expected parameters and tokens above 0 and active in (0, 1], got "
            f"{parameters=}, {tokens=}, {active=}"
        )
    return Compute(FORWARD_PASSES * 2 * active * parameters * tokens)


def network_compute(model: nn.Module, *inputs: Any, batches: float, **call: Any) -> Compute:
    """The compute to train any network: three forward passes per batch.

    Args:
        model: the module.
        inputs: its inputs for a batch, in the form of `summary`.
        batches: the number of training batches.
        call: further keyword arguments of the call.

    Raises:
        InputError: no input, or one that is neither a shape nor an array.

    Example:
        >>> network_compute(nn.Dense(10), (32, 784), batches=100).flops == 3 * 2 * 7840 * 32 * 100
        True
    """
    return Compute(float(FORWARD_PASSES * summary(model, *inputs, **call).flops * batches))


@dataclass(frozen=True)
class Memory:
    """The memory of a training step, in bytes.

    Attributes:
        parameters: the parameters.
        gradients: their gradients, of the same size.
        optimizer: the optimizer's state.
        collections: the network's other variables, such as running statistics.
        activations: the activations stored for the backward pass, before the compiler's fusion,
            which may store less. They grow with the batch size.
    """

    parameters: int
    gradients: int
    optimizer: int
    collections: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all."""
        return (
            self.parameters + self.gradients + self.optimizer + self.collections + self.activations
        )


def training_memory(
    model: nn.Module, *inputs: Any, optimizer: optax.GradientTransformation, **call: Any
) -> Memory:
    """The memory of training a network on one device, from shapes alone: nothing is allocated.

    Args:
        model: the module; it is called in training mode.
        inputs: its inputs for a batch, in the form of `summary`.
        optimizer: the optimizer.
        call: further keyword arguments of the call.

    Raises:
        InputError: an input is neither a shape nor an array.

    Example:
        >>> memory = training_memory(nn.Dense(10), (32, 784), optimizer=optax.adam(1e-3))
        >>> memory.parameters, memory.optimizer, memory.activations
        (31400, 62804, 0)
    """
    variables, kept = training_shapes(model, *inputs, **call)
    params = variables.pop("params", {})
    return Memory(
        parameters=trees.size_bytes(params),
        gradients=trees.size_bytes(params),
        optimizer=trees.size_bytes(jax.eval_shape(optimizer.init, params)),
        collections=trees.size_bytes(variables),
        activations=trees.size_bytes([activation.array for activation in kept]),
    )


@dataclass(frozen=True)
class Activation:
    """An array stored in the forward pass for the backward pass.

    Attributes:
        scopes: the names of the modules that compute it, from the outermost to the innermost.
        array: its shape and dtype.
    """

    scopes: tuple[str, ...]
    array: jax.ShapeDtypeStruct


def training_shapes(
    model: nn.Module, *inputs: Any, **call: Any
) -> tuple[dict[str, Any], list[Activation]]:
    """The shapes of a network's variables and of the activations that a training step stores.

    Arguments and errors are those of `training_memory`; as there, compiler optimisations are
    ignored.

    Returns:
        The variables by collection, and the activations.

    Example:
        >>> variables, kept = training_shapes(nn.Sequential([nn.Dense(10), nn.relu]), (32, 784))
        >>> sorted(variables), [activation.array.shape for activation in kept]
        (['params'], [(32, 10), (32, 10)])
    """
    arrays = [abstract(value) for value in inputs]

    def init(*arrays: Any) -> Any:
        return model.init(jax.random.key(0), *arrays, **{**train_option(model, False), **call})

    variables = dict(jax.eval_shape(init, *arrays))
    others = {name: value for name, value in variables.items() if name != "params"}

    def forward(params: Any, others: Any, *arrays: Any) -> Any:
        # For any other stream Flax uses that of "params".
        rngs = {"dropout": jax.random.key(0), "params": jax.random.key(1)}
        outputs, _ = model.apply(
            {"params": params, **others},
            *arrays,
            rngs=rngs,
            mutable=list(others),
            **{**train_option(model, True), **call},
        )
        return outputs

    return variables, _kept(forward, variables.get("params", {}), others, *arrays)


def _kept(forward: Any, params: Any, *others: Any) -> list[Activation]:
    """The residuals of the VJP of `forward` with respect to `params`, without its arguments."""

    def residuals(params: Any, *others: Any) -> Any:
        _, pullback = jax.vjp(lambda p: forward(p, *others), params)
        return jax.tree.leaves(pullback)

    jaxpr = jax.make_jaxpr(residuals)(params, *others).jaxpr
    given = {*jaxpr.invars, *jaxpr.constvars}
    kept = {v for v in jaxpr.outvars if isinstance(v, Var) and v not in given}
    made: list[tuple[JaxprEqn, Any]] = [
        (equation, variable.aval)
        for equation in jaxpr.eqns
        for variable in equation.outvars
        if variable in kept
    ]
    return [
        Activation(tuple(scopes_of(equation)), jax.ShapeDtypeStruct(array.shape, array.dtype))
        for equation, array in made
    ]


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The peak memory of a program's intermediate values, in bytes.

    Operations are counted without fusion, so the compiled program usually needs less. Arguments and
    constants aren't counted.

    Args:
        jaxpr: the program, from `jax.make_jaxpr`.

    Example:
        >>> program = jax.make_jaxpr(lambda x: (2 * x).sum())(jax.numpy.zeros(1000))
        >>> peak_bytes(program.jaxpr)  # 2 * x, and the sum
        4004
    """
    last = {variable: len(jaxpr.eqns) for variable in jaxpr.outvars if isinstance(variable, Var)}
    for index, equation in enumerate(jaxpr.eqns):
        for variable in equation.invars:
            if isinstance(variable, Var):
                last[variable] = max(index, last.get(variable, index))
    ending: dict[int, int] = {}
    held = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        within = max(map(peak_bytes, jaxprs_in_params(equation.params)), default=0)
        if equation.primitive.name == "shard_map":  # it is written for one device of the mesh
            within *= equation.params["mesh"].size
        peak = max(peak, held + max(within, sum(map(_size, equation.outvars))))
        for variable in equation.outvars:
            if variable in last:
                held += _size(variable)
                ending[last[variable]] = ending.get(last[variable], 0) + _size(variable)
        held -= ending.pop(index, 0)
    return peak


def _size(variable: Var) -> int:
    array: Any = variable.aval
    return array.size * array.dtype.itemsize if hasattr(array, "dtype") else 0
