"""The networks that the contenders train, and the images or texts that they train on."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

CLASSES = 10
PIXELS = 28


@dataclass(frozen=True)
class Workload:
    """A network, its optimizer and the number of examples in an epoch.

    `hidden` are the widths of the hidden Dense layers. A convolutional one has three 3x3 VALID
    convolutions with relu before them, the first two followed by 2x2 max-pooling. A recurrent one
    reads `length` words below `vocabulary`: an embedding of width `embedding`, then a simple
    recurrent layer (tanh) of width `hidden`, whose last state goes to the last Dense layer. With
    `next_token` it is a language model: the layer is an LSTM, and each of its states goes to a
    Dense layer with an output for each word of the vocabulary. A residual one is the ResNet-18 for
    ImageNet on 32x32x3 images. One with `blocks` is a transformer encoder of `length` words:
    embeddings of width `embedding` and learned positions, blocks normalised before with `heads` and
    a feed-forward network (exact GELU) of width `hidden`, and the mean over the words.
    """

    name: str
    hidden: tuple[int, ...]
    optimizer: Literal["adam", "rmsprop"]
    batch_size: int
    examples: int = 60_000
    channels: tuple[int, ...] = ()
    learning_rate: float = 1e-3
    vocabulary: int = 0
    length: int = 0
    embedding: int = 0
    next_token: bool = False
    residual: bool = False
    blocks: int = 0
    heads: int = 0

    @property
    def recurrent(self) -> bool:
        return bool(self.vocabulary)

    @property
    def convolutional(self) -> bool:
        return bool(self.channels) or self.residual

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return (32, 32, 3) if self.residual else (PIXELS, PIXELS, 1)

    @property
    def steps(self) -> int:
        """Steps in a round, which is one epoch; the last batch may be smaller."""
        return -(-self.examples // self.batch_size)


# The longer steps' epochs have fewer of them, so that a race of a dozen contenders ends in minutes.
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("mlp512", (512,), "rmsprop", 128),
        Workload("mlp300", (300, 100), "adam", 128),
        Workload("mlp300_b32", (300, 100), "adam", 32),
        Workload("cnn", (64,), "adam", 64, examples=300 * 64, channels=(32, 64, 64)),
        Workload(
            "rnn",
            (64,),
            "adam",
            32,
            examples=300 * 32,
            vocabulary=10_000,
            length=100,
            embedding=128,
        ),
        Workload(
            "lstm_lm",
            (128,),
            "adam",
            64,
            examples=12 * 64,
            vocabulary=10_000,
            length=50,
            embedding=128,
            next_token=True,
        ),
        Workload(
            "transformer",
            (1024,),
            "adam",
            16,
            examples=15 * 16,
            learning_rate=1e-4,
            vocabulary=2_000,
            length=128,
            embedding=256,
            blocks=4,
            heads=8,
        ),
        Workload("resnet18", (), "adam", 32, examples=24 * 32, residual=True),
    )
}


class Images(NamedTuple):
    """uint8 images (N, 28, 28), or (N, 32, 32, 3), and int32 labels (N,), to train and to test."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    source: str

    def shaped(self, workload: Workload, scale: bool) -> Images:
        """The workload's share of the images in its layout: flat, or (N, height, width, channels).

        With `scale` they are float32 in [0, 1], otherwise they stay uint8.
        """
        tail = workload.image if workload.convolutional else (PIXELS * PIXELS,)

        def prepare(images: np.ndarray) -> np.ndarray:
            images = images.reshape(-1, *tail)
            return images.astype(np.float32) / np.float32(255) if scale else images

        return self._replace(
            inputs=prepare(self.inputs[: workload.examples]),
            labels=self.labels[: workload.examples],
            test_inputs=prepare(self.test_inputs),
        )


class Texts(NamedTuple):
    """int32 words (N, length) and int32 labels, for training and for the test.

    Labels are (N,) classes, or (N, length) the words that come next.
    """

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    source: str

    def shaped(self, workload: Workload, scale: bool) -> Texts:
        """The workload's share of the texts; words have no scale."""
        share = slice(workload.examples)
        return self._replace(inputs=self.inputs[share], labels=self.labels[share])


Data = Images | Texts


@dataclass(frozen=True)
class Contestant:
    """What a contender's `setup` returns.

    `train(round)` trains one shuffled epoch to its very end and returns the mean training loss;
    `evaluate()` returns the accuracy on the test examples. Both raise what they cannot do.
    """

    train: Callable[[int], float]
    evaluate: Callable[[], float]


def load(workload: Workload, data_dir: Path | None) -> Data:
    """What the workload trains on: synthetic texts, or images as `load_images` finds them."""
    if workload.recurrent or workload.residual:
        return synthetic(
            workload, workload.examples, 200 if workload.next_token or workload.blocks else 2_000
        )
    return load_images(data_dir)


def synthetic(workload: Workload, train: int, test: int) -> Data:
    """Synthetic examples of the kind that the workload trains on."""
    if workload.next_token:
        return synthetic_language(train, test, workload.vocabulary, workload.length)
    if workload.recurrent:
        return synthetic_texts(train, test, workload.vocabulary, workload.length)
    return synthetic_images(train, test, workload.image)


def synthetic_texts(train: int, test: int, vocabulary: int, length: int) -> Texts:
    """Random words, half of them from the tenth of the vocabulary that belongs to the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, train + test, dtype=np.int32)
    own = vocabulary // CLASSES
    shape = (train + test, length)
    typical = labels[:, None] * own + rng.integers(0, own, shape, dtype=np.int32)
    any_word = rng.integers(0, vocabulary, shape, dtype=np.int32)
    words = np.where(rng.random(shape) < 0.5, typical, any_word)
    return Texts(words[:train], labels[:train], words[train:], labels[train:], "synthetic texts")


def synthetic_language(train: int, test: int, vocabulary: int, length: int) -> Texts:
    """Random words, half of which are followed by the word that always follows them."""
    rng = np.random.default_rng(0)
    follower = rng.permutation(vocabulary).astype(np.int32)
    words = rng.integers(0, vocabulary, (train + test, length + 1), dtype=np.int32)
    follows = rng.random(words.shape) < 0.5
    for i in range(1, length + 1):
        words[:, i] = np.where(follows[:, i], follower[words[:, i - 1]], words[:, i])
    inputs, labels = words[:, :-1].copy(), words[:, 1:].copy()
    return Texts(inputs[:train], labels[:train], inputs[train:], labels[train:], "synthetic texts")


def load_images(data_dir: Path | None) -> Images:
    """MNIST from `data_dir`, JAXNET_DATA_DIR or ../shared/data; if absent, synthetic images."""
    root = data_dir or Path(
        os.environ.get("JAXNET_DATA_DIR", Path(__file__).parents[2] / "shared" / "data")
    )
    folder = root / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        return synthetic_images(60_000, 10_000)
    return Images(
        inputs=_idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, PIXELS, PIXELS),
        labels=_idx(folder / "train-labels-idx1-ubyte.gz", 8).astype(np.int32),
        test_inputs=_idx(folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, PIXELS, PIXELS),
        test_labels=_idx(folder / "t10k-labels-idx1-ubyte.gz", 8).astype(np.int32),
        source="MNIST",
    )


def synthetic_images(
    train: int, test: int, image: tuple[int, int, int] = (PIXELS, PIXELS, 1)
) -> Images:
    """Noisy copies of ten random patterns: as learnable as MNIST, and by default of its shape."""
    rng = np.random.default_rng(0)
    shape = image if image[-1] > 1 else image[:-1]
    patterns = rng.integers(0, 128, (CLASSES, *shape), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, train + test, dtype=np.int32)
    noise = rng.integers(0, 128, (train + test, *shape), dtype=np.uint8)
    images = patterns[labels] + noise
    source = "synthetic images" if image[-1] > 1 else "synthetic (no MNIST found)"
    return Images(images[:train], labels[:train], images[train:], labels[train:], source)


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
