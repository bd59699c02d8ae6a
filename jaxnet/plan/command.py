"""The command `jaxnet plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jaxnet import cli
from jaxnet.command_line import from_command_line
from jaxnet.config import from_mapping, to_mapping
from jaxnet.errors import UsageError
from jaxnet.files import json_text
from jaxnet.names import lookup
from jaxnet.recipe import Layout

if TYPE_CHECKING:
    import flax.linen as nn
    import jax

    from jaxnet import parallel
    from jaxnet.parallel.plan import Plan
    from jaxnet.plan.program import Program
    from jaxnet.training import Task

ONE_DEVICE = Layout()


@dataclass(frozen=True)
class Config:
    """What training a network would take on many devices: memory, exchanges, time.

    Nothing is trained, and no device is needed. A layout says how the network lies on the devices,
    as in training; several are compared: --layouts data=64 fsdp=64 fsdp=8,tensor=8
    """

    model: str = "gpt2"
    """a file of the zoo, such as gpt2, llama, bert, vit or resnet; where it has several networks
    with the class, bert:BERTTagger; or package.module:Class for your own"""
    size: str | None = None
    """one of the sizes in that file, such as medium"""
    options: dict[str, str] = field(default_factory=dict)
    """arguments of the network, such as num_layers 4 features 256"""
    batch_size: int = 64
    """examples a step, all devices together"""
    length: int | None = None
    """tokens of an example; by default what the network was made for"""
    example: tuple[int, ...] = ()
    """the shape of an example where it is no text, such as 224 224 3"""
    optimizer: str = "adam"
    """its name; its state takes memory"""
    precision: Literal["float32", "bf16"] = "float32"
    """the type in which the network computes"""
    machine: str = "h100"
    """h100, a100, v5e or v5p"""
    layout: Layout = Layout()
    layouts: tuple[str, ...] = ()
    """layouts to compare, such as data=64 fsdp=64 fsdp=8,tensor=8"""
    compile: bool = True
    """compile the step too, on virtual devices, and show what it sends; with several layouts this
    takes seconds for each"""
    json: bool = False
    """print JSON instead of tables"""


@dataclass(frozen=True)
class Case:
    """What came of a layout.

    Attributes:
        sizes: the number of devices along each axis.
        plan: what it takes; None where the layout doesn't fit.
        program: what the compiler makes of it; None where that wasn't asked for, or can't be.
        note: why there is no plan, or no program.
    """

    sizes: dict[str, int]
    plan: Plan | None = None
    program: Program | None = None
    note: str = ""


def plan(config: Config) -> int:
    """Plan each layout, and print.

    Raises:
        UsageError: a name is unknown, or the only layout doesn't fit.
    """
    from jaxnet.parallel.roofline import MACHINES
    from jaxnet.plan import show

    machine = lookup(config.machine, MACHINES, "machine")
    model = network_of(config)
    chosen = [parsed(text, config.layout) for text in config.layouts] or [config.layout]
    cases = _cases(config, model, chosen)
    if len(cases) == 1 and cases[0].plan is None:
        raise UsageError(cases[0].note)
    if config.json:
        print(json_text(show.as_json(to_mapping(config), machine, cases), indent=1))
    else:
        show.tables(show.title(config, model), machine, config.precision, cases)
    return cli.DONE


def parsed(text: str, base: Layout = ONE_DEVICE) -> Layout:
    """The layout that a word of a command line describes; the rest is that of `base`.

    Raises:
        UsageError: it isn't of the form `data=8,tensor=2`.

    Example:
        >>> parsed("data=8,tensor=2").tensor
        2
    """
    pairs = [part.partition("=") for part in text.split(",")]
    sizes = {name: int(size) if size.isdigit() else size for name, _, size in pairs}
    return from_mapping(Layout, {**to_mapping(base), **sizes}, f"--layouts {text}")


def network_of(config: Config) -> nn.Module:
    """The network; errors are those of `jaxnet.plan.networks.network`."""
    from jaxnet.plan import networks

    return networks.network(config.model, config.size, config.options)


def inputs_of(config: Config, model: nn.Module) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of a batch of inputs; errors are those of `jaxnet.plan.networks.inputs`."""
    from jaxnet.plan import networks

    return networks.inputs(model, config.batch_size, config.length, config.example)


def step_of(config: Config, model: nn.Module) -> tuple[Task[Any], dict[str, Any]]:
    """The task of training a network, and the shapes of a batch.

    Raises:
        UsageError: the network gives outputs of which no loss is known.
    """
    import jax
    import jax.numpy as jnp

    from jaxnet import losses, optimizers
    from jaxnet.training import Supervised, mixed_precision, with_auxiliary

    inputs = inputs_of(config, model)
    first, *more = inputs
    made: Any = jax.eval_shape(model.init_with_output, jax.random.key(0), *inputs)
    shapes = [leaf.shape for leaf in jax.tree.leaves(made[0])]
    towers = len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) == 2
    if len(shapes) != 1 and not towers:
        raise UsageError(
            f"{type(model).__name__} gives outputs of shapes {', '.join(map(str, shapes))}: a plan "
            "is for one output, or for the vectors (batch, width) of two towers"
        )
    optimizer = optimizers.by_name(config.optimizer, 1e-3)
    if towers:
        task = Supervised(model, losses.in_batch_softmax, optimizer)
    else:
        # One output is a logit for yes or no.
        one = shapes[0][-1] == 1
        loss = losses.binary_cross_entropy if one else losses.cross_entropy
        task = with_auxiliary(Supervised(model, loss, optimizer))
    batch = {
        "inputs": inputs if more else first,
        "labels": jax.ShapeDtypeStruct(shapes[0][:-1], jnp.int32),
        "mask": jax.ShapeDtypeStruct(shapes[0][:1], jnp.bool_),
    }
    return mixed_precision(task, config.precision), batch


def _cases(config: Config, model: nn.Module, chosen: Sequence[Layout]) -> list[Case]:
    from jaxnet import optimizers
    from jaxnet.parallel.plan import plan
    from jaxnet.parallel.tracing import trace
    from jaxnet.training.on_layout import check_used, complete, used_by

    task, _ = step_of(config, model)
    optimizer = optimizers.by_name(config.optimizer, 1e-3)
    inputs = inputs_of(config, model)
    traced = trace(model, *inputs, optimizer=optimizer, precision=config.precision)
    used = used_by({layer.kind for layer in traced.layers.values()})
    cases = []
    for sizes in chosen:
        try:
            layout = complete(sizes.build(model), task, plain=True)
            check_used(layout, used)
            planned = plan(traced, layout)
            cases.append(Case(layout.sizes, planned, *_program(config, sizes, layout)))
        except UsageError as error:
            cases.append(Case(_numbers(sizes), note=str(error)))
    return cases


def _program(config: Config, sizes: Layout, layout: parallel.Layout) -> tuple[Program | None, str]:
    """What the compiler makes of a layout, or why it isn't asked."""
    from jaxnet.plan.program import MOST_DEVICES, compile_apart

    if not config.compile:
        return None, ""
    if layout.devices > MOST_DEVICES:
        return None, f"not compiled: JAX makes at most {MOST_DEVICES} virtual devices"
    job = {
        "config": to_mapping(config),
        "layout": to_mapping(sizes),
        "devices": layout.devices,
    }
    return compile_apart(job), ""


def _numbers(sizes: Layout) -> dict[str, int]:
    from jaxnet.parallel.axes import AXES

    return {name: getattr(sizes, name) for name in AXES}


def command(arguments: Sequence[str], program: str) -> int:
    """The command, with the words that follow its name."""
    return plan(from_command_line(Config, arguments, program))
