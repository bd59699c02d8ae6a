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

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import Tabular, lookup_data, started
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Share, settled

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays, Table
    from jaxnet.data.scaling import Scale
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

    from jaxnet.app import cross_validation
    from jaxnet.data import Table, fit_standard, fit_table, fit_target, split
    from jaxnet.report.plots import plot_predicted
    from jaxnet.training.task import identity

    whole = read(config)
    if config.folds:
        # The labels are scaled outside of the task, which folds can share then.
        task_for = cross_validation.shared(
            lambda train: plain_task(config, train, identity),
            lambda train: (train.inputs.shape[1:], config.steps_for(len(train))),
        )
        return cross_validation.run(
            folder, config, whole, task_for, _measure_scaled, target=fit_target
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
    from jaxnet import metrics
    from jaxnet.data import fit_target
    from jaxnet.training import scaled_target

    task = plain_task(config, train, preprocess)
    task = replace(task, metrics={"mae": metrics.mean_absolute_error})
    return scaled_target(task, fit_target(train))


def plain_task(config: Config, train: Arrays, preprocess: Any) -> Supervised:
    """The task of predicting a number on the scale of 1."""
    from jaxnet import losses
    from jaxnet.models import MLP
    from jaxnet.training import Supervised

    return Supervised(
        MLP(hidden=config.network.hidden, num_classes=1, dropout=config.network.dropout),
        losses.squared_error,
        config.optimizer_for(len(train)),
        preprocess=preprocess,
    )


def _measure(model: Trained, test: Arrays) -> dict[str, Any]:
    return {**model.evaluate(test), **_errors(test.labels, model.predict(test.inputs)[:, 0])}


def _measure_scaled(model: Trained, test: Arrays, scale: Scale | None) -> dict[str, Any]:
    """The same of a network that predicts on the scale of 1, which is also that of the loss."""
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    assert scale is not None
    predicted = model.predict(test.inputs)[:, 0]
    known, units = test.labels.astype(float), scale.undo(predicted)
    return {
        "loss": float(mean_squared_error(scale(known), predicted)),
        "mae": float(mean_absolute_error(known, units)),
        **_errors(known, units),
    }


def _errors(known: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import r2_score, root_mean_squared_error

    return {
        "rmse": float(root_mean_squared_error(known, predicted)),
        "r2": float(r2_score(known, predicted)),
    }


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
