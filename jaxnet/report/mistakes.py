"""The table of the examples that a classifier took for another class."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnet.cluster import processes
from jaxnet.files import write_atomically

SHOWN = 5


def write_mistakes(
    file: Path,
    texts: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Write the texts that were taken for another class, the surest mistakes first; print some.

    Of several processes the first one writes.

    Args:
        file: the CSV file to write.
        texts: n texts.
        labels: (n,) their classes.
        logits: (n, classes), what the network says of them.
        class_names: what class 0, 1, ... is called.
    """
    if not processes.is_first():
        return
    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    predicted = shares.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")]
    rows = [
        (
            class_names[int(labels[row])],
            class_names[int(predicted[row])],
            f"{shares[row, predicted[row]]:.3f}",
            texts[int(row)],
        )
        for row in wrong
    ]
    with write_atomically(file) as opened:
        csv.writer(opened).writerows([("true", "predicted", "probability", "text"), *rows])
    if rows:
        print(f"\nthe surest of {len(rows)} mistakes:")
    for true, taken, probability, text in rows[:SHOWN]:
        print(f"  {true}, taken for {taken} ({probability}): {text[:90]}")
