"""How a deep network starts: the norms of its layers, for an activation and an initialiser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxnet.report.layer_norms import Start

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays


def deep_network(depth: int, width: int, activation: str, initializer: str) -> nn.Module:
    """A multilayer perceptron of `depth` hidden layers and ten outputs.

    Raises:
        UsageError: there is no activation or initialiser of that name.
    """
    from flax import linen as nn

    from jaxnet.layers.activations import ACTIVATIONS
    from jaxnet.layers.initializers import INITIALIZERS
    from jaxnet.names import lookup

    init = lookup(initializer, INITIALIZERS, "initializer")
    function = lookup(activation, ACTIVATIONS, "activation")
    hidden = [
        layer for _ in range(depth) for layer in (nn.Dense(width, kernel_init=init), function)
    ]
    flat = [lambda images: images.reshape(len(images), -1)]
    return nn.Sequential([*flat, *hidden, nn.Dense(10, kernel_init=init)])


def measured_start(
    config: Any, activation: str, initializer: str, data: Mapping[str, Arrays]
) -> Start:
    """Train one network, and measure its layers in the first step.

    Args:
        config: `depth`, `width`, `epochs`, `learning_rate` and `seed`.
        activation: the name of one of `jaxnet.layers.activations`.
        initializer: the name of one of `jaxnet.layers.initializers`.
        data: `train` and `test`.
    """
    from jaxnet import losses, metrics, optimizers
    from jaxnet.data import fit_standard
    from jaxnet.training import Supervised, Trainer, log_norms

    task = Supervised(
        deep_network(config.depth, config.width, activation, initializer),
        losses.cross_entropy,
        optimizers.by_name("momentum", config.learning_rate),
        metrics={"accuracy": metrics.accuracy},
        preprocess=fit_standard(data["train"]),
    )
    trainer = Trainer(log_norms(task), progress=False)
    fit = partial(trainer.fit, data["train"], batch_size=64, seed=config.seed)
    # The norms of the first step: where they explode, later ones are no numbers any more.
    start = fit(steps=1)
    layers = [name for name in start.model.layers() if "layers_" in name]

    def norms(prefix: str) -> tuple[float, ...]:
        return tuple(start.history[prefix + layer][0] for layer in layers)

    accuracy = fit(epochs=config.epochs).model.evaluate(data["test"])["accuracy"]
    return Start(activation, initializer, norms("grad_norm/"), norms("act_norm/"), accuracy)
