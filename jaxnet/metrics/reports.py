"""The table at the end of a run: precision, recall and F1 of each class."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from jaxnet.errors import InputError
from jaxnet.files import write_atomically
from jaxnet.metrics.precision_recall import PRECISION, RECALL, Counts, Ratio, averaged, f_ratio

_REPORTED: Mapping[str, Ratio] = {"precision": PRECISION, "recall": RECALL, "f1": f_ratio(1.0)}


@dataclass(frozen=True)
class Report:
    """Precision, recall and F1 of each class.

    Attributes:
        class_names: the classes, in order.
        counts: right and wrong answers on each.
    """

    class_names: tuple[str, ...]
    counts: Counts

    @property
    def support(self) -> Float[np.ndarray, " classes"]:
        """The weight of the examples of each class."""
        return np.asarray(self.counts.true_positives + self.counts.false_negatives)

    @property
    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """Name, precision, recall, F1 and support of each class."""
        columns = [ratio.of(self.counts) for ratio in _REPORTED.values()]
        table = np.stack([*columns, self.support], axis=1).tolist()
        return [(name, *row) for name, row in zip(self.class_names, table, strict=True)]

    def summary(self) -> dict[str, float]:
        """The means over the classes that occur, called as the metrics are."""
        present = self.support + self.counts.false_positives > 0
        return {
            name: float(averaged(ratio.of(self.counts), self.support, present, "macro"))
            for name, ratio in _REPORTED.items()
        }

    def write_csv(self, path: Path) -> None:
        """Write the rows to a CSV file, atomically."""
        with write_atomically(path) as file:
            writer = csv.writer(file)
            writer.writerow(["class", *_REPORTED, "support"])
            writer.writerows(self.rows)

    def __str__(self) -> str:
        rows = [*self.rows, ("mean", *self.summary().values(), float(self.support.sum()))]
        width = max(len(name) for name, *_ in rows)
        lines = [
            f"{name:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {support:8g}"
            for name, precision, recall, f1, support in rows
        ]
        return "\n".join([f"{'class':{width}}  precision  recall      f1   support", *lines])


def classification_report(
    confusion: Shaped[ArrayLike, "*_classes_classes"], class_names: Sequence[str] | None = None
) -> Report:
    """Precision, recall and F1 of each class, from a confusion matrix.

    A rate whose denominator is 0 is 0; classes that do not occur stay out of the means.

    Args:
        confusion: (C, C), true classes as rows (`jaxnet.metrics.confusion_matrix`).
        class_names: the classes, in order; by default their numbers.

    Raises:
        InputError: the matrix is not square, or there are more or fewer names than classes.

    Example:
        >>> print(classification_report(np.array([[3.0, 1.0], [0.0, 4.0]]), ["cat", "hippo"]))
        class  precision  recall      f1   support
        cat       1.0000  0.7500  0.8571         4
        hippo     0.8000  1.0000  0.8889         4
        mean      0.9000  0.8750  0.8730         8
    """
    matrix = np.asarray(confusion, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"expected a confusion matrix (C, C); got {list(matrix.shape)}")
    tp, true, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    counts = Counts(tp, answers - tp, true - tp, matrix.sum() - true - answers + tp)
    return Report(named(class_names, len(matrix)), counts)


def named(names: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """The names, or numbers where there are none; one class alone is "yes".

    Raises:
        InputError: there are not as many as classes.
    """
    if names is None:
        return ("yes",) if classes == 1 else tuple(map(str, range(classes)))
    if len(names) != classes:
        raise InputError(f"expected {classes} class names, one a class; got {len(names)}")
    return tuple(names)
