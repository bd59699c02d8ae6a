"""What a run leaves at its end: pictures, the trained network and the figures of the summary."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title
from jaxnet.errors import InputError, UsageError
from jaxnet.files import write_json

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.bundle import Bundle
    from jaxnet.data import Arrays, Source
    from jaxnet.data.augmentation import Augmentation
    from jaxnet.data.encoders import Encoder
    from jaxnet.training.trainer import FitResult

# What the table on the screen has of the summary, besides the test metrics.
SHOWN = ("stop_reason", "epochs", "best_step", "parameters", "seconds", "samples_per_second")
# Beyond this many classes the table of them is for classes.csv alone.
SHOWN_CLASSES = 20
# Rows and columns of the picture of augmented images.
PREVIEWED = 8
PACKAGES = ("jaxnet", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_report(
    folder: Path,
    result: FitResult,
    tested: Tested,
    class_names: tuple[str, ...] | None = None,
    encoder: Encoder | None = None,
) -> None:
    """Write pictures, the trained network and the summary of a run, and print a short table.

    Of several processes the first one writes; all of them have to call this.

    Args:
        folder: the run folder.
        result: what `Trainer.fit` returned.
        tested: the figures of the test set.
        class_names: the classes, in order.
        encoder: what made the inputs of a table's rows, or of texts.

    Raises:
        UsageError: classes or encoder aren't those that the network was trained with.
    """
    from jaxnet.bundle import Bundle
    from jaxnet.cluster import processes
    from jaxnet.metrics import classification_report
    from jaxnet.report.plots import plot_norms
    from jaxnet.report.predictions import plot_confusion

    if processes.several():
        state = processes.on_host(result.state)
        result = replace(result, state=state, model=replace(result.model, state=state))
    _check_mapping(folder, result, class_names, encoder)
    if not processes.is_first():
        return
    report, test = None, tested.metrics
    if "confusion" in test:
        report = classification_report(test["confusion"], class_names)
        test = {**test, **report.summary()}
        report.write_csv(folder / "classes.csv")
    if tested.predictions is not None:
        test = {**test, **_curves(folder, *tested.predictions, class_names)}
    values = {**summarised(result, test), **tested.figures}
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
        if name in (*SHOWN, *tested.figures) or name.startswith("test_")
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
    from jaxnet.report.predictions import plot_precision_recall, plot_roc

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
