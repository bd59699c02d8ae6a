"""The rows that pad the last batch of an epoch, without reading them a second time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Padding:
    """Copies the padding of an epoch's last batch from rows that have been read already.

    `jaxnet.data.order.batches` pads a column of the last batch with the row that the first batch
    has in this column. A process fills the same columns of every batch, so it has read that row,
    unless the epoch was resumed after its first batch. An epoch of a single batch repeats its rows.

    Attributes:
        order: (steps, columns) integers, this process's share of the epoch's batches; `~row` pads.
        examples: the number of examples that the epoch has, in all processes.
        start: the step at which the epoch begins, which is above 0 when it is resumed.
    """

    def __init__(self, order: np.ndarray, examples: int, start: int) -> None:
        self.order = order
        self.examples = examples
        self.start = start
        self._first: dict[str, np.ndarray] = {}

    def to_read(self, rows: np.ndarray) -> int:
        """How many of the first rows of some batches have to be read; the rest is for `fill`.

        Args:
            rows: (m,) integers, the rows of these batches one after the other; `~row` pads.
        """
        if len(self.order) == 1:
            return min(len(rows), self.examples)
        return len(rows) if self.start else int((rows >= 0).sum())

    def fill(self, columns: Mapping[str, np.ndarray], rows: np.ndarray, step: int) -> None:
        """Write the padding of some batches whose other rows are there.

        Batches have to come in their order, because those of step 0 are what is copied later.

        Args:
            columns: arrays of at least m rows.
            rows: (m,) as for `to_read`.
            step: the step of the first of these batches.
        """
        read, alone = self.to_read(rows), len(self.order) == 1
        padding = self.order[-1] < 0
        for name, column in columns.items():
            if step == 0:
                self._first[name] = column[:read] if alone else column[: len(padding)][padding]
            if read < len(rows):
                shape = len(rows) - read, *column.shape[1:]
                column[read : len(rows)] = np.resize(self._first[name], shape)
