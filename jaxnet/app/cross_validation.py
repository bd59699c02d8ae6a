"""Cross-validation in a run folder.

config.toml            the resolved configuration
fold-1/summary.json    the figures of each fold, and history.csv beside it
confusion.png          the confusion matrix over all folds: each example is predicted once
summary.json           mean and spread over the folds

A fold that has its summary is done and not trained again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.app import cli, run_folder
from jaxnet.app.fitting import check_learnt, task_of
from jaxnet.app.problem import Folds
from jaxnet.app.run_options import CrossValidated
from jaxnet.app.run_report import environment, print_table, summarised
from jaxnet.files import write_json
from jaxnet.options import free_fields

if TYPE_CHECKING:
    from jaxnet.data import Arrays
    from jaxnet.data.scaling import Scale
    from jaxnet.training.task import GradientTask
    from jaxnet.training.trainer import FitResult, Trainer

# The share of what isn't in a fold's test part that early stopping watches.
VALID = 0.1


def run(folder: Path, config: CrossValidated, problem: Folds) -> int:
    """Train and test on every fold, write the run folder, and print mean and spread.

    Args:
        folder: the run folder.
        config: the configuration; `config.folds` is their number.
        problem: what to train and to measure.

    Returns:
        The exit code.

    Raises:
        InputError: the data can't be split into so many folds, or the folder can't be written.
        UsageError: the folder holds a run with another configuration or over other data.
    """
    from jaxnet.data import k_fold, split
    from jaxnet.training import fingerprints

    config.numerics.check()
    k = config.folds or 1
    pairs = k_fold(problem.data, k, seed=config.seed)
    known_by = fingerprints.of_data(problem.data)
    run_folder.open_run(
        folder,
        config,
        resume=config.resume,
        may_change=free_fields(type(config)),
        fingerprints=known_by,
    )
    files = [folder / f"fold-{number}" / "summary.json" for number in range(1, k + 1)]
    if not config.resume:
        for file in files:
            file.unlink(missing_ok=True)
    trainers, task_for = _Trainers(config), shared(config, problem)
    for number, (file, (rest, test)) in enumerate(zip(files, pairs, strict=True), start=1):
        if file.exists():
            continue
        train, valid = split(rest, (1 - VALID, VALID), seed=config.seed)
        prepare = (problem.prepare or prepared)(train)
        learnt = prepare(train)
        scale = problem.target(learnt) if problem.target else None
        trainer = trainers.of(task_for(learnt), learnt)
        parts = _scaled(learnt, scale), _scaled(prepare(valid), scale)
        result = _fit(config, trainer, *parts, f"fold {number}/{k}")
        if result.stop_reason == "preempted":
            print(f"preempted in fold {number}: run the same command again to go on")
            return cli.PREEMPTED
        result.history.write_csv(file.parent / "history.csv")
        check_learnt(result, config)
        tested = prepare(test)
        model, measure = result.model, problem.measure
        figures = measure(model, tested, scale) if measure else model.evaluate(tested)
        _write(file, result, figures, len(test))
    summaries = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    _finish(folder, summaries, problem.data.class_names, trainers.compiles)
    return cli.DONE


def _scaled(part: Arrays, scale: Scale | None) -> Arrays:
    """A part whose labels are on a scale of 1, outside of the programs: folds share these."""
    return part if scale is None else dataclasses.replace(part, labels=scale(part.labels))


def shared(config: CrossValidated, problem: Folds) -> Callable[[Arrays], GradientTask]:
    """The task of a training part: one for all that agree in what it takes from them."""
    tasks: dict[Hashable, GradientTask] = {}

    def task_for(train: Arrays) -> GradientTask:
        steps = config.steps_for(len(train))
        key = train.inputs.shape[1:], steps, problem.fitted(train)
        if key not in tasks:
            tasks[key] = problem.task(train)
        return tasks[key]

    return task_for


def prepared(train: Any) -> Callable[[Any], Arrays]:
    """What makes scaled inputs, without gaps, of any part of the data: fitted on this one.

    Args:
        train: the training part, `Arrays` or a `Table`.
    """
    from jaxnet.data import Arrays, fit_standard, fit_table

    if not isinstance(train, Arrays):
        return fit_table(train).arrays
    scale = fit_standard(train, per_feature=train.inputs.ndim == 2)
    return lambda part: dataclasses.replace(part, inputs=scale(part.inputs))


@dataclasses.dataclass(frozen=True)
class _Trainers:
    """One trainer, and so one set of compiled programs, for each task and size of its data."""

    config: CrossValidated
    made: dict[tuple[int, int], tuple[GradientTask, Trainer]] = dataclasses.field(
        default_factory=dict
    )

    def of(self, task: GradientTask, train: Arrays) -> Trainer:
        from jaxnet.data.pipeline.epochs import rounded_up
        from jaxnet.training import Trainer

        # Folds differ by a few rows; a program serves all that are rounded up to the same size.
        key = id(task), rounded_up(len(train))
        if key not in self.made:
            trainer = Trainer(
                task_of(self.config, task),
                early_stopping=self.config.early_stopping,
                progress=self.config.progress,
                eval_batch_size=self.config.eval_batch_size,
                layout=self.config.layout.build(task),
            )
            self.made[key] = task, trainer
        return self.made[key][1]

    @property
    def compiles(self) -> int:
        return sum(trainer.programs.compiles.total for _, trainer in self.made.values())


def _fit(
    config: CrossValidated, trainer: Trainer, train: Arrays, valid: Arrays, name: str
) -> FitResult:
    return trainer.fit(
        train,
        valid,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        name=name,
    )


def _write(file: Path, result: FitResult, test: Mapping[str, Any], examples: int) -> None:
    values = summarised(result, test)
    values["examples"] = examples
    if "confusion" in test:
        values["confusion"] = np.asarray(test["confusion"]).tolist()
    write_json(file, values)


def _finish(
    folder: Path,
    summaries: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] | None,
    compiles: int,
) -> None:
    from jaxnet.report.predictions import plot_confusion

    figures: dict[str, Any] = {"folds": len(summaries)}
    shown = {"folds": str(len(summaries))}
    for name in summaries[0]:
        if name.startswith("test_"):
            values = np.array([summary[name] for summary in summaries])
            # The spread of what was measured: n - 1, as for any sample.
            mean, deviation = float(values.mean()), float(values.std(ddof=1))
            figures |= {name: mean, f"{name}_std": deviation, f"{name}_folds": values.tolist()}
            shown[name] = f"{mean:.4f} ± {deviation:.4f}"
    figures["seconds"] = round(sum(summary["seconds"] for summary in summaries), 3)
    figures["compiles"] = compiles
    if "confusion" in summaries[0]:
        confusion = np.sum([summary["confusion"] for summary in summaries], axis=0)
        names = class_names or [str(i) for i in range(len(confusion))]
        plot_confusion(confusion, names, folder / "confusion.png", run_folder.title(folder))
        figures["confusion"] = confusion.tolist()
    write_json(folder / "summary.json", {**figures, **environment()})
    shown |= {name: f"{figures[name]}" for name in ("seconds", "compiles")}
    print_table({**shown, "results": str(folder)})
