"""Train a generative adversarial network: noise in, images like those of the data out.

    python -m train.gan                                    digits
    python -m train.gan --data mnist --epochs 5 --batch-size 64 --learning-rate 2e-4 --judge train
                                                           a classifier reads all ten digits
    python -m train.gan --data fashion_mnist --model dense --epochs 20
    python -m train.gan --model wgan_gp                    a critic with a gradient penalty
    python -m train.gan --help                             all options

The run folder shows how the images become better: samples/epoch_N.png draws the same 64 points of
noise after every few epochs, interpolation.png what lies between two of them, real.png the data,
and losses.png both players. Neither loss says how good the images are; `--judge` does: a classifier
of real images, a bundle of train.classify or one that is trained first, reads what was generated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from jaxnet import app
from jaxnet.app import cli, games
from jaxnet.files import expanded
from jaxnet.options import Count, OnlyWith, Share
from jaxnet.training.early_stopping import LAST_STEP, EarlyStopping

PROGRAM = "python -m train.gan"
TRAINED = "train"


@dataclass(frozen=True)
class Network:
    """The networks' sizes."""

    latent: Count = 100
    """the size of the noise vector"""
    features: Annotated[Count | None, OnlyWith(model=("dcgan", "wgan_gp"))] = None
    """the features nearest to the image; by default 64, and 32 for one channel"""
    stages: Annotated[Count, OnlyWith(model=("dcgan", "wgan_gp"))] = 2
    """how often height and width double on the way to the image"""
    hidden: Annotated[tuple[Count, ...], OnlyWith(model="dense")] = (256, 512)
    """the width of each hidden layer of the generator; the discriminator's in reverse"""
    dropout: Annotated[Share, OnlyWith(model="dense")] = 0.3
    """the dropout rate of the discriminator"""


@dataclass(frozen=True)
class Config(app.ImageRun):
    """Train a generative adversarial network, and leave pictures of what it makes."""

    MODELS = ("dcgan", "dense", "wgan_gp")

    model: str | None = None
    """dense, dcgan or wgan_gp; by default dcgan"""
    epochs: Count = 80
    """the number of epochs"""
    batch_size: Count = 50
    """examples per training step, shared by the steps of the critic"""
    learning_rate: app.LearningRate = 5e-4
    """the learning rate of generator and discriminator"""
    judge: str | None = None
    """the folder of a classifier's run or bundle from train.classify, or 'train' to train one
    first"""
    network: Network = Network()
    rules: games.Rules = games.Rules()
    optimizer: app.Optimizer = app.Optimizer(schedule="constant", b1=0.5)
    early_stopping: EarlyStopping = LAST_STEP

    def __post_init__(self) -> None:
        super().__post_init__()
        games.check_layout(self.layout)

    def named_by(self) -> tuple[str, ...]:
        """The data, and that this is a game."""
        return ("gan", *super().named_by())

    def with_defaults(self) -> Config:
        """With its networks, and the rules that suit them."""
        config = super().with_defaults()
        return replace(config, rules=self.rules.suited(str(config.model)))


def problem(config: Config) -> app.Problem:
    """Images like those of the data, made of noise."""
    from jaxnet.data import fit_symmetric, sample

    train, valid, test, _ = config.read()
    home = app.folder_of(config) / "judge" if config.judge == TRAINED else config.judge
    judge = games.load_judge(expanded(home), train) if home else None
    scale = fit_symmetric(sample(train))
    players = games.players(str(config.model), config.network, train.inputs.shape[1:])
    task = games.game_of(config, players, train, scale)
    report = games.report_game(config, train, test, scale, judge)
    return app.Problem(task, train, valid, report, callbacks=partial(games.sampled, config))


def train_judge(config: Config, examples: int) -> int:
    """Train the classifier, unless that is done. The exit code."""
    from jaxnet.cluster import processes

    from . import classify

    home = app.folder_of(config) / "judge"
    if processes.from_first((home / "bundle" / "bundle.json").exists):
        return cli.DONE
    options = games.judge_options(config, examples)
    code = classify.train(classify.Config(**options, run_dir=home))
    # The first process writes the bundle: the others wait until it is there.
    return processes.from_first(lambda: code)


def train(config: Config) -> int:
    """Train the judge, where it is to be trained, and then the players."""
    config = app.completed(config)
    if config.judge == TRAINED and (code := train_judge(config, len(config.read().train))):
        return code
    return app.run(problem, config)


main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
