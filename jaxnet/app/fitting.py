"""Training as configured, in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Problem
from jaxnet.app.run_folder import changeable, open_run
from jaxnet.app.run_options import Run
from jaxnet.app.run_report import preview
from jaxnet.app.technique_options import Augment
from jaxnet.errors import NonFiniteError

if TYPE_CHECKING:
    from jaxnet.training.task import Task
    from jaxnet.training.trainer import FitResult

# Reasons to stop that leave no network where no evaluation was finite before.
DIVERGED = ("nonfinite", "nonfinite_metric", "diverged")


def fit(folder: Path, config: Run, problem: Problem) -> FitResult | None:
    """Train in a run folder as configured, or resume it.

    Args:
        folder: the run folder.
        config: the configuration.
        problem: what to train.

    Returns:
        The result, or None where the run was asked to end: all is saved, and the same call goes on.

    Raises:
        InputError: the folder can't be written, or the data isn't for this task.
        UsageError: the folder holds a run with another configuration.
        NonFiniteError: training diverged before anything was learnt.
    """
    from jaxnet.training import Checkpoints, RunWriter, Trainer

    config.numerics.check()
    task = task_of(config, problem.task, problem.augment)
    trainer = Trainer(
        task,
        early_stopping=config.early_stopping,
        checkpoints=Checkpoints(folder / "checkpoints", **config.checkpoints.options()),
        callbacks=[RunWriter(folder), *problem.callbacks(folder, task)],
        progress=config.progress,
        eval_batch_size=config.eval_batch_size,
        layout=config.layout.build(problem.task),
    )
    open_run(folder, config, resume=config.resume, may_change=changeable(config))
    preview(folder, problem.augment.functions(), problem.train, config.seed)
    result = trainer.fit(
        problem.train,
        problem.valid,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        resume=config.resume,
        mappings={"encoder": problem.encoder, **problem.mappings},
    )
    if result.stop_reason == "preempted":
        print(f"preempted at step {result.last_step}: run the same command again to go on")
        return None
    check_learnt(result, config)
    return result


def task_of(config: Run, task: Task[Any], augment: Augment = Augment()) -> Task[Any]:  # noqa: B008
    """The task with all that the configuration does to it."""
    return config.techniques.apply(config.optimizer.apply(augment.apply(task)))


def check_learnt(result: FitResult, config: Run) -> None:
    """Refuse to report on a run that never had a finite evaluation.

    Raises:
        NonFiniteError: training diverged before anything was learnt.
    """
    if result.best is not None or result.stop_reason not in DIVERGED:
        return
    lower = (
        ""
        if config.optimizer.name == "lbfgs"
        else (f" Take a lower --learning-rate than {config.learning_rate:g}.")
    )
    raise NonFiniteError(
        f"training diverged by step {result.last_step}, before any evaluation was finite "
        f"({result.stop_reason}): there is no network to report on.{lower}"
    )
