"""Callbacks that log the history to TensorBoard and to Weights & Biases, by their own libraries.

Neither library is needed unless its callback is used: `pip install tensorboard`,
`pip install wandb`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnet.errors import UsageError
from jaxnet.files import expanded, write_json
from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.history import Row

TRAIN, VALIDATION = "train", "validation"
_VALIDATED = "val_"
_NUMBERING = ("epoch", "step")


@dataclass
class TensorBoard(Callback):
    """Writes event files for TensorBoard: `tensorboard --logdir FOLDER` shows them.

    Training and validation are two runs, in the subfolders `train` and `validation`, with the same
    tags, so that TensorBoard draws both curves of a metric in one chart. The x axis is the step;
    each epoch is one point. The learning rate and other columns of the history are among `train`.

    A resumed run adds a file; TensorBoard drops the points of the steps that are repeated, if
    epochs had been logged after the last checkpoint. A run from step 0 replaces all earlier points.
    The runs of a k-fold cross-validation, which have names, get a subfolder each, such as
    `fold_1_5/train`.

    Attributes:
        folder: where to write.

    Raises:
        UsageError: the package tensorboard is not installed.

    Example:
        >>> callback = TensorBoard("runs/digits/tensorboard")  # Trainer(..., callbacks=[callback])
    """

    looks = False

    folder: Path | str
    _writers: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _require("tensorboard", "TensorBoard")

    def on_start(self, plan: Plan) -> None:
        """Open the files; what they lack of a resumed run's history is added."""
        folder = expanded(self.folder) / re.sub(r"\W+", "_", plan.name)
        begun = any(folder.glob("*/events.out.tfevents.*"))
        self._writers = {
            part: _writer(folder / part, plan.first_step + 1) for part in (TRAIN, VALIDATION)
        }
        if not begun:
            for row in plan.history.rows:
                self._write(row)

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Add an epoch's point to each curve."""
        self._write(row)

    def on_stop(self, reason: str) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write(self, row: Row) -> None:
        events, summaries = _messages("event"), _messages("summary")
        for part, values in _parts(row).items():
            summary = summaries.Summary(
                value=[
                    summaries.Summary.Value(tag=tag, simple_value=value)
                    for tag, value in values.items()
                ]
            )
            event = events.Event(wall_time=time.time(), step=int(row["step"]), summary=summary)
            self._writers[part].write(event.SerializeToString())
            self._writers[part].flush()


@dataclass
class WandB(Callback):
    """Logs to Weights & Biases: `train/loss`, `val/loss` and so on, by step.

    `wandb.init` is called when training starts and follows the user's environment:
    `WANDB_MODE=offline`, `WANDB_PROJECT`, `WANDB_API_KEY`. Where a run is active already, as in a
    sweep, that one is used and left open.

    With `folder` the run's id is kept there, and a resumed run continues the same run of
    Weights & Biases. No step is logged twice; a run from step 0 is a new one.

    Attributes:
        project: the project's name.
        config: the hyperparameters to show with the run.
        folder: where to keep the run's id and the files of wandb, such as the run folder; None
            starts a new run each time, and wandb chooses the place of its files.
        options: other arguments of `wandb.init`, such as `{"entity": ..., "tags": [...]}`.

    Raises:
        UsageError: the package wandb is not installed.

    Example:
        >>> import pytest; wandb = pytest.importorskip("wandb")
        >>> callback = WandB("digits", config={"learning_rate": 3e-3}, folder="runs/digits")
    """

    looks = False

    project: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    _run: Any = field(default=None, init=False, repr=False)
    _own: bool = field(default=True, init=False, repr=False)
    _logged: int = field(default=0, init=False, repr=False)
    _file: Path | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _require("wandb", "WandB")

    def on_start(self, plan: Plan) -> None:
        """Start a run of Weights & Biases, or continue it; add what it lacks of the history."""
        import wandb

        self._file = self._id_file(plan.name)
        known = _read_id(self._file) if self._file and plan.first_step else {}
        self._logged = known.get("step", 0)
        self._own = wandb.run is None
        self._run = wandb.run or wandb.init(**self._init_arguments(plan.name, known.get("id")))
        for row in plan.history.rows:
            self._log(row)

    def on_epoch(self, row: Row, trained: Any) -> None:
        """Log an epoch."""
        self._log(row)

    def on_stop(self, reason: str) -> None:
        """Finish the run, which counts as failed after an error."""
        if self._run is None:
            return
        self._run.summary["stop_reason"] = reason
        if self._own:
            self._run.finish(exit_code=int(reason == "error"))
        self._run = None

    def _id_file(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        return expanded(self.folder) / (re.sub(r"\W+", "_", f"wandb {name}".strip()) + ".json")

    def _init_arguments(self, name: str, known: str | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {"project": self.project, "config": dict(self.config)}
        if name:
            arguments["name"] = name
        if self.folder is not None:
            folder = expanded(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            arguments["dir"] = os.fspath(folder)
        if known:
            arguments |= {"id": known, "resume": "allow"}
        return {**arguments, **self.options}

    def _log(self, row: Row) -> None:
        step = int(row["step"])
        if step <= self._logged:
            return
        named = {TRAIN: "train/", VALIDATION: "val/"}
        values = {
            named[part] + tag: value
            for part, tags in _parts(row).items()
            for tag, value in tags.items()
        }
        rate = values.pop("train/learning_rate", None)
        extra = {} if rate is None else {"learning_rate": rate}
        self._run.log({"epoch": int(row["epoch"]), **values, **extra}, step=step)
        self._logged = step
        if self._file is not None:
            write_json(self._file, {"id": self._run.id, "step": step})


def _parts(row: Row) -> dict[str, dict[str, float]]:
    """The metrics of a row, those of training and of validation under the same names.

    Example:
        >>> _parts({"epoch": 1, "step": 9, "loss": 0.5, "val_loss": 0.75})
        {'train': {'loss': 0.5}, 'validation': {'loss': 0.75}}
    """
    parts: dict[str, dict[str, float]] = {TRAIN: {}, VALIDATION: {}}
    for name, value in row.items():
        if name not in _NUMBERING and value is not None:
            part = VALIDATION if name.startswith(_VALIDATED) else TRAIN
            parts[part][name.removeprefix(_VALIDATED)] = float(value)
    return parts


def _writer(folder: Path, first_step: int) -> Any:
    """A writer of records to a new event file, with which steps from `first_step` on are anew.

    TensorBoard reads the files of a folder in the order of their names. Those of its own
    `EventFileWriter` are told apart by the second; here by the nanosecond.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = _messages("event")
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time_ns()
    name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.{os.getpid()}"
    writer = RecordWriter((folder / name).open("wb"))
    start = events.SessionLog(status=events.SessionLog.START)
    for event in (
        events.Event(wall_time=now / 1e9, file_version="brain.Event:2"),
        events.Event(wall_time=now / 1e9, step=first_step, session_log=start),
    ):
        writer.write(event.SerializeToString())
    writer.flush()
    return writer


def _messages(kind: str) -> ModuleType:
    """TensorBoard's own messages, which protobuf defines when they are imported."""
    return importlib.import_module(f"tensorboard.compat.proto.{kind}_pb2")


def _read_id(file: Path) -> dict[str, Any]:
    """What was kept of a run: its `id` and the last `step` logged; nothing if there is no file."""
    with suppress(OSError, ValueError):
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            return {"id": values["id"], "step": int(values.get("step", 0))}
    return {}


def _require(package: str, callback: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a folder of that name, such as wandb's files
        raise UsageError(
            f"{callback} needs the package {package}, which is not installed: pip install {package}"
        )
