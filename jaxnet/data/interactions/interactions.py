"""Who chose what: pairs of a user and an item, perhaps with a rating and a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Entities:
    """The users, or the items: what they are called and what is known of them.

    Attributes:
        ids: what user or item 0, 1, ... is called in the data's files.
        features: (n, columns) int32 codes of what is known of each, perhaps with no column.
        sizes: how many codes each column has.
        titles: names for people to read, such as those of films; by default `ids`.
    """

    ids: tuple[str, ...]
    features: np.ndarray
    sizes: tuple[int, ...] = ()
    titles: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ids)

    def title(self, number: int) -> str:
        """What to call one of them."""
        return self.titles[number] if self.titles else self.ids[number]

    def numbers(self, ids: Iterable[str]) -> np.ndarray:
        """The numbers (m,) of those that are called so.

        Raises:
            InputError: one isn't known; the message names it.
        """
        place = {one: number for number, one in enumerate(self.ids)}
        ids = [str(one) for one in ids]
        for one in ids:
            if one not in place:
                raise InputError(
                    f"expected ids that are in the data, such as {self.ids[0]!r}; got {one!r}. "
                    "Nothing was learnt of it: recommend what is popular, or train again"
                )
        return np.array([place[one] for one in ids], np.int32)

    def columns(self, numbered: bool = True) -> np.ndarray:
        """(n, columns) int32: what a tower reads of each, by default its number first."""
        number = np.arange(len(self), dtype=np.int32)[:, None]
        return np.concatenate([number, self.features], axis=1) if numbered else self.features

    def column_sizes(self, numbered: bool = True) -> tuple[int, ...]:
        """How many ids each of `columns` has."""
        return (len(self), *self.sizes) if numbered else tuple(self.sizes)


def named(ids: Sequence[str]) -> Entities:
    """Users or items of which nothing is known but what they are called."""
    return Entities(tuple(ids), np.zeros((len(ids), 0), np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """A list of numbers for each of n rows, of different lengths.

    Attributes:
        values: the lists one after the other, int32.
        starts: (n + 1,) where each begins.
    """

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """The number of lists."""
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) how long each is."""
        return np.diff(self.starts)

    def padded(self, rows: np.ndarray, width: int | None = None) -> np.ndarray:
        """(m, width) int32: the lists at `rows`, filled up with -1.

        Example:
            >>> lists = Lists(np.array([7, 8, 9], np.int32), np.array([0, 1, 1, 3]))
            >>> lists.padded(np.array([2, 0, 1])).tolist()
            [[8, 9], [7, -1], [-1, -1]]
        """
        width = max(1, int(self.lengths.max(initial=0))) if width is None else width
        starts, lengths = self.starts[:-1][rows], self.lengths[rows]
        place = np.arange(width)[None]
        inside = place < lengths[:, None]
        source = np.where(inside, starts[:, None] + place, 0)
        values = self.values if len(self.values) else np.zeros(1, np.int32)
        return np.where(inside, values[source], -1).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Pairs of users and items.

    Attributes:
        users: (n,) int32, the number of the user.
        items: (n,) int32, the number of the item.
        known_users: all users there are.
        known_items: all items there are.
        ratings: (n,) float32, if there are any.
        times: (n,) int64, if they are known; of any origin and unit.
        name: what messages call this dataset.

    Raises:
        InputError: lengths differ, there is nothing, a number is outside its table, or a rating is
            not finite.
    """

    users: np.ndarray
    items: np.ndarray
    known_users: Entities
    known_items: Entities
    ratings: np.ndarray | None = None
    times: np.ndarray | None = None
    name: str = "interactions"

    def __post_init__(self) -> None:
        columns = {"users": self.users, "items": self.items}
        columns |= {"ratings": self.ratings, "times": self.times}
        lengths = {key: len(column) for key, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{self.name}: expected columns of one length, got {lengths}")
        if not len(self.users):
            raise InputError(f"{self.name}: expected at least one interaction, got none")
        for key, numbers, known in (
            ("users", self.users, self.known_users),
            ("items", self.items, self.known_items),
        ):
            wrong = (numbers < 0) | (numbers >= len(known))
            if wrong.any():
                row = int(wrong.argmax())
                raise InputError(
                    f"{self.name}: expected {key} from 0 to {len(known) - 1}, got {numbers[row]} "
                    f"in row {row}"
                )
        if self.ratings is not None and not np.isfinite(self.ratings).all():
            row = int((~np.isfinite(self.ratings)).argmax())
            raise InputError(f"{self.name}: the rating in row {row} is {self.ratings[row]}")

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.users)

    def take(self, rows: np.ndarray) -> Interactions:
        """The pairs at `rows`, in that order."""
        ratings = None if self.ratings is None else self.ratings[rows]
        times = None if self.times is None else self.times[rows]
        return dataclasses.replace(
            self, users=self.users[rows], items=self.items[rows], ratings=ratings, times=times
        )

    def of_users(self) -> Lists:
        """The items of each user, in the order of the rows; empty for users without any."""
        return as_lists(self)

    def popularity(self) -> np.ndarray:
        """(items,) how often each item was chosen."""
        return np.bincount(self.items, minlength=len(self.known_items))

    def arrays(self, labels: np.ndarray, numbered_users: bool = True) -> Arrays:
        """A row of ids for each pair, (n, user columns + item columns), with these labels."""
        users = self.known_users.columns(numbered_users)[self.users]
        items = self.known_items.columns()[self.items]
        return Arrays(np.concatenate([users, items], axis=1), labels, name=self.name)


def as_lists(data: Interactions, *others: Interactions) -> Lists:
    """The items of each user in all of these parts of one dataset, in the order of the rows."""
    users = np.concatenate([part.users for part in (data, *others)])
    items = np.concatenate([part.items for part in (data, *others)])
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users, minlength=len(data.known_users))
    return Lists(items[order].astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))
