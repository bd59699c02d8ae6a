"""TensorBoard and Weights & Biases, read back by their own readers."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxnet.errors import UsageError
from jaxnet.training import Checkpoints, History, TensorBoard, Trainer, WandB
from jaxnet.training.callbacks import Plan
from tests.training.helpers import classifier, table

pytestmark = pytest.mark.usefixtures("shared_programs")

DATA, VALID = table(40), table(20, seed=1)
TASK = classifier()


class Killed(BaseException):
    """What no code should catch: a stand-in for SIGKILL, after the logger wrote of the epoch."""


class Kills:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, row, trained):
        if row["epoch"] == self.epoch:
            raise Killed


def fit(callbacks: list[Any], folder: Any = None, epochs: int = 3, **options: Any) -> Any:
    checkpoints = Checkpoints(folder, min_seconds=0) if folder else None
    trainer = Trainer(TASK, checkpoints=checkpoints, callbacks=callbacks)
    return trainer.fit(DATA, VALID, epochs=epochs, batch_size=8, **options)


def logged(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Runs, tags, and the points of each, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return {
        run: {
            tag: [(event.step, event.value) for event in multiplexer.Scalars(run, tag)]
            for tag in found["scalars"]
        }
        for run, found in multiplexer.Runs().items()
    }


def points(history: Any, column: str) -> list[tuple[int, float]]:
    values = [float(np.float32(value)) for value in history[column]]
    return list(zip(history["step"], values, strict=True))


def expected(history: Any) -> dict[str, dict[str, list[tuple[int, float]]]]:
    tags = ("loss", "accuracy")
    return {
        "train": {tag: points(history, tag) for tag in tags},
        "validation": {tag: points(history, f"val_{tag}") for tag in tags},
    }


def test_tensorboard_has_the_history_with_both_curves_of_a_metric_in_one_chart(tmp_path):
    pytest.importorskip("tensorboard")
    result = fit([TensorBoard(tmp_path)])
    assert logged(tmp_path) == expected(result.history)


def test_tensorboard_goes_on_where_a_run_does_without_a_step_twice(tmp_path):
    pytest.importorskip("tensorboard")
    run, logs = tmp_path / "run", tmp_path / "logs"
    fit([], run, epochs=1)  # before anybody thought of a log
    fit([TensorBoard(logs)], run, epochs=2)
    # Epoch 3 is logged, and the run killed before it is saved; epoch 2 is lost with its disk.
    with pytest.raises(Killed):
        fit([TensorBoard(logs), Kills(3)], run, epochs=3)
    for step in ("10", "15"):
        (run / step).rename(tmp_path / f"gone {step}")
    result = fit([TensorBoard(logs)], run, epochs=4)
    assert len(result.history) == 4
    assert logged(logs) == expected(result.history)
    # Another run takes the place of this one.
    again = fit([TensorBoard(logs)], run, epochs=2, resume=False, seed=1)
    assert logged(logs) == expected(again.history) != expected(result.history)


def test_tensorboard_keeps_folds_apart_and_has_no_curve_of_what_is_not_measured(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoard(tmp_path)
    rows = [{"epoch": 1, "step": 5, "loss": 0.5, "learning_rate": 0.25, "val_auc": math.nan}]
    for name in ("fold 1/2", "fold 2/2"):
        fit([logger], name=name, epochs=1)
    assert {run.split("/")[0] for run in logged(tmp_path)} == {"fold_1_2", "fold_2_2"}
    logger = TensorBoard(tmp_path / "rows")
    logger.on_start(Plan(2, 5, 10, 5, History(tuple(rows))))
    logger.on_epoch({"epoch": 2, "step": 10, "loss": 0.25, "learning_rate": None}, None)
    logger.on_stop("epochs")
    found = logged(tmp_path / "rows")
    assert found["train"] == {"loss": [(5, 0.5), (10, 0.25)], "learning_rate": [(5, 0.25)]}
    assert [math.isnan(value) for _, value in found["validation"]["auc"]] == [True]


@pytest.mark.parametrize(("kind", "package"), [(TensorBoard, "tensorboard"), (WandB, "wandb")])
def test_a_library_that_is_absent_is_named(kind, package, monkeypatch):
    for found in (None, ModuleSpec(package, None)):  # the second is a folder of that name
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(UsageError, match=f"not installed: pip install {package}$"):
            kind("runs")


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """The library, offline and quiet, with its files below `tmp_path`."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb
    wandb.teardown()


def runs(folder: Path) -> list[dict[str, Any]]:
    """What wandb wrote of each run: its id, configuration, rows and exit code.

    A file is a header of seven bytes and records, each of a checksum, its length, a kind and a
    message. (Beyond 32 KiB it would go on in blocks.)
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its own process writes the files, and has done so when it has ended
    found = []
    for file in sorted(
        folder.glob("wandb/offline-run-*/*.wandb"), key=lambda one: one.stat().st_mtime
    ):
        content, at = file.read_bytes(), 7
        one: dict[str, Any] = {"rows": []}
        while at < len(content):
            _, length, kind = struct.unpack_from("<IHB", content, at)
            assert kind == 1
            record = Record.FromString(content[at + 7 : at + 7 + length])
            at += 7 + length
            which = record.WhichOneof("record_type")
            if which == "run":
                config = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
                one |= {"id": record.run.run_id, "project": record.run.project}
                one |= {"name": record.run.display_name, "config": config}
            elif which == "exit":
                one["exit"] = record.exit.exit_code
            elif which == "history":
                items = {item.nested_key[0]: item.value_json for item in record.history.item}
                one["rows"].append(
                    {
                        name: json.loads(value)
                        for name, value in items.items()
                        if name not in ("_timestamp", "_runtime")
                    }
                )
        found.append(one)
    return found


def rows(history: Any) -> list[dict[str, float]]:
    names = {"epoch": "epoch", "_step": "step"}
    for tag in ("loss", "accuracy"):
        names |= {f"train/{tag}": tag, f"val/{tag}": f"val_{tag}"}
    return [{shown: row[name] for shown, name in names.items()} for row in history.rows]


@pytest.mark.slow
def test_wandb_has_the_history_and_the_configuration(wandb, tmp_path):
    result = fit([WandB("digits", {"rate": 0.1}, tmp_path, {"tags": ["first"]})])
    (run,) = runs(tmp_path)
    assert run["rows"] == rows(result.history)
    assert (run["project"], run["config"]["rate"], run["exit"]) == ("digits", 0.1, 0)
    assert wandb.run is None


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run_and_no_step_twice(wandb, tmp_path):
    logger = WandB(folder=tmp_path)
    first = fit([logger], tmp_path / "run", epochs=1)
    assert len(first.history) == 1
    # Epoch 2 is logged, and the run killed before it is saved.
    with pytest.raises(Killed):
        fit([logger, Kills(2)], tmp_path / "run", epochs=2)
    (tmp_path / "run" / "10").rename(tmp_path / "gone")
    result = fit([logger], tmp_path / "run", epochs=3)
    one, two, three = runs(tmp_path)
    assert one["id"] == two["id"] == three["id"]
    assert (one["exit"], two["exit"], three["exit"]) == (0, 1, 0)
    assert [*one["rows"], *two["rows"], *three["rows"]] == rows(result.history)
    # From the first step on it is another one.
    fit([logger], tmp_path / "run", epochs=1, resume=False)
    assert runs(tmp_path)[-1]["id"] != one["id"]


@pytest.mark.slow
def test_a_run_of_wandb_that_is_active_is_used_and_left_open(wandb, tmp_path):
    with wandb.init(dir=tmp_path, name="mine") as mine:
        result = fit([WandB()], epochs=2)
        assert wandb.run is mine
        mine.log({"after": 1})
    (run,) = runs(tmp_path)
    first, second = rows(result.history)
    assert run["rows"] == [first, {**second, "after": 1}]
    assert run["name"] == "mine"


@pytest.mark.slow
def test_folds_are_runs_of_their_own(wandb, tmp_path):
    logger = WandB(folder=tmp_path)
    for name in ("fold 1/2", "fold 2/2"):
        fit([logger], name=name, epochs=1)
    assert [run["name"] for run in runs(tmp_path)] == ["fold 1/2", "fold 2/2"]
    assert {file.name for file in tmp_path.glob("*.json")} == {
        "wandb_fold_1_2.json",
        "wandb_fold_2_2.json",
    }
