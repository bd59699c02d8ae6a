"""Techniques that spread a network over devices where the compiler does not do it by itself.

Each needs a layout with the axis of that name (`jaxnet.parallel.Layout`): it acts where a trainer
has made that layout's mesh the ambient one, and elsewhere changes nothing.

    task = Supervised(GPT2(dropout=0.0), ...)
    trainer = Trainer(sequence_parallel(task), layout=Layout(data=2, sequence=4))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flax import linen as nn

from jaxnet.parallel.experts import on_their_devices
from jaxnet.parallel.ring import in_a_ring
from jaxnet.training.network import Network
from jaxnet.training.task import GradientTask
from jaxnet.training.transforms import require_gradients


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
    `("**/experts/**", ("expert",))`, by which each device holds its own experts.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or (when it is compiled) the axis
            doesn't divide the experts, or the examples.
    """
    require_gradients(task, "expert_parallel")
    return task.map_network(lambda network: intercepted(network, on_their_devices()))


def intercepted(network: Network, interceptor: Any) -> Network:
    """The network with an interceptor (`flax.linen.intercept_methods`) around all but `init`."""

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with nn.intercept_methods(interceptor):
                return function(*args)

        return call

    return replace(network, apply=within(network.apply), layers=within(network.layers))
