"""A run that was interrupted comes to the same bits as one that wasn't.

Within the process, a callback raises an exception that nothing catches; the `slow` tests kill real
processes.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxnet import optimizers
from jaxnet.data import augmentation
from jaxnet.errors import CheckpointError, UsageError
from jaxnet.metrics import Mean
from jaxnet.training import (
    Callback,
    Checkpoints,
    EarlyStopping,
    RunWriter,
    Trainer,
    accumulate,
    augment,
    guard_nonfinite,
    with_ema,
)
from jaxnet.training.checkpoints import read_arrays
from tests.networks import Dense
from tests.training.helpers import MLP, ConvNet, bits, classifier, images, saved_steps, table
from tests.training.processes import finished, finished_here, result_of, start

pytestmark = pytest.mark.usefixtures("shared_programs")

EXAMPLES, BATCH, EPOCHS = 30, 4, 2
STEPS = 8  # an epoch; the last batch is half empty


class Interrupted(BaseException):
    """What no code should catch."""


@dataclass
class Interrupts(Callback):
    """Ends the run with an exception at the first chunk that reaches each step, or epoch."""

    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def on_chunk(self, step: int, loss: float | None) -> None:
        if self.steps and step >= self.steps[0]:
            del self.steps[0]
            raise Interrupted

    def on_epoch(self, row: Any, trained: Any) -> None:
        if row["epoch"] in self.epochs:
            self.epochs.remove(row["epoch"])
            raise Interrupted


class Regularised(nn.Module):
    """Dropout and running statistics: randomness and a collection to carry on."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.BatchNorm(use_running_average=not train)(Dense(8)(inputs))
        hidden = nn.Dropout(0.5, deterministic=not train)(nn.tanh(hidden))
        return Dense(3)(hidden)


@dataclass(frozen=True)
class Case:
    """A way to train."""

    task: Any
    data: Callable[..., tuple[np.ndarray, np.ndarray]] = table
    every_steps: int | None = 3
    keep: int = 2
    min_seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = EPOCHS

    def trainer(self, folder: Path, interrupts: Interrupts) -> Trainer:
        checkpoints = Checkpoints(folder, self.keep, self.every_steps, self.min_seconds)
        return Trainer(
            self.task,
            checkpoints=checkpoints,
            callbacks=[interrupts],
            **{"steps_per_dispatch": 2, **self.options},
        )

    def fit(self, trainer: Trainer, epochs: int | None = None) -> Any:
        valid = self.data(12, seed=1)
        return trainer.fit(
            self.data(EXAMPLES), valid, epochs=epochs or self.epochs, batch_size=BATCH, seed=3
        )


@dataclass(frozen=True)
class Outcome:
    """All that has to be the same."""

    best_state: dict[str, Any]
    last_state: dict[str, bytes]
    last_step: int
    rows: tuple[Any, ...]
    stop_reason: str
    best_step: int
    best: float


def _outcome(result: Any, folder: Path) -> Outcome:
    last = read_arrays(folder, result.last_step)
    return Outcome(
        bits(result.state),
        {path: leaf.tobytes() for path, leaf in last.items()},
        result.last_step,
        result.history.rows,
        result.stop_reason,
        result.best_step,
        result.best,
    )


def _interrupted(case: Case, trainer: Trainer, interrupts: Interrupts, at: Sequence[int]) -> Any:
    """The result of a run that is interrupted at these steps and goes on each time."""
    interrupts.steps = list(at)
    while interrupts.steps:
        with pytest.raises(Interrupted):
            case.fit(trainer)
    return case.fit(trainer)


DECAYING = optimizers.by_name("adamw", optimizers.schedule("cosine", 0.1, EPOCHS * STEPS))
CASES = {
    "dropout, batch norm, decaying rate": Case(classifier(Regularised(), DECAYING)),
    "convolution": Case(classifier(ConvNet()), images),
    "accumulate, ema, guard": Case(
        guard_nonfinite(with_ema(accumulate(classifier(), 2), 0.9), "skip"),
    ),
    "augmentation": Case(
        augment(
            classifier(ConvNet()),
            augmentation.crop(1),
            augmentation.flip_left_right(),
            augmentation.mixup(),
        ),
        images,
    ),
    "data on the host": Case(classifier(Regularised(), DECAYING), options={"placement": "host"}),
}
REGULARISED = CASES["dropout, batch norm, decaying rate"]
QUICK = "dropout, batch norm, decaying rate", "data on the host"  # they share their programs


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_interrupted_runs_come_to_the_same_bits(name, tmp_path):
    case, interrupts = CASES[name], Interrupts()
    trainer = case.trainer(tmp_path / "run", interrupts)
    expected = _outcome(case.fit(trainer), tmp_path / "run")
    assert expected.last_step == EPOCHS * STEPS
    moments = random.Random(name)
    for stops in (1, 3):
        at = sorted(moments.sample(range(1, EPOCHS * STEPS), stops))
        shutil.rmtree(tmp_path / "run")
        result = _interrupted(case, trainer, interrupts, at)
        assert _outcome(result, tmp_path / "run") == expected, at


@pytest.mark.slow
def test_twice_in_one_epoch_with_new_trainers(tmp_path):
    case = replace(REGULARISED, every_steps=1)
    interrupts = Interrupts()
    whole = case.trainer(tmp_path / "whole", interrupts)
    expected = _outcome(case.fit(whole), tmp_path / "whole")
    for at in (10, 13):
        interrupts.steps = [at]
        with pytest.raises(Interrupted):
            case.fit(case.trainer(tmp_path / "run", interrupts))
        newest = saved_steps(tmp_path / "run")[-1]
        assert STEPS < newest <= at + 2
    result = case.fit(case.trainer(tmp_path / "run", interrupts))
    assert _outcome(result, tmp_path / "run") == expected


def test_what_a_callback_raises_loses_no_epoch(tmp_path):
    case, interrupts = replace(REGULARISED, every_steps=None), Interrupts(epochs=[1])
    with pytest.raises(Interrupted):
        case.fit(case.trainer(tmp_path, interrupts))
    assert saved_steps(tmp_path) == [STEPS]


def test_an_epoch_is_not_done_before_callbacks_have_written_of_it(tmp_path):
    """So that a run that is killed in between hears of the epoch again."""
    seen = []

    class Looks(Callback):
        def on_epoch(self, row: Any, trained: Any) -> None:
            # One may be being saved still, under another name.
            seen.append([entry.name.partition(".")[0] for entry in tmp_path.iterdir()])

    case = replace(REGULARISED, every_steps=None, epochs=3, keep=5)
    trainer = case.trainer(tmp_path, Interrupts())
    case.fit(replace(trainer, callbacks=[Looks()]))
    steps = [n * STEPS for n in (1, 2, 3)]
    assert all(str(step) not in saved for step, saved in zip(steps, seen, strict=True))
    assert saved_steps(tmp_path) == steps


@pytest.mark.slow
def test_a_metric_that_was_nan_keeps_nobody_from_going_on(tmp_path):
    def nan(outputs, labels, weights):
        return Mean(weights.sum() * np.nan, weights.sum())

    def trainer() -> Trainer:
        return Trainer(
            classifier(metrics={"odd": nan}),
            checkpoints=Checkpoints(tmp_path / "checkpoints"),
            callbacks=[RunWriter(tmp_path)],
        )

    trainer().fit(table(20), epochs=1)
    trainer().fit(table(20), epochs=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["odd"] for line in lines] == [None, None]


@pytest.mark.slow
def test_other_metrics_cant_go_on_within_an_epoch(tmp_path):
    def trainer(**options: Any) -> Trainer:
        return Trainer(classifier(**options), checkpoints=Checkpoints(tmp_path, every_steps=2))

    run = trainer().fit(table(30), steps=3, batch_size=5)
    assert run.last_step == 3
    with pytest.raises(UsageError, match="accuracy/count, accuracy/total were measured only"):
        trainer(metrics={}).fit(table(30), epochs=1, batch_size=5)
    assert trainer().fit(table(30), epochs=1, batch_size=5).last_step == 6


@pytest.mark.slow
def test_saving_changes_nothing(tmp_path):
    case = REGULARISED
    trainer = case.trainer(tmp_path, Interrupts())
    saved = case.fit(trainer)
    free = case.fit(replace(trainer, checkpoints=None, steps_per_dispatch=5))
    assert bits(free.state) == bits(saved.state)
    assert free.history == saved.history


OVERFITTING = classifier(MLP(hidden=16), optimizers.by_name("adam", 0.003))


def _overfitting() -> Case:
    """Validation gets worse soon, so that early stopping waits and then stops."""

    def noise(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 3, n)

    return Case(
        OVERFITTING,
        noise,
        every_steps=None,
        keep=1,
        options={"early_stopping": EarlyStopping(patience=3)},
        epochs=50,
    )


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path, Outcome]:
    """A case, the folder of its uninterrupted run, which stopped early, and the outcome."""
    case, folder = _overfitting(), tmp_path_factory.mktemp("overfitted") / "run"
    expected = _outcome(case.fit(case.trainer(folder, Interrupts())), folder)
    assert expected.stop_reason == "early_stopping"
    assert STEPS < expected.best_step == expected.last_step - 3 * STEPS
    return case, folder, expected


@pytest.fixture
def overfitted(stopped_early: Any, tmp_path: Path) -> tuple[Case, Trainer, Interrupts, Outcome]:
    """An uninterrupted run that stopped early, well after its best step, in a folder of its own."""
    case, folder, expected = stopped_early
    shutil.copytree(folder, tmp_path / "run")
    interrupts = Interrupts()
    return case, case.trainer(tmp_path / "run", interrupts), interrupts, expected


@pytest.mark.slow
def test_patience_goes_on_counting_and_the_best_comes_from_disk(overfitted, tmp_path):
    case, trainer, interrupts, expected = overfitted
    best = expected.best_step
    for at in ([best + STEPS + 2], [best - 1, best + 1, best + STEPS + 1]):
        shutil.rmtree(tmp_path / "run")
        assert _outcome(_interrupted(case, trainer, interrupts, at), tmp_path / "run") == expected


@pytest.mark.slow
def test_epochs_that_were_too_short_to_save_come_to_the_same_bits(overfitted, tmp_path):
    """Saved is now and then a step within an epoch, and the best one before any later one."""
    case, _, interrupts, expected = overfitted
    best = expected.best_step
    rare = replace(case, min_seconds=1e9, every_steps=STEPS + 1)
    trainer = rare.trainer(tmp_path / "rare", interrupts)
    assert _outcome(rare.fit(trainer), tmp_path / "rare") == expected
    for at in ([best + 1], [best - 1, best + STEPS + 2]):
        shutil.rmtree(tmp_path / "rare")
        result = _interrupted(rare, trainer, interrupts, at)
        assert _outcome(result, tmp_path / "rare") == expected
        assert saved_steps(tmp_path / "rare") == [best, expected.last_step]


def test_a_run_without_a_save_in_between_saves_its_end_and_its_best(overfitted, tmp_path):
    case, _, interrupts, expected = overfitted
    rare = replace(case, min_seconds=1e9)
    trainer = rare.trainer(tmp_path / "rare", interrupts)
    with pytest.raises(Interrupted):
        interrupts.steps = [expected.best_step + 1]
        rare.fit(trainer)
    assert not saved_steps(tmp_path / "rare")
    assert _outcome(rare.fit(trainer), tmp_path / "rare") == expected
    assert _outcome(rare.fit(trainer), tmp_path / "rare") == expected  # and from the disk


def test_a_finished_run_has_nothing_to_do_and_the_same_result(overfitted, tmp_path):
    case, trainer, interrupts, expected = overfitted
    interrupts.steps = [0]  # no step may be taken
    assert _outcome(case.fit(trainer), tmp_path / "run") == expected


def test_a_best_one_that_is_damaged_is_an_error_that_names_it(overfitted, tmp_path):
    case, trainer, _, expected = overfitted
    file = tmp_path / "run" / str(expected.best_step) / "state" / "manifest.ocdbt"
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing.*--no-resume"):
        case.fit(trainer)


@pytest.mark.slow
def test_more_patience_goes_on_to_the_same_bits(overfitted, tmp_path, caplog):
    """As if it had been so patient from the beginning."""
    case, _, interrupts, impatient = overfitted

    def fit(patience: int, folder: str) -> Outcome:
        rule = EarlyStopping(patience=patience)
        patient = replace(case, options={"early_stopping": rule})
        trainer = patient.trainer(tmp_path / folder, interrupts)
        return _outcome(patient.fit(trainer), tmp_path / folder)

    expected = fit(6, "whole")
    assert not caplog.text
    assert fit(6, "run") == expected and expected.last_step > impatient.last_step
    ended = f"this run had ended at step {impatient.last_step} (early stopping) and now continues"
    assert ended in caplog.text
    caplog.clear()
    assert fit(6, "run") == expected
    assert "nothing is left to do: it ended at step" in caplog.text
    assert "with more patience it continues from there" in caplog.text


ENDED = classifier(MLP(hidden=16), optimizers.by_name("adam", 0.05))


def _ended(folder: Path, monitor: str, epochs: int = 6, keep: int = 9, **options: Any) -> Any:
    """A run in which accuracy and loss of the validation have other best steps."""
    trainer = Trainer(
        ENDED,
        checkpoints=Checkpoints(folder, keep, min_seconds=0),
        early_stopping=EarlyStopping(monitor, **options),
    )
    return trainer.fit(table(EXAMPLES), table(12, seed=1), epochs=epochs, batch_size=BATCH)


@pytest.mark.slow
def test_another_monitor_judges_all_epochs_anew(tmp_path, caplog):
    at_once = _ended(tmp_path / "whole", "loss")
    before = _ended(tmp_path / "run", "val_loss", epochs=5)
    after = _ended(tmp_path / "run", "loss")
    assert before.best_step != after.best_step == at_once.best_step == at_once.last_step
    assert after.best == at_once.best and bits(after.state) == bits(at_once.state)
    assert "By loss, over all epochs so far, the best step is 40" in caplog.text
    caplog.clear()
    turned = _ended(tmp_path / "run", "loss", mode="max")
    assert (turned.best_step, turned.best) == (8, after.history["loss"][0])
    assert "the best step is 8" in caplog.text


def test_of_a_best_step_that_was_not_kept_the_next_best_stands_in(tmp_path, caplog):
    before = _ended(tmp_path, "loss", keep=1)
    assert before.best_step == before.last_step and saved_steps(tmp_path) == [before.last_step]
    after = _ended(tmp_path, "loss", keep=1, mode="max")
    assert after.best_step == before.last_step
    first = after.history["loss"][0]
    assert f"By loss the best step so far was 8 ({first:g}), which wasn't kept" in caplog.text


@pytest.mark.slow
def test_a_monitor_that_was_not_measured_counts_from_here_on(tmp_path, caplog):
    def fit(epochs: int, valid: Any, monitor: str) -> Any:
        checkpoints = Checkpoints(tmp_path, min_seconds=0)
        trainer = Trainer(
            classifier(), checkpoints=checkpoints, early_stopping=EarlyStopping(monitor)
        )
        return trainer.fit(table(20), valid, epochs=epochs, batch_size=5)

    fit(2, None, "loss")
    result = fit(4, table(12, seed=1), "val_loss")
    assert "val_loss wasn't measured so far: it counts from here on" in caplog.text
    later = result.history["val_loss"][2:]
    assert result.best == min(later) and result.best_step in (12, 16)


def test_fewer_steps_than_were_taken_are_refused(tmp_path):
    _ended(tmp_path, "loss", epochs=2)
    with pytest.raises(
        UsageError, match=f"{tmp_path}: this run has taken 16 steps, and 8 are requested"
    ):
        _ended(tmp_path, "loss", epochs=1)


def test_two_runs_in_one_folder_are_refused_and_the_first_one_lives(tmp_path):
    """The second begins within an epoch of the first."""

    class Second(Callback):
        def on_epoch(self, row: Any, trained: Any) -> None:
            with pytest.raises(UsageError, match="is in use by this process: wait until it"):
                fit(resume=False)

    def fit(*callbacks: Callback, **options: Any) -> Any:
        checkpoints = Checkpoints(tmp_path, min_seconds=0)
        trainer = Trainer(classifier(), checkpoints=checkpoints, callbacks=callbacks)
        return trainer.fit(table(20), epochs=2, batch_size=10, **options)

    assert fit(Second()).last_step == 4
    assert saved_steps(tmp_path) == [2, 4]


@pytest.mark.slow
def test_more_epochs_later_are_the_same_as_at_once(tmp_path):
    case = REGULARISED
    trainer = case.trainer(tmp_path / "run", Interrupts())
    expected = _outcome(case.fit(trainer), tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    for epochs in range(1, EPOCHS + 1):
        result = case.fit(trainer, epochs)
    assert _outcome(result, tmp_path / "run") == expected


def test_a_run_that_ends_within_an_epoch_is_saved_as_judged(tmp_path):
    """With every_steps, the last step would be due for two saves; the judged one counts."""
    trainer = Trainer(
        classifier(), checkpoints=Checkpoints(tmp_path, every_steps=5), steps_per_dispatch=2
    )
    result = trainer.fit(table(EXAMPLES), table(12, seed=1), steps=10, batch_size=BATCH)
    assert (result.stop_reason, result.last_step) == ("steps", 10)
    saved = json.loads((tmp_path / "10" / "progress" / "metadata").read_text())["progress"]
    assert [row["step"] for row in saved["history"]] == [8, 10]
    assert saved["stopping"]["best_step"] == result.best_step


# --- damage -------------------------------------------------------------------------------------


def _cut_data(folder: Path) -> Path:
    file = max((folder / "state" / "d").iterdir(), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-7])
    return file


def _tear_progress(folder: Path) -> Path:
    file = folder / "progress" / "metadata"
    file.write_text(file.read_text()[:100])
    return file


def _flip_manifest(folder: Path) -> Path:
    file = folder / "state" / "manifest.ocdbt"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(bytes(content))
    return file


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Outcome, Path]:
    """A trainer, the outcome of its run, and the folder that it left behind, as `finished`."""
    folder = tmp_path_factory.mktemp("damage")
    trainer = REGULARISED.trainer(folder / "run", Interrupts())
    expected = _outcome(REGULARISED.fit(trainer), folder / "run")
    shutil.move(folder / "run", folder / "finished")
    return trainer, expected, folder


@pytest.mark.parametrize("damage", [_cut_data, _tear_progress, _flip_manifest])
def test_after_damage_the_run_still_comes_to_the_same_bits(damage, complete, caplog):
    trainer, expected, folder = complete
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(folder / "finished", folder / "run")
    *_, older, newest = saved_steps(folder / "run")
    file = damage(folder / "run" / str(newest))
    with caplog.at_level(logging.INFO, "jaxnet"):
        result = REGULARISED.fit(trainer)
    said = [record for record in caplog.records if record.name != "jaxnet.layout"]
    warning, resumed = (record.getMessage() for record in said)
    assert str(file) in warning
    assert f"newest good checkpoint, step {older}" in warning
    assert resumed == f"{folder / 'run'}: resuming from step {older}"
    assert _outcome(result, folder / "run") == expected


# --- killed processes ---------------------------------------------------------------------------


def _steps(folder: Path) -> list[int]:
    return [int(e.name) for e in folder.glob("checkpoints/*") if e.name.isdigit()]


def _kill_at_random(folder: Path, moments: random.Random, options: dict[str, Any]) -> bool:
    """Kill a run at a random moment of its life; False if it was done before.

    One time in four that is while it starts, otherwise soon after it first saves.
    """
    before = set(_steps(folder))
    process = start(folder, **options)
    early = time.monotonic() + moments.uniform(0.1, 4.0) if moments.random() < 0.25 else None
    wait = moments.uniform(0.0, 0.5)
    while process.poll() is None:
        if early is None and set(_steps(folder)) - before:
            early = time.monotonic() + wait
        if early is not None and time.monotonic() >= early:
            break
        time.sleep(0.001)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def _survives_kills(tmp_path: Path, kills: int, seed: int, **options: Any) -> None:
    expected = finished_here(tmp_path / "whole", **options)
    moments = random.Random(seed)
    folder, killed, within_saves = tmp_path / "killed", 0, 0
    for _ in range(10 * kills):
        if killed == kills or not _kill_at_random(folder, moments, options):
            break
        killed += 1
        within_saves += any(folder.glob("checkpoints/*tmp*"))
    assert killed == kills, f"the run was done after {killed} kills: make it longer"
    got = finished(folder, **options)
    assert got == expected
    last = expected["last_step"]
    whole, resumed = (read_arrays(f / "checkpoints", last) for f in (tmp_path / "whole", folder))
    assert whole.keys() == resumed.keys()
    for path, leaf in whole.items():
        assert leaf.tobytes() == resumed[path].tobytes(), path
    assert not list(folder.glob("checkpoints/*tmp*"))
    print(f"{kills} kills, {within_saves} of them within a save")


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    _survives_kills(tmp_path, kills=3, seed=0, epochs=40, every_steps=7, sleep=0.05)


@pytest.mark.slow
def test_killed_while_it_saves_at_every_step(tmp_path):
    _survives_kills(tmp_path, kills=2, seed=1, epochs=20, every_steps=1)


@pytest.mark.slow
def test_one_kill(tmp_path):
    """The quick version of the above."""
    options = {"epochs": 4, "every_steps": 1}
    process = start(tmp_path / "killed", **options)
    while process.poll() is None and len(_steps(tmp_path / "killed")) < 2:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode < 0
    assert result_of(tmp_path / "killed") is None
    assert finished(tmp_path / "killed", **options) == finished_here(tmp_path / "whole", **options)
