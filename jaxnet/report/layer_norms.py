"""Norms of gradients and outputs by layer, for networks that start in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxnet.report.plots import save


@dataclass(frozen=True)
class Start:
    """The layers of a network at its start, and how well it learnt."""

    activation: str
    initializer: str
    gradients: tuple[float, ...]
    """the norm of each layer's gradient in the first step, from the input on"""
    outputs: tuple[float, ...]
    """the root mean square of what each layer puts out, before its activation"""
    accuracy: float
    """on the test set, after the last epoch"""


def plot_starts(starts: Sequence[Start], path: Path) -> None:
    """Plot the norms over the layers: a line per initialiser, a column per activation."""
    from matplotlib.figure import Figure

    activations = list(dict.fromkeys(one.activation for one in starts))
    figure = Figure(figsize=(5.5 * len(activations), 7), layout="constrained")
    panels = figure.subplots(2, len(activations), squeeze=False, sharex=True, sharey="row")
    for column, activation in enumerate(activations):
        for one in (one for one in starts if one.activation == activation):
            label = f"{one.initializer} ({one.accuracy:.0%})"
            for axes, norms in zip(panels[:, column], (one.gradients, one.outputs), strict=True):
                # A norm of 0 has no place on a logarithmic axis.
                shown = [norm if norm > 0 else float("nan") for norm in norms]
                axes.plot(range(1, len(norms) + 1), shown, marker=".", label=label)
        panels[0, column].set(title=activation, yscale="log")
        panels[1, column].set(xlabel="layer, from the input on", yscale="log")
        panels[0, column].legend(title="initialiser (test accuracy); 0 has no place", fontsize=8)
    panels[0, 0].set(ylabel="norm of the gradient, first step")
    panels[1, 0].set(ylabel="root mean square of the outputs")
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    save(figure, path)


def print_starts(starts: Sequence[Start]) -> None:
    """Print a table with a row per network."""
    from rich.console import Console
    from rich.table import Table

    heads = ["activation", "initialiser", "gradient, first", "last layer", "ratio", "accuracy"]
    table = Table(*heads, box=None, padding=(0, 2, 0, 0))
    for one in starts:
        first, last = one.gradients[0], one.gradients[-1]
        ratio = f"{first / last:.1e}" if last else "-"
        numbers = f"{first:.1e}", f"{last:.1e}", ratio, f"{one.accuracy:.1%}"
        table.add_row(one.activation, one.initializer, *numbers)
    Console().print(table)
