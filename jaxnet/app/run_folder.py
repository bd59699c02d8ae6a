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
import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jaxnet import locks
from jaxnet.app.config import from_mapping, to_mapping, to_toml
from jaxnet.app.recipe import FREE, Augment, Run
from jaxnet.errors import InputError, NonFiniteError, UsageError
from jaxnet.files import expanded, sweep, write_json

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.bundle import Bundle
    from jaxnet.data import Arrays, Source
    from jaxnet.data.augmentation import Augmentation
    from jaxnet.data.encoders import Encoder
    from jaxnet.training.task import Task
    from jaxnet.training.trainer import FitResult

# What a run was begun with.
RECORD = "run.json"
# What the table on the screen has of the summary, besides the test metrics.
SHOWN = ("stop_reason", "epochs", "best_step", "parameters", "seconds", "samples_per_second")
# Beyond this many classes the table of them is for classes.csv alone.
SHOWN_CLASSES = 20
# Rows and columns of the picture of augmented images.
PREVIEWED = 8
# Reasons to stop that leave no network where no evaluation was finite before.
DIVERGED = ("nonfinite", "nonfinite_metric", "diverged")
PACKAGES = ("jaxnet", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
    if getattr(config, "folds", None):
        return FREE  # folds that are done stay as they are
    return (*FREE, "early_stopping", *(("epochs",) if config.optimizer.any_length else ()))


def prepare(
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
        resume: whether to go on with what is there; otherwise it is begun anew.
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
    import tomllib

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
        'jaxnet.app.recipe'
    """
    module = sys.modules.get(type(config).__module__)
    spec = getattr(module, "__spec__", None)
    # Ours are called the same, wherever they are imported from.
    return spec.name.replace("jaxnet.train.", "train.") if spec else None


def fit(
    folder: Path,
    config: Run,
    task: Task[Any],
    train: Arrays | Source,
    valid: Arrays | Source,
    augment: Augment = Augment(),  # noqa: B008
    callbacks: Sequence[Any] = (),
    encoder: Encoder | None = None,
    mappings: Mapping[str, Any] = MappingProxyType({}),
) -> FitResult | None:
    """Train in a run folder as configured, or go on with it.

    Args:
        folder: the run folder.
        config: the configuration.
        task: what to train; one with a step of its own where nothing is chosen that needs more.
        train: what to learn from.
        valid: what to evaluate after each epoch.
        augment: how to vary the training images.
        callbacks: what else watches the run.
        encoder: what made the inputs of a table's rows, or of texts; a run goes on only with the
            one that it was begun with.
        mappings: what else made numbers of raw data, see `Trainer.fit`.

    Returns:
        The result, or None where the run was asked to end: all is saved, and the same call goes on.

    Raises:
        InputError: the folder can't be written, or the data isn't for this task.
        UsageError: the folder holds a run with another configuration.
    """
    from jaxnet.training import Checkpoints, RunWriter, Trainer

    config.numerics.check()
    trainer = Trainer(
        task_of(config, task, augment),
        early_stopping=config.early_stopping,
        checkpoints=Checkpoints(folder / "checkpoints", **config.checkpoints.options()),
        callbacks=[RunWriter(folder), *callbacks],
        progress=config.progress,
        eval_batch_size=config.eval_batch_size,
        layout=config.layout.build(task),
    )
    prepare(folder, config, resume=config.resume, may_change=changeable(config))
    preview(folder, augment.functions(), train, config.seed)
    result = trainer.fit(
        train,
        valid,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        resume=config.resume,
        mappings={"encoder": encoder, **mappings},
    )
    if result.stop_reason == "preempted":
        print(f"preempted at step {result.last_step}: run the same command again to go on")
        return None
    check_learnt(result, config)
    return result


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


Fit = Callable[..., "FitResult | None"]
"""`fit`, or what has its arguments."""


def task_of(config: Run, task: Task[Any], augment: Augment = Augment()) -> Task[Any]:  # noqa: B008
    """The task with all that the configuration does to it."""
    return config.techniques.apply(config.optimizer.apply(augment.apply(task)))


def finish(
    folder: Path,
    result: FitResult,
    test: Mapping[str, Any],
    class_names: tuple[str, ...] | None = None,
    encoder: Encoder | None = None,
    predictions: tuple[np.ndarray, np.ndarray] | None = None,
    figures: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write pictures, the trained network and the summary of a run, and print a short table.

    Of several processes the first one writes; all of them have to call this.

    Args:
        folder: the run folder.
        result: what `Trainer.fit` returned.
        test: the metrics of the test set; a matrix called `confusion` becomes a picture.
        class_names: the classes, in order.
        encoder: what made the inputs of a table's rows, or of texts.
        predictions: the logits and the labels of the test set, for the curves of a classifier.
        figures: what else was found out, for the summary and the table.

    Raises:
        UsageError: classes or encoder aren't those that the network was trained with.
    """
    from jaxnet.bundle import Bundle
    from jaxnet.cluster import processes
    from jaxnet.metrics import classification_report
    from jaxnet.report.plots import plot_confusion, plot_norms

    if processes.several():
        state = processes.on_host(result.state)
        result = replace(result, state=state, model=replace(result.model, state=state))
    _check_mapping(folder, result, class_names, encoder)
    if not processes.is_first():
        return
    report = None
    if "confusion" in test:
        report = classification_report(test["confusion"], class_names)
        test = {**test, **report.summary()}
        report.write_csv(folder / "classes.csv")
    if predictions is not None:
        test = {**test, **_curves(folder, *predictions, class_names)}
    values = {**summarised(result, test), **figures}
    result.history.plot(folder / "curves.png", result.best_step, title(folder))
    if any("_norm/" in column for column in result.history.columns):
        plot_norms(result.history, folder / "norms.png", result.model.layers(), title(folder))
    if "confusion" in test:
        names = class_names or tuple(str(i) for i in range(len(test["confusion"])))
        plot_confusion(test["confusion"], names, folder / "confusion.png", title(folder))
    bundle = Bundle.of(result.model, class_names=class_names, info=values, encoder=encoder)
    _check_bundle(folder / "bundle", bundle)
    bundle.save(folder / "bundle")
    write_json(folder / "summary.json", values)
    if report is not None and len(report.rows) <= SHOWN_CLASSES:
        print(f"{report}\n")
    shown = {
        name: f"{value:.4f}" if name not in SHOWN and isinstance(value, float) else f"{value}"
        for name, value in values.items()
        if name in (*SHOWN, *figures) or name.startswith("test_")
    }
    print_table({**shown, "results": str(folder)})


def _check_mapping(
    folder: Path, result: FitResult, class_names: Sequence[str] | None, encoder: Encoder | None
) -> None:
    """Refuse an encoder or class names that the network wasn't trained with."""
    from jaxnet.data.fingerprints import names_digest
    from jaxnet.training.fingerprints import of_mappings, other_data

    before = dict(result.fingerprints)
    if not before.get("train/class names") or class_names is None:
        before.pop("train/class names", None)
    now = {**of_mappings({"encoder": encoder}), "train/class names": names_digest(class_names)}
    if others := other_data(before, now):
        raise UsageError(
            f"{folder}: the network was trained with others, so there is no bundle of it:\n  "
            + "\n  ".join(others)
        )


def _check_bundle(folder: Path, bundle: Bundle) -> None:
    """Refuse to give weights that lie there another meaning, whoever trained them."""
    from jaxnet.bundle import Bundle

    if not (folder / "bundle.json").exists():
        return
    try:
        there = Bundle.load(folder, bundle.model)
    except InputError:
        return  # of another network
    if bundle.same_weights(there) and bundle.meaning() != there.meaning():
        raise UsageError(
            f"{folder} holds the same weights with another encoder, other class names or another "
            "preprocessing, so the data isn't what they were trained on. Take the same data, "
            "another --run-dir, or begin anew with --no-resume."
        )


def _curves(
    folder: Path, outputs: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...] | None
) -> dict[str, float]:
    """Draw the curves of a classifier; the areas under them."""
    from jaxnet import metrics
    from jaxnet.report.plots import plot_precision_recall, plot_roc

    roc = metrics.roc_curves(outputs, labels, class_names=class_names)
    pr = metrics.precision_recall_curves(outputs, labels, class_names=class_names)
    plot_roc(roc, folder / "roc.png", title(folder))
    plot_precision_recall(pr, folder / "pr.png", title(folder))
    return {"roc_auc": metrics.mean_area(roc), "average_precision": metrics.mean_area(pr)}


def preview(
    folder: Path, functions: Sequence[Augmentation], data: Arrays | Source, seed: int = 0
) -> None:
    """Draw some training images as the network is going to see them.

    Args:
        folder: the run folder; the picture is `augmented.png`.
        functions: the augmentations; without any there is no picture.
        data: the training images.
        seed: of the images and of what is drawn.

    Raises:
        InputError: an augmentation can't be for this data.
    """
    from jaxnet.cluster import processes

    if not functions or not processes.is_first():
        return
    import jax
    import numpy as np

    from jaxnet.data import sample
    from jaxnet.data.augmentation import compose
    from jaxnet.data.order import epoch_order
    from jaxnet.report.plots import plot_images
    from jaxnet.training.programs import compiled

    chosen = sample(data, PREVIEWED, seed)
    chosen = chosen.take(epoch_order(seed, 0, len(chosen))[:PREVIEWED])
    batch = {**chosen.columns(), "mask": np.ones(len(chosen), bool)}
    varied = compiled(compose(*functions))
    root = jax.random.key(seed)
    draws = [varied(jax.random.fold_in(root, i), batch)["inputs"] for i in range(PREVIEWED - 1)]
    grid = np.stack([chosen.inputs, *map(np.asarray, draws)], axis=1)
    names = ("stored", *(f"seen {i + 1}" for i in range(len(draws))))
    plot_images(grid, folder / "augmented.png", names, title(folder))


def summarised(result: FitResult, test: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run, flat."""
    from jaxnet import trees

    programs = result.model.trainer.programs
    return {
        **{f"test_{name}": value for name, value in test.items() if isinstance(value, float)},
        "best_step": result.best_step,
        "best_value": result.best,
        "last_step": result.last_step,
        "epochs": len(result.history),
        "stop_reason": result.stop_reason,
        "parameters": trees.count(result.state.params),
        "seconds": round(result.seconds, 3),
        "seconds_to_first_step": round(result.seconds_to_first_step, 3),
        "samples_per_second": round(result.samples_per_second, 1),
        "data_wait_share": round(result.data_wait_share, 5),
        "compiles": programs.compiles.total,
        **environment(),
    }


def print_table(rows: Mapping[str, str]) -> None:
    """Print names and values beside each other."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def environment() -> dict[str, str | int | None]:
    """Versions, device and how it computes, for `summary.json` and benchmark results."""
    import jax

    import jaxnet
    from jaxnet import numerics

    def installed(package: str) -> str:
        if package == "jaxnet":  # the distribution is called otherwise
            return jaxnet.__version__
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "matmul_precision": numerics.in_force(),
        "deterministic": numerics.is_deterministic(os.environ),
        "python": platform.python_version(),
        **{f"{package}_version": installed(package) for package in PACKAGES},
    }


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
