"""What a layout makes devices send to each other in a training step, counted from shapes.

| axis | what for | as |
|---|---|---|
| those that shard examples or tokens | gradients | an all-reduce |
| `fsdp`, of the parameters that it cuts | parameters, forward and again backward | all-gathers |
| | their gradients | a reduce-scatter |
| `tensor` | outputs of layers whose kernel is cut along its inputs | an all-reduce |
| | gradients by the inputs of layers whose kernel is cut along its outputs | an all-reduce |
| `sequence` | keys and values, and in the backward pass these and their gradients | a ring |
| `stage` | each micro-batch to the next stage, and its gradient back | collective-permutes |
| | what the last stage gives, and the gradient by what the first one gets | all-reduces |
| `expert` | the slots of experts, there and back, forward and backward | all-to-alls |

Of parameters these are the counts of Rajbhandari et al. 2020, "ZeRO", section 7, of `tensor` those
of Shoeybi et al. 2019, "Megatron-LM", section 3, of ring, pipeline and experts those of
`jaxnet.parallel.ring_attention`, `pipeline_stages` and `experts`. A compiler may send less: it can
keep what it gathered, or more: XLA for CPUs replaces reduce-scatters, and sends the gradients by
what several layers read for each of them. Left out is what is small: means over the batch in batch
normalisation, the loss, and the maximum and the sum of a softmax whose classes are cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from jaxnet.parallel.axes import BATCH_AXES, names
from jaxnet.parallel.describe import local_bytes
from jaxnet.parallel.layout import Layout
from jaxnet.plan.collectives import Collective, Kind, group, merged
from jaxnet.plan.tracing import Layer, Traced, block_number, by_path

# Along these axes a device sees only some of the examples or tokens, and has a part of the
# gradient.
PARTIAL_AXES = (*BATCH_AXES, "sequence")
# The classes of `jaxnet.layers` whose work such functions distribute.
ATTENTION = "MultiHeadAttention"
EXPERTS = "ExpertFeedForward"


@dataclass(frozen=True)
class Placed:
    """A network on a mesh, as the devices of the first stage see it.

    Attributes:
        traced: the network.
        params: the shapes of its parameters, by path.
        specs: how they lie.
        sizes: the number of devices along each axis.
        cuts: along what the kernels and tables are cut that `tensor` cuts, by the path of the
            layer: `"inputs"` or `"outputs"`.
    """

    traced: Traced
    params: Mapping[str, Any]
    specs: Mapping[str, PartitionSpec]
    sizes: Mapping[str, int]
    cuts: Mapping[str, str]

    @classmethod
    def of(cls, traced: Traced, layout: Layout) -> Placed:
        """The network under a layout; errors are those of `Layout.specs`."""
        params = by_path(traced.state["params"])
        specs = by_path(layout.specs(traced.state["params"]))
        cuts = {}
        for path, spec in specs.items():
            layer, _, name = path.rpartition("/")
            last = len(params[path].shape) - 1
            cut = [axis for axis, along in enumerate(spec) if "tensor" in names(along)]
            if name in ("kernel", "embedding") and cut and layout.tensor > 1:
                cuts[layer] = {last: "outputs", last - 1: "inputs"}.get(cut[0], "")
        return cls(traced, params, specs, layout.sizes, cuts)

    @property
    def shares(self) -> int:
        """The number of devices over which the tokens of a batch are sharded."""
        return math.prod(self.sizes[name] for name in PARTIAL_AXES)

    def here(self, path: str) -> bool:
        """Whether the first stage has it: its own blocks, and all that is in no block."""
        return block_number(path) < math.ceil(self.traced.blocks / self.sizes["stage"])

    def layers(self) -> dict[str, Layer]:
        """The modules that are here."""
        return {path: layer for path, layer in self.traced.layers.items() if self.here(path)}

    def splits(self, path: str, work: bool = False) -> bool:
        """Whether `tensor` shards the outputs of a module, or its computation.

        That is so of a layer whose kernel is cut along its outputs, and of all that goes on between
        such layers and the next, as attention does within its heads. Along its inputs, the work is
        cut and the result is not.
        """
        if path in self.cuts:
            attends = "attend" in self.traced.layers[path].methods
            return work or attends or self.cuts[path] == "outputs"
        own = not path or any(name.startswith(f"{path}/") for name in self.params)
        owner = path if own else path.rpartition("/")[0]
        return "outputs" in [c for p, c in self.cuts.items() if p.rpartition("/")[0] == owner]

    def share(self, path: str, work: bool = False) -> int:
        """The number of devices over which a module's outputs, or its computation, are sharded."""
        return self.shares * (self.sizes["tensor"] if self.splits(path, work) else 1)


def exchanges(placed: Placed, micro_batches: int = 1) -> tuple[Collective, ...]:
    """All that a device of the first stage sends in a step.

    Args:
        placed: the network.
        micro_batches: into how many parts a pipeline cuts a batch.
    """
    return merged(
        (
            *gradient_exchange(placed),
            *tensor_exchange(placed),
            *ring_exchange(placed),
            *stage_exchange(placed, micro_batches),
            *expert_exchange(placed),
        )
    )


def gradient_exchange(placed: Placed) -> Iterator[Collective]:
    """For the gradients of all parameters, and, where they are cut by `fsdp`, for these.

    Example:
        >>> import flax.linen as nn, optax
        >>> from jaxnet.plan.tracing import trace
        >>> traced = trace(nn.Dense(8), (32, 4), optimizer=optax.sgd(0.1))
        >>> [each.size for each in gradient_exchange(Placed.of(traced, Layout(data=4)))]
        [160]
    """
    added: dict[tuple[str, ...], int] = {}
    gathered = 0
    for path, leaf in placed.params.items():
        if not placed.here(path):
            continue
        spec = placed.specs[path]
        used = {name for axis in spec for name in names(axis)}
        own = local_bytes(leaf, spec, placed.sizes)
        axes = tuple(n for n in PARTIAL_AXES if placed.sizes[n] > 1 and n not in used)
        added[axes] = added.get(axes, 0) + own
        if "fsdp" in used:
            gathered += own * placed.sizes["fsdp"]
    if gathered:
        yield _along(placed, "all-gather", gathered, ["fsdp"], count=2)
        yield _along(placed, "reduce-scatter", gathered, ["fsdp"])
    for axes, size in added.items():
        if axes:
            yield _along(placed, "all-reduce", size, axes)


def tensor_exchange(placed: Placed) -> Iterator[Collective]:
    """For the activations of layers that `tensor` cuts.

    Layers of one module that read the same input, as queries, keys and values do, add their
    gradients by it before these go out. What comes from outside needs no gradient. Rules are taken
    to come in pairs: after layers that are cut along their outputs comes one that is cut along its
    inputs, or the loss.
    """
    owners = {path.rpartition("/")[0] for path in placed.params}
    reads_data = next((path for path in placed.traced.layers if path in owners), None)
    seen = set()
    for path, layer in placed.layers().items():
        cut = placed.cuts.get(path)
        given, result = (
            placed.traced.itemsize * math.prod(shape) // placed.shares
            for shape in (layer.inputs, layer.outputs)
        )
        if cut == "inputs":
            # A table whose rows are cut is read so too; as the last layer it is cut along its
            # outputs, and has its own gradient by the inputs.
            times = 2 if "attend" in layer.methods else 1
            yield _along(placed, "all-reduce", result, ["tensor"], times)
        elif cut == "outputs" and f"{path}/embedding" in placed.params:
            yield _along(placed, "all-gather", result, ["tensor"])
        elif cut == "outputs" and path != reads_data:
            reader = (path.rpartition("/")[0], layer.inputs)
            if reader not in seen:
                seen.add(reader)
                yield _along(placed, "all-reduce", given, ["tensor"])


def ring_exchange(placed: Placed) -> Iterator[Collective]:
    """For attention among tokens on many devices: see `jaxnet.parallel.ring_attention`.

    With n devices, keys and values take n - 1 steps forward and again backward, and their gradients
    n, as float32.
    """
    devices = placed.sizes["sequence"]
    layers = placed.layers()
    for path, layer in layers.items():
        if layer.kind != ATTENTION or devices == 1:
            continue
        numbers = sum(
            math.prod(layers[f"{path}/{name}"].outputs) // placed.share(f"{path}/{name}")
            for name in ("key", "value")
        )
        size = placed.traced.itemsize * numbers
        yield _along(placed, "collective-permute", size, ["sequence"], 2 * (devices - 1))
        yield _along(placed, "collective-permute", 4 * numbers, ["sequence"], devices)


def stage_exchange(placed: Placed, micro_batches: int) -> Iterator[Collective]:
    """For a pipeline: see `jaxnet.parallel.pipeline_stages.gpipe`.

    In each of `micro_batches + stages - 1` slots of time every stage hands a micro-batch on,
    forward, and a gradient back. All stages get what the last one gives, and add up the gradients
    by what went into the first one.
    """
    stages = placed.sizes["stage"]
    if stages == 1:
        return
    block = next(layer for path, layer in placed.layers().items() if block_number(path) == 0)
    size = placed.traced.itemsize * math.prod(block.inputs) // placed.shares
    slots = micro_batches + stages - 1
    yield _along(placed, "collective-permute", size // micro_batches, ["stage"], 2 * slots)
    yield _along(placed, "all-reduce", size, ["stage"], 2)


def expert_exchange(placed: Placed) -> Iterator[Collective]:
    """For experts on many devices: see `jaxnet.parallel.experts`.

    A device has the slots of all experts for its own examples, and sends each to where the expert
    lies; what comes of it goes back, and so do both gradients.
    """
    for layer in placed.layers().values():
        if layer.kind == EXPERTS and placed.sizes["expert"] > 1:
            slots = math.prod(layer.methods["transform"]) // placed.shares
            size = placed.traced.itemsize * slots
            yield _along(placed, "all-to-all", size, ["expert"], 4)


def _along(
    placed: Placed, kind: Kind, size: int, axes: Iterable[str], count: int = 1
) -> Collective:
    members = group(placed.sizes, axes)
    # Neighbours stand for all in a ring; the way back from the last to the first is no longer.
    pair = kind == "collective-permute"
    return Collective(kind, size, members[:2] if pair else members, count)
