"""jaxnet: `Trainer.fit`, a new run of one epoch a round on one Trainer; nothing compiles again.

Options, for `benchmarks.scaling`: `axis` and `devices`, a layout of one axis; `virtual`, so many
devices of the processor; `batch_size`; `folder` and `save_steps`, where and how often to save. In
one of several processes, all of them train as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from benchmarks.workloads import CLASSES, Contestant, Data, Workload
from jaxnet import losses, metrics, optimizers
from jaxnet.cluster import join
from jaxnet.data import Arrays, Scale
from jaxnet.layers import (
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    SimpleRNN,
    Stack,
    TransformerBlock,
)
from jaxnet.models import CNN, MLP, RecurrentLM, ResNet
from jaxnet.parallel import Layout
from jaxnet.training import Checkpoints, FitResult, Supervised, Trainer
from jaxnet.training.task import identity


class EncoderClassifier(nn.Module):
    """`(batch, time)` words to logits, by the mean of a transformer encoder's outputs."""

    workload: Workload

    @nn.compact
    def __call__(self, words: jax.Array, train: bool = False) -> jax.Array:
        width, (hidden,) = self.workload.embedding, self.workload.hidden
        norm = partial(nn.LayerNorm, epsilon=1e-5)
        block = partial(
            TransformerBlock,
            attention=partial(MultiHeadAttention, width, self.workload.heads),
            feed_forward=partial(FeedForward, hidden),
            norm=norm,
        )
        x = nn.Embed(self.workload.vocabulary, width)(words)
        x = LearnedPositions(self.workload.length)(x)
        x = norm()(Stack(block, self.workload.blocks)(x, train=train))
        return nn.Dense(CLASSES)(x.mean(axis=1))


class TextClassifier(nn.Module):
    """`(batch, time)` words to logits, by the last state of a simple recurrent layer."""

    vocabulary: int
    embedding: int
    hidden: int

    @nn.compact
    def __call__(self, words: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.embedding)(words)
        x = SimpleRNN(self.hidden)(x)
        return nn.Dense(CLASSES)(x)


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    join.initialize()
    layout = _layout(options)
    batch_size = int(options.get("batch_size", workload.batch_size))
    examples = data.shaped(workload, scale=False)
    measured: dict[str, Any] = {_measured_in(workload): {"accuracy": metrics.accuracy}}
    task = Supervised(
        model_of(workload),
        losses.cross_entropy,
        optimizers.by_name(workload.optimizer, workload.learning_rate),
        **measured,
        preprocess=identity if workload.recurrent else Scale(0, 1 / 255),
    )
    saving = _saving(options)
    trainer = Trainer(task, progress=False, layout=layout, checkpoints=saving)
    train_data = Arrays(examples.inputs, examples.labels)
    latest: list[FitResult] = []

    def train(round_index: int) -> float:
        result = trainer.fit(
            train_data, epochs=1, batch_size=batch_size, seed=round_index, resume=False
        )
        jax.block_until_ready(result.state.params)
        latest[:] = [result]
        return float(result.history.rows[-1]["loss"])

    def evaluate() -> float:
        (result,) = latest
        return float(
            result.model.evaluate((examples.test_inputs, examples.test_labels))["accuracy"]
        )

    return Contestant(train, evaluate)


def _layout(options: Mapping[str, str]) -> Layout:
    devices = int(options.get("devices", 1))
    if "virtual" in options:
        jax.config.update("jax_num_cpu_devices", int(options["virtual"]))
    axes: dict[str, Any] = {options["axis"]: devices} if devices > 1 else {}
    return Layout(**axes)


def _saving(options: Mapping[str, str]) -> Checkpoints | None:
    if "save_steps" not in options:
        return None
    folder = Path(options["folder"])
    return Checkpoints(folder, keep=1, every_steps=int(options["save_steps"]), min_seconds=0.0)


def _measured_in(workload: Workload) -> str:
    # Of a language model only the loss is watched in training, by all contenders.
    return "eval_metrics" if workload.next_token else "metrics"


def model_of(workload: Workload) -> nn.Module:
    if workload.next_token:
        (features,) = workload.hidden
        return RecurrentLM(workload.vocabulary, "lstm", workload.embedding, features)
    if workload.blocks:
        return EncoderClassifier(workload)
    if workload.recurrent:
        return TextClassifier(workload.vocabulary, workload.embedding, *workload.hidden)
    if workload.residual:
        return ResNet(18, num_classes=CLASSES)
    if workload.convolutional:
        return CNN(filters=workload.channels, dense=workload.hidden)
    return MLP(hidden=workload.hidden)
