"""Train a classifier on images or tables.

    python -m train.classify                               digits: 98.9 % in half a minute
    python -m train.classify --data mnist --data-dir DIR   MNIST or Fashion-MNIST from IDX files
    python -m train.classify --help                        all options

Digits are the 1,797 real 8x8 scans that come with scikit-learn, so the first command needs no
download. A run killed at any moment goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnet import cli, run_folder
from jaxnet.config import from_command_line
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.recipe import Optimizer, Saving, Techniques
from jaxnet.training.early_stopping import EarlyStopping

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays

PROGRAM = "python -m train.classify"


@dataclass(frozen=True)
class Network:
    """The network's size, where its kind leaves a choice."""

    hidden: tuple[int, ...] = (300, 100)
    """mlp: the width of each hidden layer"""
    filters: tuple[int, ...] = ()
    """cnn: the filters of each convolution; by default a choice that suits the data"""
    dense: tuple[int, ...] = (64,)
    """cnn: the width of each hidden layer after the convolutions"""
    batch_norm: bool = True
    """cnn: normalise after each convolution"""
    dropout: float | None = None
    """the share of hidden units left out in training; by default 0.5 for cnn, 0 for mlp"""


@dataclass(frozen=True)
class Config:
    """Train a classifier, and leave a run folder with pictures, checkpoints and the network."""

    data: str = "digits"
    """digits, mnist or fashion_mnist"""
    data_dir: Path | None = None
    """the folder of the data's files, for all but digits"""
    model: str = "cnn"
    """cnn, mlp or lenet5"""
    epochs: int = 40
    """how often to go through the training data, at most"""
    batch_size: int = 32
    """examples a step"""
    learning_rate: float = 3e-3
    """the largest learning rate"""
    seed: int = 0
    """of the split, the weights, the order of the data and dropout"""
    run_dir: Path | None = None
    """where to put the results; by default runs/DATA-MODEL-seedSEED"""
    resume: bool = True
    """go on with a run that was cut short in this folder"""
    progress: bool = True
    """show a progress bar"""
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    techniques: Techniques = Techniques()
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=10)
    checkpoints: Saving = Saving()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected {name} of at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Data:
    """What to learn from, to watch, and to report on."""

    train: Arrays
    valid: Arrays
    test: Arrays


def _digits(config: Config) -> Data:
    from jaxnet.data import load_digits, split

    return Data(*split(load_digits(), (0.7, 0.1, 0.2), seed=config.seed))


def _idx(load: str) -> Callable[[Config], Data]:
    def read(config: Config) -> Data:
        import jaxnet.data

        if config.data_dir is None:
            raise UsageError(f"--data {config.data} needs --data-dir, the folder with its files")
        whole, test = getattr(jaxnet.data, load)(config.data_dir)
        train, valid = jaxnet.data.split(whole, (0.9, 0.1), seed=config.seed)
        return Data(train, valid, test)

    return read


def _mlp(config: Config, data: Arrays) -> nn.Module:
    from models import MLP

    network = config.network
    dropout = 0.0 if network.dropout is None else network.dropout
    return MLP(hidden=network.hidden, num_classes=data.num_classes, dropout=dropout)


def _cnn(config: Config, data: Arrays) -> nn.Module:
    from models import CNN

    small = data.inputs.shape[1] < 16
    network = config.network
    return CNN(
        filters=network.filters or ((32, 64) if small else (32, 64, 64)),
        dense=network.dense,
        num_classes=data.num_classes,
        dropout=0.5 if network.dropout is None else network.dropout,
        padding="SAME" if small else "VALID",
        batch_norm=network.batch_norm,
    )


def _lenet5(config: Config, data: Arrays) -> nn.Module:
    from models import LeNet5

    return LeNet5(num_classes=data.num_classes)


DATA: Mapping[str, Callable[[Config], Data]] = {
    "digits": _digits,
    "mnist": _idx("load_mnist"),
    "fashion_mnist": _idx("load_fashion_mnist"),
}
# Fields that don't decide what is learnt.
FREE = ("run_dir", "resume", "progress")
MODELS: Mapping[str, Callable[[Config, Arrays], nn.Module]] = {
    "cnn": _cnn,
    "mlp": _mlp,
    "lenet5": _lenet5,
}


def train(config: Config) -> int:
    """Train as configured, and write the run folder."""
    read, build = lookup(config.data, DATA, "data"), lookup(config.model, MODELS, "model")
    folder = config.run_dir or Path("runs") / f"{config.data}-{config.model}-seed{config.seed}"
    config = replace(config, run_dir=folder)

    from jaxnet import losses, metrics
    from jaxnet.data import check_classes, fit_standard
    from jaxnet.training import Checkpoints, RunWriter, Supervised, Trainer

    data = read(config)
    check_classes(data.train.labels, data.train.num_classes, data.train.name)
    model = build(config, data.train)
    steps = config.epochs * -(-len(data.train) // config.batch_size)
    task = Supervised(
        model,
        losses.cross_entropy,
        config.optimizer.build(config.learning_rate, steps),
        metrics={"accuracy": metrics.accuracy},
        eval_metrics={"confusion": metrics.confusion_matrix(data.train.num_classes)},
        preprocess=fit_standard(data.train),
    )
    trainer = Trainer(
        config.techniques.apply(task),
        early_stopping=config.early_stopping,
        checkpoints=Checkpoints(folder / "checkpoints", **config.checkpoints.options()),
        callbacks=[RunWriter(folder)],
        progress=config.progress,
    )
    run_folder.prepare(folder, config, resume=config.resume, may_change=FREE)
    result = trainer.fit(
        data.train,
        data.valid,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        resume=config.resume,
    )
    if result.stop_reason == "preempted":
        print(f"preempted at step {result.last_step}: run the same command again to go on")
        return cli.PREEMPTED
    run_folder.finish(
        folder, result, result.model.evaluate(data.test), class_names=data.test.class_names
    )
    return cli.DONE


def main() -> int:
    """The command."""
    return cli.run(lambda: train(from_command_line(Config, sys.argv[1:], PROGRAM)))


if __name__ == "__main__":
    sys.exit(main())
