"""Techniques that spread a network over devices where the compiler does not do it by itself.

Each needs a mesh with the axis of that name (`jaxnet.parallel.Layout`): it acts where such a mesh
is the ambient one, and elsewhere changes nothing.

    task = sequence_parallel(Supervised(GPT2(dropout=0.0), ...))
    with jax.set_mesh(Layout(data=2, sequence=4).mesh()):
        state, metrics = compiled(task.train_step)(state, batch)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flax import linen as nn

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


def intercepted(network: Network, interceptor: Any) -> Network:
    """The network with an interceptor (`flax.linen.intercept_methods`) around all but `init`."""

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with nn.intercept_methods(interceptor):
                return function(*args)

        return call

    return replace(network, apply=within(network.apply), layers=within(network.layers))
