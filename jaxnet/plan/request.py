"""What a plan is asked for, and the network, the inputs and the training step that this names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jaxnet.app.run_options import Layout
from jaxnet.errors import UsageError

if TYPE_CHECKING:
    import flax.linen as nn
    import jax

    from jaxnet.training import Task


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
    """examples per training step, of all devices together"""
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
