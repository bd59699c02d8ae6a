"""Training, validation and test parts of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.order import SPLIT_STREAM, permutation
from jaxnet.errors import InputError


def split(
    data: Arrays,
    fractions: Sequence[float] = (0.7, 0.2, 0.1),
    seed: int = 0,
    stratify: bool | Literal["auto"] = "auto",
) -> tuple[Arrays, ...]:
    """Cut a dataset at random into parts, every example in exactly one of them.

    A stratified split gives each part its fraction of every class, rounded up or down to a whole
    example; a class with fewer than 1 / fraction examples may therefore be absent from that part.
    The same seed gives the same parts. Inside a part the examples keep the order of `data`.

    Args:
        data: the examples.
        fractions: the share of each part; positive, summing to 1.
        seed: at least 0.
        stratify: `"auto"` stratifies by integer labels of shape (n,) and by nothing else; True
            insists on such labels; False ignores them.

    Returns:
        One `Arrays` for each fraction.

    Raises:
        InputError: the fractions are wrong, a class has fewer examples than there are parts, a part
            would be empty, or labels cannot be stratified by.

    Example:
        >>> data = Arrays(np.arange(20.0).reshape(20, 1), np.arange(20) % 2)
        >>> train, valid, test = split(data, seed=1)
        >>> len(train), len(valid), len(test), np.bincount(train.labels).tolist()
        (14, 4, 2, [7, 7])
    """
    shares = _checked_fractions(fractions, data.name)
    stratified = _is_stratified(data, stratify)
    strata = data.labels if stratified else np.zeros(len(data), np.int32)
    classes, sizes = np.unique(strata, return_counts=True)
    if stratified and sizes.min() < len(shares):
        _refuse_small_class(data, int(classes[sizes.argmin()]), int(sizes.min()), len(shares))
    counts = _apportion(sizes, shares)
    for part, total in enumerate(counts.sum(axis=0)):
        if total == 0:
            raise InputError(
                f"{data.name}: part {part + 1} of {len(shares)} (fraction {fractions[part]:g}) of "
                f"{len(data)} examples would be empty; give it more, or bring more data"
            )
    shuffled = permutation(seed, SPLIT_STREAM, len(data))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    part_of = np.repeat(np.tile(np.arange(len(shares)), len(sizes)), counts.ravel())
    return tuple(data.take(np.sort(by_stratum[part_of == part])) for part in range(len(shares)))


def _checked_fractions(fractions: Sequence[float], name: str) -> np.ndarray:
    shares = np.asarray(fractions, np.float64)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all():
        raise InputError(f"{name}: expected positive fractions such as (0.7, 0.3), got {fractions}")
    if abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"{name}: fractions must sum to 1, got {fractions}: {shares.sum():g}")
    return shares / shares.sum()


def _is_stratified(data: Arrays, stratify: bool | Literal["auto"]) -> bool:
    if stratify not in (True, False, "auto"):
        raise InputError(f"stratify must be True, False or 'auto', got {stratify!r}")
    possible = data.labels.ndim == 1 and data.labels.dtype.kind in "ui"
    if stratify == "auto":
        return possible
    if stratify and not possible:
        raise InputError(
            f"{data.name}: to stratify, expected integer labels of shape (n,), got "
            f"{data.labels.dtype} {data.labels.shape}; use stratify=False"
        )
    return bool(stratify)


def _refuse_small_class(data: Arrays, label: int, size: int, parts: int) -> None:
    called = f" ({data.class_names[label]!r})" if data.class_names else ""
    raise InputError(
        f"{data.name}: class {label}{called} has {size} of the examples, fewer than the {parts} "
        "parts; bring more of them, drop the class, or use stratify=False if the labels are not "
        "classes"
    )


def _apportion(sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Whole numbers (classes, parts) near `sizes * shares` whose rows sum to `sizes`.

    Each is its exact value rounded up or down. Which are rounded up is settled by what the part is
    still owed from the classes before, so that the parts' totals keep to their fractions as well:
    with many small classes, each on its own would favour the same parts every time.
    """
    counts = np.empty((len(sizes), len(shares)), np.int64)
    owed = np.zeros(len(shares))
    for row, size in enumerate(sizes):
        # Rounded, because 50 * 0.14 is a hair above 7, which would let it become 8.
        exact = np.round(size * shares, 9)
        counts[row] = np.floor(exact)
        rest = exact - counts[row]
        first = np.argsort(-np.where(rest > 0, owed + rest, -np.inf), kind="stable")
        counts[row, first[: size - counts[row].sum()]] += 1
        owed += exact - counts[row]
    return counts
