"""jaxnet: `Trainer.fit`, a new run of one epoch a round on one Trainer; nothing compiles again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax

from benchmarks.workloads import CLASSES, Contestant, Data, Workload
from jaxnet import losses, metrics, optimizers
from jaxnet.data import Arrays, Scale
from jaxnet.layers import (
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    SimpleRNN,
    Stack,
    TransformerBlock,
)
from jaxnet.training import FitResult, Supervised, Trainer
from jaxnet.training.task import identity
from models.cnn import CNN
from models.language import RecurrentLM
from models.mlp import MLP
from models.resnet import ResNet


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
    examples = data.shaped(workload, scale=False)
    task = Supervised(
        _model(workload),
        losses.cross_entropy,
        optimizers.by_name(workload.optimizer, workload.learning_rate),
        **{_measured_in(workload): {"accuracy": metrics.accuracy}},
        preprocess=identity if workload.recurrent else Scale(0, 1 / 255),
    )
    trainer = Trainer(task, progress=False)
    train_data = Arrays(examples.inputs, examples.labels)
    latest: list[FitResult] = []

    def train(round_index: int) -> float:
        result = trainer.fit(train_data, epochs=1, batch_size=workload.batch_size, seed=round_index)
        jax.block_until_ready(result.state.params)
        latest[:] = [result]
        return float(result.history.rows[-1]["loss"])

    def evaluate() -> float:
        (result,) = latest
        return float(
            result.model.evaluate((examples.test_inputs, examples.test_labels))["accuracy"]
        )

    return Contestant(train, evaluate)


def _measured_in(workload: Workload) -> str:
    # Of a language model only the loss is watched in training, by all contenders.
    return "eval_metrics" if workload.next_token else "metrics"


def _model(workload: Workload) -> nn.Module:
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
