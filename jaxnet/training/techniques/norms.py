"""Per-layer norms of gradients and activations, to see where they vanish or explode."""

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

    A layer is a module with parameters of its own: `Dense_0` with its kernel and bias.

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
    """The root mean square of each layer's output per example, (examples,), by the layer's path.

    Unlike a norm it doesn't grow with the layer's width. Outputs that aren't a single
    floating-point array with one row per example are left out.

    Args:
        layers: (path, output), as returned by `Network.layers`.
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
        # The innermost task's variables: the gradient is not taken at a moving average.
        *_, innermost = chain(self.task)
        network, _, variables = innermost.inference(state)
        key = stream(state.key, "objective", state.step)
        layers = network.layers(variables, self.task.network_inputs(batch), key)
        weights = example_weights(batch)
        # Gradients of padding, or that overflowed, are not reported.
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
    """Log the norms of each layer's gradient and activations in training, as extra metrics.

    The history gets the columns `grad_norm/PATH`, the norm of the gradient averaged over steps,
    and `act_norm/PATH`, the root mean square of the layer's outputs averaged over examples. Layers
    with vanishing or exploding gradients (Glorot and Bengio 2010, section 4) stand out in
    `jaxnet.report.plots.plot_norms`. It may cost a second forward pass.

    Wherever it stands among other techniques, the gradient is that of the whole batch, unscaled,
    and the activations belong to the parameters at which it is taken. A gradient that overflowed in
    float16 (`mixed_precision`) is left out. Layers inside a loop of the network (`nn.scan`,
    `nn.RNN`) are measured by the output of the loop.

    Raises:
        UsageError: the task doesn't learn by gradient descent.
    """
    require_gradients(task, "log_norms")
    return _LogNorms(task)


def layer_order(
    network: Network, variables: Mapping[str, PyTree], inputs: jax.ShapeDtypeStruct
) -> list[str]:
    """The paths of a network's layers in execution order, found by abstract evaluation.

    Args:
        network: the model.
        variables: its variables, or their shapes.
        inputs: shape and dtype of a batch, as the network receives it.
    """
    names: list[str] = []

    def run(variables: Any, inputs: Any) -> None:
        layers = network.layers(variables, inputs, jax.random.key(0))
        names.extend(path for path, _ in layers if not path.startswith("the input of "))

    jax.eval_shape(run, variables, inputs)
    return list(dict.fromkeys(names))
