"""A run of an entrypoint, from its command line to what stands in the run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.fitting import fit
from jaxnet.app.problem import Folds, Problem
from jaxnet.app.run_options import Configured, CrossValidated, Run, started
from jaxnet.app.run_report import write_report
from jaxnet.options import settled

if TYPE_CHECKING:
    from jaxnet.training.trainer import FitResult

C = TypeVar("C", bound=Run)


def run(problem_of: Callable[[C], Problem | Folds], config: C) -> int:
    """Train as configured, test, and write a run folder, or resume one.

    Args:
        problem_of: the problem of a complete configuration. It reads the data, and is called when
            the options have been checked.
        config: the configuration; what it leaves open is filled in.

    Returns:
        The exit code: `cli.PREEMPTED` where the run was asked to end.

    Raises:
        UsageError: an unknown name, an option that nothing reads, or a run folder that holds
            another run.
        InputError: the data can't be read, or isn't for this task.
    """
    config = completed(config)
    problem = problem_of(config)
    if isinstance(problem, Folds):
        from jaxnet.app import cross_validation

        assert isinstance(config, CrossValidated)
        return cross_validation.run(folder_of(config), config, problem)
    return cli.PREEMPTED if fit_and_report(config, problem) is None else cli.DONE


def completed(config: C) -> C:
    """The configuration with names checked, and with its defaults and its run folder filled in.

    Raises:
        UsageError: a name is unknown, an option isn't read by what was chosen, or the data's file
            isn't there.
    """
    config = settled(config.with_defaults())
    return replace(config, run_dir=run_folder.located(config, config.variant))


def folder_of(config: Run) -> Path:
    """The run folder of a complete configuration."""
    assert config.run_dir is not None
    return config.run_dir


def fit_and_report(config: Run, problem: Problem) -> FitResult | None:
    """Train, test, and write pictures, bundle and summary; None where the run was asked to end.

    Args:
        config: a complete configuration.
        problem: what to train.
    """
    folder = folder_of(config) / problem.stage
    result = fit(folder, config, problem)
    if result is not None:
        tested = problem.report(folder, result)
        write_report(folder, result, tested, problem.class_names, problem.encoder)
    return result


def command(
    config_type: type[Configured], train: Callable[[Configured], int], program: str
) -> Callable[[], int]:
    """The `main` of an entrypoint: it reads the command line and trains.

    Args:
        config_type: the class of the configuration.
        train: trains as configured; the exit code.
        program: how the command is called.

    Returns:
        `main() -> exit code`, of the words of this process.
    """

    def main() -> int:
        words = sys.argv[1:]
        return cli.run(lambda: train(started(from_command_line(config_type, words, program))))

    return main
