"""PyTorch on the CPU: a plain loop that indexes tensors by a permutation (no DataLoader).

Options:
    optimizer: `fused` or `foreach`, the optimizer's implementation.
    layout: `channels_last` or `contiguous`, for convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.contenders.torch_resnet import ResNet18
from benchmarks.contenders.torch_transformer import Encoder
from benchmarks.report import cores
from benchmarks.workloads import CLASSES, PIXELS, Contestant, Data, Workload


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    examples = data.shaped(workload, scale=True)
    inputs, test_inputs = _tensor(examples.inputs), _tensor(examples.test_inputs)
    labels, test_labels = torch.tensor(examples.labels).long(), torch.tensor(examples.test_labels)
    model = model_of(workload, options["layout"])
    if options.get("layout") == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore
        inputs = inputs.to(memory_format=torch.channels_last)
    optimizer = _optimizer(workload, model, **{options["optimizer"]: True})
    cross_entropy = nn.CrossEntropyLoss()

    def train(round_index: int) -> float:
        generator = torch.Generator().manual_seed(round_index)
        order = torch.randperm(workload.examples, generator=generator)
        total, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for index in order.split(workload.batch_size):
            batch = labels[index]
            logits = model(inputs[index])
            loss = cross_entropy(logits.flatten(0, -2), batch.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
            if not workload.next_token:
                correct += (logits.detach().argmax(-1) == batch).sum()
        return float(total) / workload.examples

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        right = (model(test_inputs).argmax(-1) == test_labels).float().mean()
        model.train()
        return float(right)

    return Contestant(train, evaluate)


def _tensor(inputs: np.ndarray) -> torch.Tensor:
    """PyTorch's layout: (N, 784), (N, length) words, images (N, channels, height, width)."""
    tensor = torch.from_numpy(inputs)
    return tensor if tensor.ndim == 2 else tensor.permute(0, 3, 1, 2).contiguous()


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lstm(self.embed(words))
        return self.head(outputs)


class TextClassifier(nn.Module):
    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.rnn = nn.RNN(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        _, last = self.rnn(self.embed(words))
        return self.head(last[0])


def model_of(workload: Workload, form: str = "sdpa") -> nn.Module:
    if workload.blocks:
        return Encoder(workload, form)
    if workload.next_token:
        return LanguageModel(workload.vocabulary, workload.embedding, *workload.hidden)
    if workload.recurrent:
        return TextClassifier(workload.vocabulary, workload.embedding, *workload.hidden)
    if workload.residual:
        return ResNet18(CLASSES)
    layers: list[nn.Module] = []
    features = PIXELS * PIXELS
    if workload.convolutional:
        widths = (1, *workload.channels)
        for index, (fan, channels) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(fan, channels, 3), nn.ReLU()]
            if index < len(workload.channels) - 1:
                layers.append(nn.MaxPool2d(2))
        layers.append(nn.Flatten())
        features = 3 * 3 * widths[-1]
    for width in workload.hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, CLASSES))


def _optimizer(workload: Workload, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    if workload.optimizer == "rmsprop":
        optimizer = partial(torch.optim.RMSprop, alpha=0.9)
    else:
        optimizer = torch.optim.Adam
    return optimizer(model.parameters(), lr=workload.learning_rate, **options)
