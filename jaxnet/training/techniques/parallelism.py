"""Sequence, expert and pipeline parallelism as techniques, which the compiler can't derive.

A trainer applies them automatically if its layout has the axis (`jaxnet.training.parallelize`).
These functions are for custom training loops: each takes effect under an ambient mesh with its
axis, and changes nothing elsewhere.

    task = sequence_parallel(Supervised(GPT2(dropout=0.0), ...))
    with jax.set_mesh(Layout(data=2, sequence=4).mesh()):
        state, metrics = compiled(task.train_step)(state, batch)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxnet.errors import UsageError
from jaxnet.parallel.experts import on_their_devices
from jaxnet.parallel.ring_attention import in_a_ring
from jaxnet.parallel.stacked import from_plain, in_stages, to_plain
from jaxnet.training.network import Network, intercepted
from jaxnet.training.task import GradientTask, Inference
from jaxnet.training.techniques.transforms import Technique, require_gradients


def sequence_parallel(task: GradientTask) -> GradientTask:
    """Shard the tokens of each example over the axis `sequence`, with ring attention.

    Liu et al. 2023; see `jaxnet.parallel.ring_attention`. The other layers of a transformer act
    token by token, and the compiler shards them. Attention dropout is not supported.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (at compile time) the axis
            doesn't divide the tokens, or attention has dropout.
    """
    require_gradients(task, "sequence_parallel")
    return task.map_network(lambda network: intercepted(network, in_a_ring()))


def expert_parallel(task: GradientTask) -> GradientTask:
    """Shard the experts of each `jaxnet.layers.ExpertFeedForward` over the axis `expert`.

    Lepikhin et al. 2021; see `jaxnet.parallel.experts`. The sharding rule
    `jaxnet.parallel.EXPERTS` stores each expert's parameters on its device.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (at compile time) the axis
            doesn't divide the experts, or the examples.
    """
    require_gradients(task, "expert_parallel")
    return task.map_network(lambda network: intercepted(network, on_their_devices()))


@dataclass(frozen=True)
class _Pipelined(Technique):
    plain: Network

    def map_network(self, change):
        return replace(self, task=self.task.map_network(change), plain=change(self.plain))

    def inference(self, state):
        _, preprocess, variables = self.task.inference(state)
        return Inference(self.plain, preprocess, to_plain(variables))


def pipelined(task: GradientTask, micro_batches: int, remat: bool = True) -> GradientTask:
    """Run the blocks of each `jaxnet.layers.Stack` as a pipeline over the axis `stage`.

    Huang et al. 2019; see `jaxnet.parallel.gpipe`. The state holds the blocks' parameters stacked,
    `stack/blocks/...` with the block as leading axis; path patterns, as in `freeze`, have to match
    these paths. The sharding rule `jaxnet.parallel.STAGES` stores each block on its stage. Exports
    such as bundles have the plain form again; see `jaxnet.parallel.to_plain`. Optimizers that use
    per-parameter norms, such as LAMB, use the norm over all blocks together.

    Args:
        task: a task that learns by gradient descent.
        micro_batches: the number of micro-batches per batch. More of them leave devices idle less.
        remat: whether activations are rematerialised in the backward pass; otherwise each stage
            stores them for all micro-batches.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (at compile time) the network
            has no stack, or one that can't be split into these stages.
    """
    require_gradients(task, "pipelined")
    if micro_batches < 1:
        raise UsageError(f"pipelined: expected at least 1 micro-batch, got {micro_batches}")
    networks: list[Network] = []

    def change(network: Network) -> Network:
        networks.append(network)
        return stacked(network, micro_batches, remat)

    changed = task.map_network(change)
    return _Pipelined(changed, networks[0])


def stacked(network: Network, micro_batches: int | None = None, remat: bool = True) -> Network:
    """The network with its blocks' parameters stacked, and the blocks as a pipeline."""

    def init(key: jax.Array, inputs: Any) -> Any:
        variables = network.init(key, inputs)
        forms = [jax.tree.structure(form(variables)) for form in (from_plain, to_plain)]
        if set(forms) == {jax.tree.structure(variables)} and network.module is not None:
            raise UsageError(
                "layout: stages split the blocks of a jaxnet.layers.Stack, and this network has "
                "none. Leave the axis out (--layout.stage 1), or use a network that has one, such "
                "as models.GPT2 (--model gpt)."
            )
        return from_plain(variables)

    return intercepted(replace(network, init=init), in_stages(micro_batches, remat=remat))
