"""Training, validation and test parts of one dataset."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

from jaxnet.data.order import FOLD_STREAM, SPLIT_STREAM, permutation
from jaxnet.errors import InputError

log = logging.getLogger("jaxnet")

E = TypeVar("E", bound="Examples")


class Examples(Protocol):
    """What can be cut into parts: `Arrays`, `Table`, a source, or labelled data of your own."""

    @property
    def labels(self) -> np.ndarray:
        """(n, ...), one row an example."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What class 0, 1, ... is called."""
        ...

    @property
    def name(self) -> str:
        """What messages call this dataset."""
        ...

    def __len__(self) -> int: ...

    def take(self: E, indices: np.ndarray, /) -> E:
        """The examples at `indices`, in that order."""
        ...


def split(
    data: E,
    fractions: Sequence[float] = (0.7, 0.2, 0.1),
    seed: int = 0,
    stratify: bool | Literal["auto"] = "auto",
) -> tuple[E, ...]:
    """Cut a dataset at random into parts, every example in exactly one of them.

    A stratified split gives each part its fraction of every class, rounded up or down to a whole
    example; a class with fewer than 1 / fraction examples may therefore be absent from that part.
    One with fewer examples than there are parts is in the first part alone, which by convention is
    the one to train on; a warning says so. The same seed gives the same parts. Inside a part the
    examples keep the order of `data`.

    Args:
        data: the examples: `Arrays`, a `Table`, or a source, of which nothing is read.
        fractions: the share of each part; positive, summing to 1.
        seed: at least 0.
        stratify: `"auto"` stratifies by integer labels of shape (n,) and by nothing else; True
            insists on such labels, and on as many of each as there are parts; False ignores them.

    Returns:
        For each fraction a dataset like `data`.

    Raises:
        InputError: the fractions are wrong, a part would be empty, all classes have fewer examples
            than there are parts, or labels cannot be stratified by.

    Example:
        >>> from jaxnet.data import Arrays
        >>> data = Arrays(np.arange(20.0).reshape(20, 1), np.arange(20) % 2)
        >>> train, valid, test = split(data, seed=1)
        >>> len(train), len(valid), len(test), np.bincount(train.labels).tolist()
        (14, 4, 2, [7, 7])
    """
    shares = checked_fractions(fractions, data.name)
    strata, sizes = _strata(data, stratify)
    rare = _rare(data, strata, sizes, stratify, len(shares), "they are in the first part alone")
    counts = _apportion(np.where(rare, 0, sizes), shares)
    counts[rare, 0] = sizes[rare]
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


def k_fold(
    data: E, k: int = 5, seed: int = 0, stratify: bool | Literal["auto"] = "auto"
) -> Iterator[tuple[E, E]]:
    """The k pairs (rest, fold) of cross-validation: each example is in exactly one fold.

    Folds differ in size by at most one example and, where they are stratified, have as many
    examples of each class, give or take one; a warning names classes with fewer examples than there
    are folds. The same seed gives the same folds. Inside a part the
    examples keep the order of `data`.

    Args:
        data: the examples: `Arrays`, or a `Table`.
        k: the number of folds, at least 2.
        seed: at least 0.
        stratify: as for `split`.

    Returns:
        An iterator of k pairs: what to train on and what to test on. Each is made when it is asked
        for.

    Raises:
        InputError: k is wrong or more than the number of examples, all classes have fewer than k
            examples, or labels cannot be stratified by.

    Example:
        >>> from jaxnet.data import Arrays
        >>> data = Arrays(np.arange(9.0).reshape(9, 1), np.arange(9) % 3)
        >>> [(len(train), test.labels.tolist()) for train, test in k_fold(data, 3)]
        [(6, [0, 1, 2]), (6, [1, 0, 2]), (6, [2, 0, 1])]
    """
    fold_of = assign_folds(data, k, seed, stratify)

    def pair(fold: int) -> tuple[E, E]:
        return data.take(np.flatnonzero(fold_of != fold)), data.take(
            np.flatnonzero(fold_of == fold)
        )

    return map(pair, range(k))


def assign_folds(
    data: Examples, k: int = 5, seed: int = 0, stratify: bool | Literal["auto"] = "auto"
) -> np.ndarray:
    """The fold of each example, (n,) from 0 to k - 1: what `k_fold` takes its pairs by.

    Arguments and errors are those of `k_fold`.

    Example:
        >>> from jaxnet.data import Arrays
        >>> data = Arrays(np.zeros((5, 1)), np.array([0, 0, 1, 1, 1]))
        >>> np.bincount(assign_folds(data, 2)).tolist()
        [3, 2]
    """
    try:
        k = operator.index(k)
    except TypeError as error:
        raise InputError(f"{data.name}: expected a whole number of folds, got {k!r}") from error
    if not 2 <= k <= len(data):
        raise InputError(
            f"{data.name}: expected from 2 folds to one for each of the {len(data)} examples, "
            f"got {k}"
        )
    strata, sizes = _strata(data, stratify)
    _rare(
        data,
        strata,
        sizes,
        stratify,
        k,
        "not every fold tests them, and the only one of a class "
        "is tested by a network that never saw it",
    )
    shuffled = permutation(seed, FOLD_STREAM, len(data))
    fold_of = np.empty(len(data), np.int64)
    # Dealt like cards, class after class without starting over, so that all counts are even.
    fold_of[shuffled[np.argsort(strata[shuffled], kind="stable")]] = np.arange(len(data)) % k
    return fold_of


def _strata(data: Examples, stratify: bool | Literal["auto"]) -> tuple[np.ndarray, np.ndarray]:
    """Which stratum each example belongs to, and how many belong to each in ascending order."""
    stratified = _is_stratified(data, stratify)
    strata = data.labels if stratified else np.zeros(len(data), np.int32)
    return strata, np.unique(strata, return_counts=True)[1]


def _rare(
    data: Examples,
    strata: np.ndarray,
    sizes: np.ndarray,
    stratify: bool | Literal["auto"],
    parts: int,
    fate: str,
) -> np.ndarray:
    """Whether each stratum has fewer examples than there are parts; a warning says what follows."""
    rare = (sizes < parts) & (len(sizes) > 1)
    if not rare.any():
        return rare
    if stratify is True or rare.all():
        _refuse_small_class(data, int(np.unique(strata)[sizes.argmin()]), int(sizes.min()), parts)
    named = [
        f"{data.class_names[label] if data.class_names else label} ({size})"
        for label, size in zip(np.unique(strata)[rare], sizes[rare], strict=True)
    ]
    more = f" and {len(named) - 10} more" if len(named) > 10 else ""
    log.warning(
        "%s: fewer examples than the %d parts in class %s%s: %s",
        data.name,
        parts,
        ", ".join(named[:10]),
        more,
        fate,
    )
    return rare


def checked_fractions(fractions: Sequence[float], name: str) -> np.ndarray:
    """The share of each part; `InputError` where one isn't positive, or they don't sum to 1."""
    shares = np.asarray(fractions, np.float64)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all():
        raise InputError(f"{name}: expected positive fractions such as (0.7, 0.3), got {fractions}")
    if abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"{name}: fractions must sum to 1, got {fractions}: {shares.sum():g}")
    return shares / shares.sum()


def _is_stratified(data: Examples, stratify: bool | Literal["auto"]) -> bool:
    if stratify not in (True, False, "auto"):
        raise InputError(f"stratify must be True, False or 'auto', got {stratify!r}")
    labels = getattr(data, "labels", None)  # unknown, where a source has to be read for them
    one = isinstance(labels, np.ndarray)  # and not several, by name
    possible = one and labels.ndim == 1 and labels.dtype.kind in "ui"
    if stratify == "auto":
        return possible
    if stratify and not possible:
        got = f"{labels.dtype} {labels.shape}" if one else "none" if labels is None else "several"
        raise InputError(
            f"{data.name}: to stratify, expected integer labels of shape (n,), got {got}; "
            "use stratify=False"
        )
    return bool(stratify)


def _refuse_small_class(data: Examples, label: int, size: int, parts: int) -> None:
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
