"""Train a classifier on images or tables.

    python -m train.classify                               digits: 98.9 % in 15 seconds
    python -m train.classify --data mnist                  MNIST, downloaded the first time
    python -m train.classify --data cifar10 --data-dir DIR CIFAR-10 from the files in DIR
    python -m train.classify --data cifar10 --data-dir DIR --model resnet20
    python -m train.classify --data folder --data-dir DIR  images in DIR/CLASS or DIR/train/CLASS
    python -m train.classify --data titanic --data-dir FILE --folds 5     81.6 %
    python -m train.classify --data csv --data-dir FILE --target COLUMN   a table of your own
    python -m train.classify --help                        all options

Digits are the 1,797 real 8x8 scans that come with scikit-learn, so the first command needs no
download. A run killed at any moment goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import (
    IMAGE_FILES,
    IMAGES,
    Augment,
    Folds,
    ImageSize,
    Tabular,
    lookup_data,
    started,
)
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import OnlyWith, OtherThan, settled

from .networks import MODELS, Network

if TYPE_CHECKING:
    from jaxnet.data import Arrays, ImageFolder, Table, TableEncoder
    from jaxnet.training import Supervised
    from jaxnet.training.task import Loss

    from .networks import Build

PROGRAM = "python -m train.classify"
TABLES = ("titanic", "csv")


@dataclass(frozen=True)
class Config(Tabular):
    """Train a classifier, and leave a run folder with pictures, checkpoints and the network."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, titanic, folder for images of your own in a
    sub-folder for each class (perhaps below train/, valid/ and test/), or csv for a table of your
    own (Parquet too)"""
    data_dir: Annotated[Path | None, OnlyWith(data=(*IMAGE_FILES, *TABLES))] = None
    """the folder of the data's files, or the table's file; by default what JAXNET_DATA_DIR holds,
    or else the original images are downloaded"""
    image_size: ImageSize = None
    """height and width to which images are resized, if they aren't all of one size"""
    folds: Annotated[Folds | None, OnlyWith(data=OtherThan("folder"))] = None
    """cross-validate with so many folds, instead of one split into training and test data"""
    model: str | None = None
    """cnn, mlp, lenet5, alexnet, vgg11, vgg13, vgg16, vgg19 (vgg11_bn and so on with batch norm),
    googlenet, resnet18, resnet34, resnet50, resnet101, resnet152, and for small images resnet20,
    resnet32, resnet44, resnet56, and vit_s, vit_b, vit_l; by default cnn for images and mlp for
    tables"""
    metrics: tuple[str, ...] = ()
    """what else to measure in evaluation, such as f1, matthews_correlation or roc_auc"""
    balanced: bool = False
    """let all classes count alike in the loss, however rare they are"""
    class_weights: dict[str, float] = field(default_factory=dict)
    """how much a class counts in the loss, by its name: 'survived' 2; others count 1; with
    --balanced it is a factor on that"""
    network: Network = Network()
    augment: Annotated[Augment, OnlyWith(data=IMAGES)] = Augment()


@dataclass(frozen=True)
class Data:
    """What to learn from, to watch, and to report on."""

    train: Arrays | ImageFolder
    valid: Arrays | ImageFolder
    test: Arrays | ImageFolder
    whole: Arrays | Table | None = None
    """what cross-validation cuts into folds"""
    encoder: TableEncoder | None = None
    """what made the inputs, where they come from a table"""


def _images(config: Config) -> Data:
    from jaxnet.data.images.by_name import read_images

    return Data(*read_images(config.data, config.data_dir, config.image_size, config.seed))


def _table(load: Callable[[Config], Table]) -> Callable[[Config], Data]:
    def read(config: Config) -> Data:
        from jaxnet.data import fit_table, split

        table = load(config)
        parts = split(table, (0.7, 0.1, 0.2), seed=config.seed)
        encoder = fit_table(parts[0])
        return Data(*map(encoder.arrays, parts), whole=table, encoder=encoder)

    return read


def _titanic(config: Config) -> Table:
    from jaxnet.data import load_titanic
    from jaxnet.data.at_hand import at_hand

    path = config.data_dir or at_hand("titanic.csv")
    if path is None:
        raise UsageError("--data titanic needs --data-dir, titanic.csv or the folder with it")
    table = load_titanic(path)
    print(table.describe())
    return table


DATA: Mapping[str, Callable[[Config], Data]] = {
    **dict.fromkeys(IMAGES, _images),
    "titanic": _table(_titanic),
    "csv": _table(lambda config: config.table.read(config.data_dir, config.target, "class")),
}
# What suits a data set, where nothing was chosen.
AUGMENT: Mapping[str, Augment] = {"cifar10": Augment(flip=True, crop=4)}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    read = lookup_data(config.data, DATA)
    name = config.model or ("mlp" if config.data in TABLES else "cnn")
    build = lookup(name, MODELS, "model")
    if config.data in TABLES and name != "mlp":
        raise UsageError(f"--model {name} is for images; a table needs mlp, which is the default")
    augment = config.augment.suited(AUGMENT.get(config.data))
    config = settled(replace(config, model=name, augment=augment))
    folder = run_folder.located(config, name)
    config = replace(config, run_dir=folder)

    from jaxnet.app import cross_validation
    from jaxnet.data import check_classes, fit_standard, sample
    from jaxnet.training.task import identity

    data = read(config)
    check_classes(data.train.labels, data.train.num_classes, data.train.name)
    if config.folds and data.whole is not None:
        task_for = cross_validation.shared(
            lambda train: config.augment.apply(_task(config, build, train, identity)),
            lambda train: (
                train.inputs.shape[1:],
                config.steps_for(len(train)),
                _class_weights(config, train),
            ),
        )
        return cross_validation.run(folder, config, data.whole, task_for)
    preprocess = identity if data.encoder else fit_standard(sample(data.train))
    task = _task(config, build, data.train, preprocess)
    result = fit(folder, config, task, data.train, data.valid, config.augment, encoder=data.encoder)
    if result is None:
        return cli.PREEMPTED
    run_folder.finish(
        folder,
        result,
        result.model.evaluate(data.test),
        class_names=data.test.class_names,
        encoder=data.encoder,
        predictions=(result.model.predict(data.test), data.test.labels),
    )
    return cli.DONE


def _task(config: Config, build: Build, train: Arrays | ImageFolder, preprocess: Any) -> Supervised:
    from jaxnet import metrics
    from jaxnet.training import Supervised, with_auxiliary

    model = build(config.network, train)
    task = Supervised(
        model,
        _loss(config, train),
        config.optimizer_for(len(train)),
        metrics={"accuracy": metrics.accuracy},
        eval_metrics={
            "confusion": metrics.confusion_matrix(train.num_classes),
            **{name: lookup(name, metrics.METRICS, "metric") for name in config.metrics},
        },
        preprocess=preprocess,
    )
    return with_auxiliary(task) if getattr(model, "auxiliary", False) else task


def _loss(config: Config, train: Arrays | ImageFolder) -> Loss:
    from jaxnet import losses

    weights = _class_weights(config, train)
    loss = losses.cross_entropy
    return losses.with_class_weights(loss, weights) if weights else loss


def _class_weights(config: Config, train: Arrays | ImageFolder) -> tuple[float, ...]:
    """How much each class counts in the loss; nothing where all count alike."""
    from jaxnet import losses

    if not (config.balanced or config.class_weights):
        return ()
    names = train.class_names or [str(number) for number in range(train.num_classes)]
    weights = losses.named_class_weights(config.class_weights, names)
    if config.balanced:
        weights *= losses.balanced_class_weights(train.labels, train.num_classes)
    return tuple(weights.tolist())


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
