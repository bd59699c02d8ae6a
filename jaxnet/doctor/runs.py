"""The training step of a run, made again from its folder, compiled and op by op."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.config import from_toml
from jaxnet.app.entrypoint import completed
from jaxnet.app.problem import Problem
from jaxnet.app.run_options import Run
from jaxnet.doctor.findings import Finding
from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    from jaxnet.doctor.step import Stage


def check(run: Path, program: str | None = None) -> Finding:
    """Compare the training step of a run, compiled and op by op, on one of its batches.

    It takes the weights of the newest checkpoint, or the initial ones, and one device. Nothing is
    written into the run.

    Args:
        run: the run folder.
        program: the entrypoint that trained it, such as `"train.classify"`; by default the one that
            its `run.json` names.

    Raises:
        InputError: the data or the checkpoint can't be read, or the program isn't here.
        UsageError: the folder holds no run, or doesn't say which program trained it.
    """
    from jaxnet.doctor.step import compare

    program = program or program_that_trained(run)
    task, state, batch, step = _prepared(run, *posed(run, program))
    what = f"{run} ({program}, step {step}, a batch of {len(batch['mask'])})"
    return judged(what, compare(task, state, batch))


def judged(what: str, stages: Sequence[Stage]) -> Finding:
    """What to think of a step.

    Args:
        what: which step it is.
        stages: what `step.compare` found.
    """
    wrong = [stage for stage in stages if stage.differs]
    if wrong:
        first, more = wrong[0], f", and {len(wrong) - 1} later parts" if len(wrong) > 1 else ""
        return Finding(
            "training step",
            "problem",
            f"{what}: compiled and op by op differ first in {first.name}, by {first.apart:.1e} of "
            f"its largest value (up to {first.tolerance:.1e} is rounding){more}",
            "`jaxnet doctor` tries the arithmetic of this machine, and says which version to "
            "install; JAX_DISABLE_JIT=1 computes op by op, many times slower",
        )
    largest = max(stages, key=lambda stage: stage.apart / stage.tolerance)
    return Finding(
        "training step",
        "ok",
        f"{what}: compiled and op by op agree in {len(stages)} layers, gradients and updates; the "
        f"largest difference is {largest.apart:.1e} of the largest value, in {largest.name} (up to "
        f"{largest.tolerance:.1e} is rounding)",
    )


def program_that_trained(run: Path) -> str:
    """The entrypoint that a run folder names.

    Raises:
        UsageError: it names none.
    """
    from jaxnet.app.run_folder import RECORD

    if not (run / "config.toml").is_file():
        raise UsageError(f"{run} holds no run: expected a folder with config.toml")
    try:
        program = json.loads((run / RECORD).read_text(encoding="utf-8")).get("program")
    except (OSError, ValueError):
        program = None
    if program is None:
        raise UsageError(
            f"{run} doesn't say which program trained it, as runs of a script or from before this "
            "version: add --program train.classify, or whichever it was"
        )
    return program


def posed(run: Path, program: str) -> tuple[Run, Problem]:
    """The configuration of a run folder, and the problem that a program trains with it."""
    # Ours are found wherever jaxnet is installed; a package `train` may be somebody else's too.
    ours = f"jaxnet.{program}"
    known = program.startswith("train.") and importlib.util.find_spec(ours) is not None
    try:
        module = importlib.import_module(ours if known else program)
    except ImportError as error:
        raise InputError(
            f"{run} was trained by {program}, which can't be imported here: {error}. Run doctor "
            f"where `python -m {program}` runs"
        ) from error
    if not hasattr(module, "problem"):
        raise InputError(f"{program} has no function `problem`, which says what it trains")
    config = from_toml(module.Config, run / "config.toml")
    config.numerics.start()
    # A network that is trained over folds is the same on one split.
    if any(field.name == "folds" for field in fields(config)):
        config = replace(config, folds=None)
    with redirect_stdout(io.StringIO()):
        config = completed(replace(config, run_dir=run))
        return config, module.problem(config)


def _prepared(run: Path, config: Run, problem: Problem) -> tuple[Any, Any, Any, int]:
    """The task, a state of the run, one of its batches, and the step of that state."""
    import jax

    from jaxnet.app.fitting import task_of
    from jaxnet.data.pipeline.epochs import pipeline
    from jaxnet.training.checkpoints import CheckpointStore
    from jaxnet.training.programs import Programs

    programs = Programs(task_of(config, problem.task, problem.augment))
    train = pipeline(problem.train, config.batch_size, shuffle=True, capacity=1)
    chunks = train.chunks(config.seed, 0, 0, lambda position: 1)
    feed, _ = next(iter(chunks))
    batch = feed.batch(0)
    key = jax.random.key(config.seed)
    folder = run / problem.stage / "checkpoints"
    restored = None
    if folder.is_dir():
        store = CheckpointStore(folder.absolute(), keep=1)
        restored = store.restore("last", programs.state(key, batch))
        store.close()
    state = programs.init(key, batch) if restored is None else restored.state
    return programs.task, state, batch, 0 if restored is None else restored.step
