"""jaxnet: `Trainer.fit`, a new run of one epoch a round on one Trainer, so nothing compiles again."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import optax

from benchmarks.workloads import CLASSES, Contestant, Images, Workload
from jaxnet import losses, metrics
from jaxnet.data import Arrays, Scale
from jaxnet.training import FitResult, Supervised, Trainer


class Network(nn.Module):
    """The workload's network."""

    workload: Workload

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = inputs
        for index, channels in enumerate(self.workload.channels):
            hidden = nn.relu(nn.Conv(channels, (3, 3), padding="VALID")(hidden))
            if index < len(self.workload.channels) - 1:
                hidden = nn.max_pool(hidden, (2, 2), strides=(2, 2))
        hidden = hidden.reshape(hidden.shape[0], -1)
        for width in self.workload.hidden:
            hidden = nn.relu(nn.Dense(width)(hidden))
        return nn.Dense(CLASSES)(hidden)


def setup(workload: Workload, data: Images, options: Mapping[str, str]) -> Contestant:
    images = data.shaped(workload, scale=False)
    task = Supervised(
        Network(workload),
        losses.cross_entropy,
        {"adam": optax.adam, "rmsprop": optax.rmsprop}[workload.optimizer](workload.learning_rate),
        metrics={"accuracy": metrics.accuracy},
        preprocess=Scale(0, 1 / 255),
    )
    trainer = Trainer(task, progress=False)
    train_images = Arrays(images.inputs, images.labels)
    latest: list[FitResult] = []

    def train(round_index: int) -> float:
        result = trainer.fit(
            train_images, epochs=1, batch_size=workload.batch_size, seed=round_index
        )
        jax.block_until_ready(result.state.params)
        latest[:] = [result]
        return float(result.history.rows[-1]["loss"])

    def evaluate() -> float:
        (result,) = latest
        return float(result.model.evaluate((images.test_inputs, images.test_labels))["accuracy"])

    return Contestant(train, evaluate)
