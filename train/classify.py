"""Train a classifier on images or tables.

    python -m train.classify                               digits: 98.9 % in 15 seconds
    python -m train.classify --data mnist                  MNIST, downloaded the first time
    python -m train.classify --data cifar10 --data-dir DIR CIFAR-10 from the files in DIR
    python -m train.classify --data cifar10 --data-dir DIR --model resnet20
    python -m train.classify --data folder --data-dir DIR  images in DIR/CLASS or DIR/train/CLASS
    python -m train.classify --data titanic --data-dir FILE --folds 5     81.6 %
    python -m train.classify --data csv --data-dir FILE --target COLUMN   a table of your own
        ... --test-data FILE, --split-by-time COLUMN or --split-by-group COLUMN
    python -m train.classify --help                        all options

Digits are the 1,797 real 8x8 scans that come with scikit-learn, so the first command needs no
download. A run killed at any moment goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet import app
from jaxnet.app.image_networks import MODELS, Network, build
from jaxnet.errors import UsageError
from jaxnet.options import OnlyWith, OtherThan

if TYPE_CHECKING:
    from jaxnet.data import Arrays, ImageFolder, Table
    from jaxnet.data.images.by_name import ImageParts
    from jaxnet.training.task import GradientTask

PROGRAM = "python -m train.classify"
# Images in parts, or a table that is cut into parts.
DATA: Mapping[str, Callable[[Any], ImageParts | Table]] = {
    **dict.fromkeys(app.IMAGES, app.read_images),
    **app.CLASS_TABLES,
}


@dataclass(frozen=True)
class Config(app.Tabular):
    """Train a classifier, and leave a run folder with pictures, checkpoints and the network."""

    DATA, MODELS = DATA, MODELS

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, titanic, folder for images of your own in a
    sub-folder for each class (perhaps below train/, valid/ and test/), or csv for a table of your
    own (Parquet too)"""
    data_dir: Annotated[Path | None, OnlyWith(data=(*app.IMAGE_FILES, *app.CLASS_TABLES))] = None
    """the folder of the data's files, or the table's file; by default what JAXNET_DATA_DIR holds,
    or else the original images are downloaded"""
    image_size: app.ImageSize = None
    """height and width to which images are resized, if they aren't all of one size"""
    folds: Annotated[app.FoldCount | None, OnlyWith(data=OtherThan("folder"))] = None
    """k-fold cross-validation with this k, instead of one split into training and test data"""
    model: str | None = None
    """cnn, mlp, lenet5, alexnet, vgg11, vgg13, vgg16, vgg19 (vgg11_bn and so on with batch norm),
    googlenet, resnet18, resnet34, resnet50, resnet101, resnet152, and for small images resnet20,
    resnet32, resnet44, resnet56, and vit_s, vit_b, vit_l; by default cnn for images and mlp for
    tables"""
    metrics: tuple[str, ...] = ()
    """further metrics of evaluation, such as f1, matthews_correlation or roc_auc"""
    balanced: bool = False
    """balance the loss by the inverse frequency of the classes"""
    class_weights: dict[str, float] = field(default_factory=dict)
    """weights of classes in the loss: 'survived' 2; others 1; with --balanced a factor on it"""
    network: Network = Network()
    augment: Annotated[app.Augment, OnlyWith(data=app.IMAGES)] = app.Augment()

    def with_defaults(self) -> Config:
        """With the network and the augmentation that suit the data."""
        table = self.data in app.CLASS_TABLES
        if table and self.model in MODELS and self.model != "mlp":
            raise UsageError(
                f"--model {self.model} is for images; a table needs mlp, which is the default"
            )
        usual = app.Augment(flip=True, crop=4) if self.data == "cifar10" else None
        augment, model = self.augment.suited(usual), self.model or ("mlp" if table else "cnn")
        return super(Config, replace(self, model=model, augment=augment)).with_defaults()


def problem(config: Config) -> app.Problem | app.Folds:
    """The class of an image, or of a row of a table."""
    from jaxnet.data import check_classes, fit_standard, sample

    data, encoder = DATA[config.data](config), None
    if isinstance(data, tuple):
        train, valid, test, whole = data
    else:
        ((train, valid, test), encoder), whole = app.encoded_parts(data, config), data
    check_classes(train.labels, train.num_classes, train.name)
    if config.folds and whole is not None:
        return app.Folds(
            whole,
            task=lambda train: config.augment.apply(task_for(config, train)),
            fitted=lambda train: app.class_weights(train, config.class_weights, config.balanced),
        )
    return app.Problem(
        task_for(config, train, None if encoder else fit_standard(sample(train))),
        train,
        valid,
        report=app.tested_on(test),
        augment=config.augment,
        encoder=encoder,
        class_names=test.class_names,
    )


def task_for(config: Config, train: Arrays | ImageFolder, preprocess: Any = None) -> GradientTask:
    """The network and its loss."""
    return app.classifier(
        build(config, train),
        config.optimizer_for(len(train)),
        train.num_classes,
        weights=app.class_weights(train, config.class_weights, config.balanced),
        measured=config.metrics,
        preprocess=preprocess,
    )


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
