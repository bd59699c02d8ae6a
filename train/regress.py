"""Predict a number from the columns of a table.

    python -m train.regress                                              diabetes: R2 0.50
    python -m train.regress --folds 10                                   over ten folds
    python -m train.regress --data csv --data-dir FILE --target COLUMN   a table of your own
    python -m train.regress ... --test-data FILE                         tested on another file
    python -m train.regress ... --split-by-time COLUMN                   tested on the newest rows
    python -m train.regress ... --split-by-group COLUMN                  tested on other groups
    python -m train.regress --help                                       all options

Diabetes are the 442 patients that come with scikit-learn, so the first command needs no download.
A run killed at any moment goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet import app
from jaxnet.options import Count, OnlyWith, Share

if TYPE_CHECKING:
    from jaxnet.data import Arrays
    from jaxnet.training import Supervised

PROGRAM = "python -m train.regress"


@dataclass(frozen=True)
class Network:
    """The network's size."""

    hidden: tuple[Count, ...] = (64, 32)
    """the width of each hidden layer"""
    dropout: Share = 0.1
    """the dropout rate of hidden layers"""


@dataclass(frozen=True)
class Config(app.Tabular):
    """Train a network that predicts a number, and leave a run folder with pictures and the network.

    It learns on the scale of the training part's mean and deviation, and predicts in the target's
    own units.
    """

    DATA, MODELS = app.NUMBER_TABLES, ("mlp",)

    data: str = "diabetes"
    """diabetes, or csv for a table of your own (Parquet too)"""
    data_dir: Annotated[Path | None, OnlyWith(data="csv")] = None
    """the table's file"""
    model: str | None = None
    """mlp"""
    network: Network = Network()


def problem(config: Config) -> app.Problem | app.Folds:
    """A number, from the columns of a table."""
    from jaxnet.data import Table, fit_standard, fit_target, split

    whole = app.NUMBER_TABLES[config.data](config)
    if config.folds:
        # The labels are scaled outside of the task, which folds can share then.
        task = partial(plain_task, config)
        return app.Folds(whole, task, measure=app.measure_scaled, target=fit_target)
    if isinstance(whole, Table):
        (train, valid, test), encoder = app.encoded_parts(whole, config)
        task = build_task(config, train)
    else:
        (train, valid, test), encoder = split(whole, app.SHARES, seed=config.seed), None
        task = build_task(config, train, fit_standard(train, per_feature=True))
    report = app.report_numbers(test, config.target or "disease progression")
    return app.Problem(task, train, valid, report, encoder=encoder)


def build_task(config: Config, train: Arrays, preprocess: Any = None) -> Supervised:
    """The task of predicting a number in its own units."""
    from jaxnet import metrics
    from jaxnet.data import fit_target
    from jaxnet.training import scaled_target

    task = plain_task(config, train, preprocess)
    task = replace(task, metrics={"mae": metrics.mean_absolute_error})
    return scaled_target(task, fit_target(train))


def plain_task(config: Config, train: Arrays, preprocess: Any = None) -> Supervised:
    """The task of predicting a number on the scale of 1."""
    from jaxnet import losses
    from jaxnet.models import MLP
    from jaxnet.training import Supervised
    from jaxnet.training.task import identity

    return Supervised(
        MLP(num_classes=1, **app.given(config)),
        losses.squared_error,
        config.optimizer_for(len(train)),
        preprocess=preprocess or identity,
    )


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
