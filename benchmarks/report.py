"""Where and with what a benchmark ran, and its results as a table, JSON and a picture."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet.files import json_text

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "keras", "torch", "scikit-learn", "numpy")
# Beyond this ratio of the longest bar to the shortest, a picture has a logarithmic axis.
LINEAR_UP_TO = 20
RESULTS = Path(__file__).parent / "results"


class Bar(NamedTuple):
    """A value to draw, the lowest and the highest of its rounds, and the family that colours it."""

    value: float
    low: float
    high: float
    family: str


def header(benchmark: str, unit: str) -> dict[str, Any]:
    """The fields that every report begins with."""
    return {
        "benchmark": benchmark,
        "unit": unit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": cores(),
            "memory_gib": round(_memory_bytes() / 2**30, 1),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caption(report: Mapping[str, Any]) -> str:
    """Two lines that name machine, date and versions."""
    machine, versions = report["machine"], report["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, {report['date'][:10]}\n"
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    """Print a table; all columns but the first are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, caption=note, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        made.add_row(*row)
    # A file or a pipe has no width of its own, and a table cut to 80 columns loses its numbers.
    console = Console()
    Console(width=max(console.width, 120)).print(made)


def write(report: Mapping[str, Any], panels: Mapping[str, Mapping[str, Bar]], out: Path) -> None:
    """Write the report as JSON and its panels as a PNG, named after the benchmark, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    stem = out / report["benchmark"]
    stem.with_suffix(".json").write_text(json_text(report, indent=1) + "\n")
    _draw(report, panels, stem.with_suffix(".png"))
    print(f"wrote {stem}.json and {stem}.png")


def _draw(report: Mapping[str, Any], panels: Mapping[str, Mapping[str, Bar]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    heights = [len(bars) + 1.5 for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, squeeze=False, height_ratios=heights, figsize=(9, 0.28 * sum(heights) + 1)
    )
    families = list(dict.fromkeys(bar.family for bars in panels.values() for bar in bars.values()))
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, title, bars, families)
    axes[-1, 0].set_xlabel(f"{report['unit']}\n{caption(report)}", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Any, title: str, bars: Mapping[str, Bar], families: Sequence[str]) -> None:
    for row, bar in enumerate(bars.values()):
        error = [[bar.value - bar.low], [bar.high - bar.value]]
        colour = f"C{families.index(bar.family)}"
        axis.barh(row, bar.value, xerr=error, color=colour, error_kw={"lw": 0.8, "capsize": 2})
        axis.text(bar.high, row, f"  {bar.value:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(bars)), list(bars), fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_title(title, loc="left", fontsize=10)
    values = [bar.value for bar in bars.values()]
    if max(values) > LINEAR_UP_TO * min(values):
        axis.set_xscale("log")


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
