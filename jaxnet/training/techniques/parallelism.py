"""Techniques that spread a network over devices where the compiler does not do it by itself.

A trainer whose layout has the axis applies each by itself (`jaxnet.training.parallelize`). Here
they are for training steps of one's own: each acts where a mesh with its axis is the ambient one,
and elsewhere changes nothing.

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
    """Share out the tokens of each example over the axis `sequence`; they attend in a ring.

    Liu et al. 2023; see `jaxnet.parallel.ring_attention`. All else that a transformer does, it does
    to each token by itself, and the compiler shares it out. Weights of attention can't be dropped.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (when it is compiled) the axis
            doesn't divide the tokens, or weights of attention are dropped.
    """
    require_gradients(task, "sequence_parallel")
    return task.map_network(lambda network: intercepted(network, in_a_ring()))


def expert_parallel(task: GradientTask) -> GradientTask:
    """Share out the experts of each `jaxnet.layers.ExpertFeedForward` over the axis `expert`.

    Lepikhin et al. 2021; see `jaxnet.parallel.experts`. For the layout there is the rule
    `jaxnet.parallel.EXPERTS`, by which each device holds its own experts.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (when it is compiled) the axis
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
    `stack/blocks/...` with the block as leading axis: paths in `freeze` and its like are of this
    form. For the layout there is the rule `jaxnet.parallel.STAGES`, by which each stage holds its
    own blocks. What is made of the trained network, a bundle say, has the plain form again; see
    `jaxnet.parallel.to_plain`. Optimizers that take the norm of each parameter, LAMB say, take that
    of all blocks together.

    Args:
        task: a task that learns by gradient descent.
        micro_batches: into how many each batch is cut. With more of them devices idle less.
        remat: whether activations are computed again going backward; otherwise each stage keeps
            them of all micro-batches.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (when it is compiled) the network
            has no stack, or one that can't be cut so.
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
                "layout: stages share out the blocks of a jaxnet.layers.Stack, and this network "
                "has none. Leave the axis out (--layout.stage 1), or take a network that has one, "
                "such as models.GPT2 (--model gpt)."
            )
        return from_plain(variables)

    return intercepted(replace(network, init=init), in_stages(micro_batches, remat=remat))
