"""Norms of gradients and activations, layer by layer, where they vanish or explode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.metrics import Mean
from jaxnet.training.network import Network
from jaxnet.training.state import PyTree, stream
from jaxnet.training.task import GradientTask, example_weights
from jaxnet.training.techniques.transforms import Technique, chain, require_gradients

GRADIENT, ACTIVATION = "grad_norm/", "act_norm/"


def gradient_norms(grads: PyTree) -> dict[str, jax.Array]:
    """The Euclidean norm of each layer's gradient, by the layer's path.

    A layer is what holds parameters together: the kernel and the bias of `Dense_0`.

    Example:
        >>> grads = {"Dense_0": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}}
        >>> {name: float(norm) for name, norm in gradient_norms(grads).items()}
        {'Dense_0': 5.0}
    """
    layers: dict[str, list[jax.Array]] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(grads):
        path = jax.tree_util.keystr(keys[:-1], simple=True, separator="/")
        layers.setdefault(path or "the network", []).append(leaf.astype(jnp.float32))
    return {path: optax.tree.norm(leaves) for path, leaves in layers.items()}


def activation_norms(layers: Sequence[tuple[str, Any]], examples: int) -> dict[str, jax.Array]:
    """(examples,) for each layer: the root of the mean square of what it puts out for each example.

    Unlike a sum it doesn't grow with the layer's width. Left out is what isn't one floating-point
    array with a row for each example.

    Args:
        layers: (path, output), as `Network.layers` gives them.
        examples: the number of examples.
    """
    norms = {}
    for path, output in layers:
        if path.startswith("the input of ") or not _has_rows(output, examples):
            continue
        units = output.astype(jnp.float32).reshape(examples, -1)
        norms[path] = jnp.sqrt(jnp.mean(jnp.square(units), axis=1))
    return norms


def _has_rows(output: Any, examples: int) -> bool:
    if not isinstance(output, jax.Array) or output.ndim == 0 or output.size == 0:
        return False
    return len(output) == examples and jnp.issubdtype(output.dtype, jnp.floating)


@dataclass(frozen=True)
class _LogNorms(Technique):
    def step_metrics(self, state, batch, grads, aux, taken):
        # The innermost task's, because a moving average isn't what the gradient is of.
        *_, innermost = chain(self.task)
        network, _, variables = innermost.inference(state)
        key = stream(state.key, "objective", state.step)
        layers = network.layers(variables, self.task.network_inputs(batch), key)
        weights = example_weights(batch)
        # The gradient of padding, or one that overflowed, is none to tell of.
        norms = {
            GRADIENT + path: Mean(
                jnp.where(taken, norm, jnp.zeros_like(norm)), taken.astype(jnp.float32)
            )
            for path, norm in gradient_norms(grads).items()
        }
        norms |= {
            ACTIVATION + path: Mean.of(norm, weights)
            for path, norm in activation_norms(layers, len(weights)).items()
        }
        return {**self.task.step_metrics(state, batch, grads, aux, taken), **norms}


def log_norms(task: GradientTask) -> GradientTask:
    """Measure each layer's gradient and activations in training, as further metrics.

    The columns of the history are `grad_norm/PATH`, the norm of the gradient, a mean over the
    steps, and `act_norm/PATH`, the root mean square of the layer's outputs, a mean over the
    examples. Layers in which gradients vanish or explode (Glorot and Bengio 2010, section 4) stand
    out in `jaxnet.report.plots.plot_norms`. The network may run a second time for it.

    Wherever it stands among other techniques, the gradient is that of the whole batch, unscaled,
    and the activations are those of the parameters that it is of. A gradient that overflowed in
    float16 (`mixed_precision`) is left out. What runs within a loop of the network's own
    (`nn.scan`, `nn.RNN`) is measured where it comes out.

    Raises:
        UsageError: the task doesn't learn by gradient descent.
    """
    require_gradients(task, "log_norms")
    return _LogNorms(task)


def layer_order(
    network: Network, variables: Mapping[str, PyTree], inputs: jax.ShapeDtypeStruct
) -> list[str]:
    """The paths of a network's layers in the order in which they finish, from shapes alone.

    Args:
        network: the model.
        variables: its variables, or their shapes.
        inputs: shape and type of a batch, as the network takes it.
    """
    names: list[str] = []

    def run(variables: Any, inputs: Any) -> None:
        layers = network.layers(variables, inputs, jax.random.key(0))
        names.extend(path for path, _ in layers if not path.startswith("the input of "))

    jax.eval_shape(run, variables, inputs)
    return list(dict.fromkeys(names))
