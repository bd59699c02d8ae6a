"""The folder that a run leaves behind.

config.toml       the resolved configuration, from which the run can be repeated
run.json          the same as it was begun with, by which the run is known; not for editing
metrics.jsonl     a line an epoch, with times
history.csv       the same without times: equal for equal runs
curves.png        learning curves
norms.png         the norms of gradients and activations by layer, where they were logged
confusion.png     the confusion matrix of the test set
augmented.png     training images as the network sees them, where they are augmented
roc.png pr.png    the ROC and the precision-recall curve of each class, on the test set
classes.csv       precision, recall and F1 of each class, on the test set
predicted.png     in place of these, where numbers are predicted: predicted against true values
samples/          images that a network makes, after every few epochs
checkpoints/      the newest states and the best one
bundle/           the trained network, ready for use
summary.json      the figures of the run, flat
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxnet import locks
from jaxnet.app.config import from_mapping, to_mapping, to_toml
from jaxnet.app.run_options import Run
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded, sweep, write_json
from jaxnet.options import free_fields

# What a run was begun with.
RECORD = "run.json"


def located(config: Run, *words: str) -> Path:
    """The folder of a run: the one that was chosen, or one in `runs`.

    That is called by the data, `words` and the seed. Where it holds a run with another
    configuration, a number is added, and a line says so.

    Args:
        config: the configuration, with all that it leaves open filled in.
        words: what else is part of the name, such as the model.

    Raises:
        UsageError: the data's file or folder isn't there.
    """
    if config.data_dir is not None and not expanded(config.data_dir).exists():
        raise UsageError(f"--data-dir {config.data_dir}: there is no such file or folder")
    if config.run_dir is not None:
        return config.run_dir
    folds = getattr(config, "folds", None)
    words = (*words, *((f"{folds}-folds",) if folds else ()), f"seed{config.seed}")
    name = "-".join(map(_plain_name, (*config.named_by(), *words)))
    first = Path("runs") / name
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{name}-{number}")
        chosen = replace(config, run_dir=folder)
        if not (_begun(folder) and _changed(folder, chosen, changeable(config))):
            break
    if folder != first:
        changed = _changed(first, chosen, changeable(config))
        print(f"{first} holds a run with another configuration, so this one goes to {folder}:")
        print("\n".join(changed))
    return folder


def changeable(config: Run) -> tuple[str, ...]:
    """The fields that may be others when a run goes on.

    The number of epochs is among them where the learning rate doesn't depend on it.
    """
    free = free_fields(type(config))
    if getattr(config, "folds", None):
        return free  # folds that are done stay as they are
    return (*free, "early_stopping", *(("epochs",) if config.optimizer.any_length else ()))


def open_run(
    folder: Path,
    config: Any,
    *,
    resume: bool,
    may_change: tuple[str, ...] = (),
    fingerprints: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Make a run folder, or take up one whose run had the same configuration.

    The folder is this process's until the command ends. Of several processes the first one holds
    it, and writes.

    Args:
        folder: the run folder.
        config: the configuration, a dataclass.
        resume: whether to resume what is there; otherwise the run starts over.
        may_change: fields that don't decide what is trained, such as `layout`.
        fingerprints: what else has to be the same (`jaxnet.training.fingerprints`), where no
            checkpoint keeps it.

    Raises:
        InputError: the folder can't be written.
        UsageError: it holds a run with another configuration, which has begun to train, or another
            process is at work in it.
    """
    from jaxnet.cluster import processes

    def take() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            locks.keep(folder, "wait until it has ended, or choose another --run-dir")
            if _begun(folder):  # elsewhere such files belong to somebody else
                sweep(folder)
            # A run that ended before it learnt anything, over a wrong option say, binds nobody.
            if resume and _begun(folder):
                _check_same(folder, config, may_change, fingerprints)
            record = {
                "program": program_of(config),
                "config": to_mapping(config),
                "fingerprints": dict(fingerprints),
            }
            write_json(folder / RECORD, record)
            to_toml(config, folder / "config.toml")
        except OSError as error:
            raise InputError(
                f"{folder}: the run folder can't be written: {error.strerror or error}. "
                "Choose another one with --run-dir."
            ) from error

    processes.by_first(take)


def title(folder: Path) -> str:
    """What a picture of a run says above it: data, target, model and seed.

    Args:
        folder: the run folder; without a configuration its own name has to do.
    """
    try:
        # One of several networks of a run has a folder within that of the run.
        homes = (home for home in (folder, folder.parent) if (home / "config.toml").exists())
        file = next(homes, folder) / "config.toml"
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder.name
    data = values.get("data") or ""
    if data in ("csv", "folder", "text") and values.get("data_dir"):
        data = Path(values["data_dir"]).name
    parts = [data, values.get("target"), values.get("model")]
    if "seed" in values:
        parts.append(f"seed {values['seed']}")
    return ", ".join(part for part in parts if part) or folder.name


def program_of(config: Any) -> str | None:
    """The module that a configuration belongs to, as `python -m` takes it; None for a script.

    Example:
        >>> program_of(Run())
        'jaxnet.app.run_options'
    """
    module = sys.modules.get(type(config).__module__)
    spec = getattr(module, "__spec__", None)
    # Ours are called the same, wherever they are imported from.
    return spec.name.replace("jaxnet.train.", "train.") if spec else None


def _plain_name(word: str) -> str:
    """A word as part of the name of a folder: no blanks, no slashes, not too long."""
    return re.sub(r"[^\w.+=-]+", "_", word).strip("._")[:60] or "_"


def _begun(folder: Path) -> bool:
    """Whether a run has begun to train in a folder, or in one below it."""
    noted = any((folder / name).exists() for name in (RECORD, "config.toml"))
    signs = ("**/metrics.jsonl", "fold-*/summary.json")
    return noted and any(next(folder.glob(sign), None) for sign in signs)


def _check_same(
    folder: Path, config: Any, may_change: tuple[str, ...], fingerprints: Mapping[str, str]
) -> None:
    way_out = "Choose another --run-dir, or begin anew in this one with --no-resume."
    if changed := _changed(folder, config, may_change):
        if len(changed) == 1 and changed[0].startswith("  epochs: "):
            changed.append(
                "More epochs can't be added exactly: the learning rate goes by their number from "
                f"the first step on ({config.optimizer.schedule}). To runs with "
                "--optimizer.schedule constant they can."
            )
        more = "\n".join(changed)
        raise UsageError(f"{folder} holds a run with another configuration:\n{more}\n{way_out}")
    from jaxnet.training.fingerprints import other_data

    before = _record(folder).get("fingerprints") or {}
    if others := other_data(before, fingerprints):
        raise UsageError(
            f"{folder} holds a run over other data:\n  " + "\n  ".join(others) + f"\n{way_out}"
        )


def _changed(folder: Path, config: Any, may_change: tuple[str, ...]) -> list[str]:
    """What differs from the configuration that the run in a folder was begun with."""
    record = _record(folder)
    before = to_mapping(from_mapping(type(config), record["config"], str(folder / RECORD)))
    return [
        f"  {name}: {old!r} -> {new!r}"
        for name, old, new in _differences(before, to_mapping(config))
        if name.split(".")[0] not in may_change
    ]


def _record(folder: Path) -> Mapping[str, Any]:
    """What a run was begun with. Earlier versions noted it in config.toml alone."""
    file, toml = folder / RECORD, folder / "config.toml"
    try:
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        return {"config": tomllib.loads(toml.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        damaged = file if file.exists() else toml
        raise InputError(
            f"{damaged}: what the run was begun with can't be read: {error}. Bring the file back, "
            "or begin anew in this folder with --no-resume."
        ) from error


def _differences(before: Any, after: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [
            difference
            for key in keys
            for difference in _differences(
                before.get(key), after.get(key), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if before == after else [(name, before, after)]
