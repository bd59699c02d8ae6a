"""The data of the jobs: rows of four numbers in three classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NAMES = ("setosa", "versicolor", "virginica")
Labelled = tuple[np.ndarray, np.ndarray]


def table(rows: int = 60, seed: int = 0) -> Labelled:
    """Float32 inputs (rows, 4) and int32 labels (rows,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows).astype(np.int32)
    return (rng.normal(size=(rows, 4)) + labels[:, None]).astype(np.float32), labels


def stream(epoch: int = 0) -> Iterator[Labelled]:
    """The batches of an epoch."""
    for batch in range(4):
        yield table(16, seed=4 * epoch + batch)
