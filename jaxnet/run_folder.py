"""The folder that a run leaves behind.

config.toml       the resolved configuration, from which the run can be repeated
metrics.jsonl     a line an epoch, with times
history.csv       the same without times: equal for equal runs
curves.png        learning curves
confusion.png     the confusion matrix of the test set
checkpoints/      the newest states and the best one
bundle/           the trained network, ready for use
summary.json      the figures of the run, flat
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.config import from_mapping, to_mapping, to_toml
from jaxnet.errors import InputError, UsageError
from jaxnet.files import write_json

if TYPE_CHECKING:
    from jaxnet.training.trainer import FitResult

# What the table on the screen has of the summary, besides the test metrics.
SHOWN = ("stop_reason", "epochs", "best_step", "parameters", "seconds", "samples_per_second")
PACKAGES = ("jaxnet", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def prepare(folder: Path, config: Any, *, resume: bool, may_change: tuple[str, ...] = ()) -> None:
    """Make a run folder, or take up one whose run had the same configuration.

    Args:
        folder: the run folder.
        config: the configuration, a dataclass.
        resume: whether to go on with what is there; otherwise it is begun anew.
        may_change: fields that don't decide what is trained, such as `epochs`.

    Raises:
        InputError: the folder can't be written.
        UsageError: it holds a run with another configuration.
    """
    file = folder / "config.toml"
    if resume and file.exists():
        _check_same(file, config, may_change)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        to_toml(config, file)
    except OSError as error:
        raise InputError(
            f"{folder}: the run folder can't be written: {error.strerror or error}. "
            "Choose another one with --run-dir."
        ) from error


def finish(
    folder: Path,
    result: FitResult,
    test: Mapping[str, Any],
    class_names: tuple[str, ...] | None = None,
) -> None:
    """Write pictures, the trained network and the summary of a run, and print a short table.

    Args:
        folder: the run folder.
        result: what `Trainer.fit` returned.
        test: the metrics of the test set; a matrix called `confusion` becomes a picture.
        class_names: the classes, in order.
    """
    from jaxnet.bundle import Bundle
    from jaxnet.training.plots import plot_confusion

    values = summarised(result, test)
    result.history.plot(folder / "curves.png", result.best_step)
    if "confusion" in test:
        names = class_names or tuple(str(i) for i in range(len(test["confusion"])))
        plot_confusion(test["confusion"], names, folder / "confusion.png")
    Bundle.of(result.model, class_names=class_names, info=values).save(folder / "bundle")
    write_json(folder / "summary.json", values)
    _print_table(folder, values)


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


def _print_table(folder: Path, values: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in values.items():
        if name in SHOWN or name.startswith("test_"):
            table.add_row(name, f"{value:.4f}" if name.startswith("test_") else f"{value}")
    table.add_row("results", str(folder))
    Console().print(table)


def environment() -> dict[str, str | int]:
    """Versions and device, for `summary.json` and benchmark results."""
    import jax

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        **{f"{package}_version": installed(package) for package in PACKAGES},
    }


def _check_same(file: Path, config: Any, may_change: tuple[str, ...]) -> None:
    import tomllib

    before = to_mapping(
        from_mapping(type(config), tomllib.loads(file.read_text(encoding="utf-8")), str(file))
    )
    changed = [
        f"  {name}: {old!r} -> {new!r}"
        for name, old, new in _differences(before, to_mapping(config))
        if name not in may_change
    ]
    if changed:
        raise UsageError(
            f"{file.parent} holds a run with another configuration:\n" + "\n".join(changed) + "\n"
            "Choose another --run-dir, or begin anew in this one with --no-resume."
        )


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
