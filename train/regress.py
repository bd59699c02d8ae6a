"""Predict a number from the columns of a table.

    python -m train.regress                                              diabetes: R2 0.50
    python -m train.regress --folds 10                                   over ten folds
    python -m train.regress --data csv --data-dir FILE --target COLUMN   a table of your own
    python -m train.regress --help                                       all options

Diabetes are the 442 patients that come with scikit-learn, so the first command needs no download.
A run killed at any moment goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet import cli, run_folder
from jaxnet.command_line import from_command_line
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Share, settled
from jaxnet.recipe import Tabular, lookup_data, started

if TYPE_CHECKING:
    from jaxnet.data import Arrays, Table
    from jaxnet.training import Supervised, Trained

PROGRAM = "python -m train.regress"
# Of training, validation and test data.
SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class Network:
    """The network's size."""

    hidden: tuple[Count, ...] = (64, 32)
    """the width of each hidden layer"""
    dropout: Share = 0.1
    """the share of hidden units left out in training"""


@dataclass(frozen=True)
class Config(Tabular):
    """Train a network that predicts a number, and leave a run folder with pictures and the network.

    It learns on the scale of the training part's mean and deviation, and predicts in the target's
    own units.
    """

    data: str = "diabetes"
    """diabetes, or csv for a table of your own (Parquet too)"""
    data_dir: Annotated[Path | None, OnlyWith(data="csv")] = None
    """the table's file"""
    model: str | None = None
    """mlp"""
    network: Network = Network()


def _diabetes(config: Config) -> Arrays:
    from jaxnet.data import load_diabetes

    return load_diabetes()


DATA: Mapping[str, Callable[[Config], Arrays | Table]] = {
    "diabetes": _diabetes,
    "csv": lambda config: config.table.read(config.data_dir, config.target, "number"),
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    read = lookup_data(config.data, DATA)
    name = config.model or "mlp"
    lookup(name, {"mlp": None}, "model")
    config = settled(replace(config, model=name))
    folder = run_folder.located(config, name)
    config = replace(config, run_dir=folder)

    from jaxnet import cross_validation
    from jaxnet.data import Table, fit_standard, fit_table, split
    from jaxnet.training.plots import plot_predicted
    from jaxnet.training.task import identity

    whole = read(config)
    if config.folds:
        return cross_validation.run(
            folder, config, whole, lambda train: build_task(config, train, identity), _measure
        )
    encoder, preprocess = None, identity
    if isinstance(whole, Table):
        parts = split(whole, SHARES, seed=config.seed)
        encoder = fit_table(parts[0])
        train, valid, test = map(encoder.arrays, parts)
    else:
        train, valid, test = split(whole, SHARES, seed=config.seed)
        preprocess = fit_standard(train, per_feature=True)
    task = build_task(config, train, preprocess)
    result = fit(folder, config, task, train, valid, encoder=encoder)
    if result is None:
        return cli.PREEMPTED
    predicted = result.model.predict(test.inputs)[:, 0]
    plot_predicted(
        test.labels,
        predicted,
        folder / "predicted.png",
        config.target or "disease progression",
        run_folder.title(folder),
    )
    run_folder.finish(folder, result, _measure(result.model, test), encoder=encoder)
    return cli.DONE


def build_task(config: Config, train: Arrays, preprocess: Any) -> Supervised:
    """The task of predicting a number in its own units."""
    from jaxnet import losses, metrics
    from jaxnet.data import fit_target
    from jaxnet.training import Supervised, scaled_target
    from models import MLP

    task = Supervised(
        MLP(hidden=config.network.hidden, num_classes=1, dropout=config.network.dropout),
        losses.squared_error,
        config.optimizer_for(len(train)),
        metrics={"mae": metrics.mean_absolute_error},
        preprocess=preprocess,
    )
    return scaled_target(task, fit_target(train))


def _measure(model: Trained, test: Arrays) -> dict[str, Any]:
    from sklearn.metrics import r2_score, root_mean_squared_error

    predicted = model.predict(test.inputs)[:, 0]
    return {
        **model.evaluate(test),
        "rmse": float(root_mean_squared_error(test.labels, predicted)),
        "r2": float(r2_score(test.labels, predicted)),
    }


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
