"""jaxnet: `Trainer.fit`, a new run of one epoch a round on one Trainer; nothing compiles again."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from benchmarks.workloads import Contestant, Images, Workload
from jaxnet import losses, metrics, optimizers
from jaxnet.data import Arrays, Scale
from jaxnet.training import FitResult, Supervised, Trainer
from models.cnn import CNN
from models.mlp import MLP


def setup(workload: Workload, data: Images, options: Mapping[str, str]) -> Contestant:
    images = data.shaped(workload, scale=False)
    if workload.convolutional:
        model = CNN(filters=workload.channels, dense=workload.hidden)
    else:
        model = MLP(hidden=workload.hidden)
    task = Supervised(
        model,
        losses.cross_entropy,
        optimizers.by_name(workload.optimizer, workload.learning_rate),
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
