"""The history of a run: one row of numbers per epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet import trees
from jaxnet.files import write_atomically
from jaxnet.metrics.direction import Direction

PyTree = Any
Row = Mapping[str, float]


@dataclass(frozen=True)
class History:
    """The metrics of a run, epoch by epoch.

    Attributes:
        rows: `{"epoch": 1, "step": 15, "loss": ..., "val_loss": ..., ...}` for each epoch.

    Example:
        >>> history = History(({"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}))
        >>> history["loss"]
        [0.5, 0.25]
    """

    rows: tuple[Row, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[float]:
        """A column, such as `"val_loss"`; NaN where a row lacks it."""
        if not any(column in row for row in self.rows):
            raise KeyError(f"no column {column!r}; this history has {', '.join(self.columns)}")
        return [row.get(column, float("nan")) for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def add(self, row: Row) -> History:
        """The history with one more row."""
        return History((*self.rows, row))

    def write_csv(self, path: Path) -> None:
        """Write the rows to a CSV file, atomically; numbers read back exactly."""
        with write_atomically(path) as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def plot(self, path: Path, best_step: int | None = None, title: str = "") -> None:
        """Plot the learning curves to an image file; see `jaxnet.report.plots`."""
        from jaxnet.report.plots import plot_curves

        plot_curves(self, path, best_step, title)


@jax.tree_util.register_pytree_node_class
class JudgedRow(dict[str, Any]):
    """A row of the history as a pytree, with the directions of its metrics.

    Attributes:
        declared: the directions that the metrics declare (`metrics.Mean.better`), by column. They
            are static, part of the pytree's structure.

    Example:
        >>> row = JudgedRow({"val_hits": np.float32(3)}, {"val_hits": "max"})
        >>> jax.tree.map(lambda value: 2 * value, row).declared
        {'val_hits': 'max'}
    """

    def __init__(self, values: Mapping[str, Any], declared: Mapping[str, Direction]) -> None:
        super().__init__(values)
        self.declared = declared

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The values as children; columns and directions as auxiliary data."""
        return tuple(self.values()), (tuple(self), tuple(self.declared.items()))

    @classmethod
    def tree_unflatten(cls, names: tuple[Any, ...], values: Sequence[Any]) -> JudgedRow:
        """The inverse of `tree_flatten`."""
        columns, declared = names
        return cls(dict(zip(columns, values, strict=True)), dict(declared))


Sums = Mapping[str, np.ndarray]

# From this size on the microseconds of a Python loop per step are negligible.
_LARGE = 2**12


def add_steps(total: Sums | None, steps: PyTree) -> Sums:
    """Add the metrics of several steps to running sums, in float64.

    Steps are added one by one, so that the sums don't depend on where chunks end.

    Args:
        total: the sums so far, by the paths of the metrics' leaves; None for zero.
        steps: metrics on the host, with the step as leading axis.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in trees.named(steps).items()}
    if total is None:
        total = {path: np.zeros(leaf.shape[1:]) for path, leaf in leaves.items()}
    return {path: _added(total[path], leaf) for path, leaf in leaves.items()}


def _added(total: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`total` and each of `steps`, one after the other, in float64."""
    if total.size > _LARGE:  # without a copy of all steps in float64
        total = total.copy()
        for step in steps:
            total += step
        return total
    steps = np.concatenate([total[None], steps.astype(np.float64)])
    return np.add.accumulate(steps, axis=0)[-1]


def as_metrics(sums: Sums, like: PyTree) -> PyTree:
    """The metrics, with the structure of `like`, from sums by path."""
    return jax.tree.map(sums.__getitem__, trees.paths(like))


def computed(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The value of each metric, computed from its sums, as a float or an array."""
    return {
        prefix + name: value.compute() if hasattr(value, "compute") else _plain(value)
        for name, value in metrics.items()
    }


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """The scalar values, which fit into a row of the history, losses first.

    Example:
        >>> scalars({"accuracy": 0.5, "confusion": np.eye(2), "loss": 1.5})
        {'loss': 1.5, 'accuracy': 0.5}
    """
    names = sorted(values, key=lambda name: not name.endswith("loss"))
    return {name: float(values[name]) for name in names if np.ndim(values[name]) == 0}


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
