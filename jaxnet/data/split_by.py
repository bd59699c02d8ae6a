"""Parts of a dataset by time, or by group: test data is later, or of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from jaxnet.data.order import SPLIT_STREAM, permutation
from jaxnet.data.splits import checked_fractions
from jaxnet.errors import InputError

if TYPE_CHECKING:
    from jaxnet.data.tables.table import Table

E = TypeVar("E", bound="_Rows")


class _Rows(Protocol):
    """What can be cut: unlike `split`, this asks for no labels."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self: E, indices: np.ndarray, /) -> E: ...


def split_by_time(
    data: E, times: Any, fractions: Sequence[float] = (0.7, 0.2, 0.1)
) -> tuple[E, ...]:
    """Cut a dataset by time: the oldest examples are in the first part, the newest in the last.

    Examples of the same time are in the same part, so that the parts have about their fractions.
    Inside a part the examples keep the order of `data`. Nothing is random.

    Args:
        data: the examples: `Arrays`, a `Table`, or a source, of which nothing is read.
        times: (n,) numbers or points in time; of a `Table` the name of the column, which may be
            one that isn't used as an input.
        fractions: the share of each part; positive, summing to 1.

    Raises:
        InputError: the fractions are wrong, a time is missing, or there are fewer different times
            than parts.

    Example:
        >>> from jaxnet.data import Arrays
        >>> data = Arrays(np.arange(10.0)[:, None], np.arange(10) % 2)
        >>> train, test = split_by_time(data, [3, 1, 1, 1, 2, 2, 4, 5, 5, 3], (0.8, 0.2))
        >>> train.inputs[:, 0].tolist(), test.inputs[:, 0].tolist()
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0], [7.0, 8.0])
    """
    shares = checked_fractions(fractions, data.name)
    where = f"{data.name}: {times}" if isinstance(times, str) else f"{data.name}: times"
    if isinstance(times, str):
        values = cast("Table", data).times(times)
    else:
        values = _checked(times, len(data), where)
        if values.dtype.kind not in "buifmM":
            raise InputError(f"{where}: expected numbers or points in time, got {values.dtype}")
    different, place = np.unique(values, return_inverse=True)
    if len(different) < len(shares):
        raise InputError(
            f"{where}: expected at least {len(shares)} different times for as many parts, got "
            f"{len(different)}"
        )
    ends = np.cumsum(np.bincount(place))
    cuts = [0]
    for number, share in enumerate(np.cumsum(shares)[:-1], start=1):
        # At least one time for this part, and one for each that comes after it.
        low, high = cuts[-1] + 1, len(different) - (len(shares) - number)
        near = np.abs(ends[low - 1 : high] - share * len(data)).argmin()
        cuts.append(low + int(near))
    part_of = np.searchsorted(cuts, place, side="right") - 1
    return _parts(data, part_of, len(shares))


def split_by_group(
    data: E, groups: Any, fractions: Sequence[float] = (0.7, 0.2, 0.1), seed: int = 0
) -> tuple[E, ...]:
    """Cut a dataset at random into parts, with all examples of a group in the same part.

    Groups are what examples have in common that later ones won't: a patient, a speaker, a shop.
    They are taken in a random order, each for the part that is furthest from its fraction. The same
    seed gives the same parts. Inside a part the examples keep the order of `data`.

    Args:
        data: the examples: `Arrays`, a `Table`, or a source, of which nothing is read.
        groups: (n,) numbers or texts; of a `Table` the name of the column, which isn't an input of
            the parts: its values in one part say nothing about another.
        fractions: the share of each part; positive, summing to 1.
        seed: at least 0.

    Raises:
        InputError: the fractions are wrong, a group is missing, or there are fewer groups than
            parts.

    Example:
        >>> from jaxnet.data import Arrays
        >>> data = Arrays(np.arange(6.0)[:, None], np.arange(6) % 2)
        >>> train, test = split_by_group(data, ["a", "b", "a", "c", "b", "c"], (0.7, 0.3))
        >>> train.inputs[:, 0].tolist(), test.inputs[:, 0].tolist()
        ([0.0, 2.0, 3.0, 5.0], [1.0, 4.0])
    """
    shares = checked_fractions(fractions, data.name)
    where = f"{data.name}: {groups}" if isinstance(groups, str) else f"{data.name}: groups"
    if isinstance(groups, str):
        table = cast("Table", data)
        place, _ = table.groups(groups)
        data = cast("E", table.without(groups))
    else:
        place = np.unique(_checked(groups, len(data), where), return_inverse=True)[1]
    sizes = np.bincount(place)
    if len(sizes) < len(shares):
        raise InputError(
            f"{where}: expected at least {len(shares)} groups for as many parts, got {len(sizes)}"
        )
    owed = shares * len(data)
    part_of_group = np.full(len(sizes), -1)
    for left, group in zip(
        range(len(sizes), 0, -1), permutation(seed, SPLIT_STREAM, len(sizes)), strict=True
    ):
        empty = ~np.isin(np.arange(len(shares)), part_of_group)
        # The last groups go to the parts that have none yet.
        open_ = empty if left <= empty.sum() else np.full(len(shares), True)
        part = int(np.where(open_, owed, -np.inf).argmax())
        part_of_group[group] = part
        owed[part] -= sizes[group]
    return _parts(data, part_of_group[place], len(shares))


def check_apart(train: Table, test: Table, column: str) -> None:
    """Check that test data is of other groups.

    Raises:
        InputError: some groups are in both tables.
    """
    _, test_groups = test.groups(column)
    shared = set(train.groups(column)[1]) & set(test_groups)
    if shared:
        named = [group for group in test_groups if group in shared]
        more = f" and {len(named) - 10} more" if len(named) > 10 else ""
        raise InputError(
            f"{test.name}: {column}: expected other groups than in {train.name}, got "
            f"{', '.join(named[:10])}{more} in both"
        )


def _parts(data: E, part_of: np.ndarray, count: int) -> tuple[E, ...]:
    return tuple(data.take(np.flatnonzero(part_of == part)) for part in range(count))


def _checked(values: Any, rows: int, where: str) -> np.ndarray:
    """One value for each example, none of them missing."""
    if hasattr(values, "isna"):  # pandas
        gaps = np.asarray(values.isna())
        localised = getattr(getattr(values, "dt", None), "tz", None) is not None
        values = values.dt.tz_convert("UTC").dt.tz_localize(None) if localised else values
    else:
        values = np.asarray(values)
        # NaN and NaT differ from themselves.
        gaps = values != values
        if values.dtype == object:
            gaps = gaps | np.array([value is None for value in values.flat]).reshape(values.shape)
    array = np.asarray(values)
    if array.shape != (rows,):
        raise InputError(f"{where}: expected shape ({rows},), got {array.shape}")
    if gaps.any():
        raise InputError(
            f"{where}: {int(gaps.sum())} values are missing, the first in row "
            f"{int(gaps.argmax())}: fill them, or leave out their rows"
        )
    return array.astype(str) if array.dtype == object else array
