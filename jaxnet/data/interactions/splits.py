"""What of the interactions to learn from, what to test with, and what nobody chose."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.interactions.interactions import Interactions, Lists
from jaxnet.data.order import SPLIT_STREAM, permutation
from jaxnet.errors import InputError, UsageError

By = Literal["time", "random"]


def leave_last_out(
    data: Interactions, valid: int = 1, test: int = 1, by: By = "time", seed: int = 0
) -> tuple[Interactions, Interactions, Interactions]:
    """Training, validation and test part: of each user the last pairs are for testing.

    With `by="time"` a user's last `test` pairs are tested, the `valid` before them watched, and the
    rest is learnt from, as in He et al. (2017), "Neural collaborative filtering", section 4.1;
    pairs of the same time stay in the order of the rows. With `by="random"` chance decides which
    are the last. A user with no more than `valid + test` pairs is learnt from only.

    Args:
        data: the pairs.
        valid: how many of each user's pairs to watch.
        test: how many to test with.
        by: "time" or "random".
        seed: of what is random.

    Raises:
        InputError: no user has enough pairs.
        UsageError: there are no times to go by, or a number is below 1.

    Example:
        >>> from jaxnet.data.interactions.interactions import named
        >>> people, things = named(["ann", "bob"]), named("vwxyz")
        >>> pairs = Interactions(np.array([0, 0, 1, 0, 0]), np.arange(5), people, things,
        ...                      times=np.array([3, 1, 1, 2, 4]))
        >>> [part.items.tolist() for part in leave_last_out(pairs)]
        [[1, 2, 3], [0], [4]]
    """
    if valid < 1 or test < 1:
        raise UsageError(f"expected valid and test of at least 1, got {valid} and {test}")
    if by not in ("time", "random"):
        raise UsageError(f"expected a split by 'time' or 'random', got {by!r}")
    if by == "time" and data.times is None:
        raise UsageError(f"{data.name} has no times to split by: split it by 'random'")
    rows = np.arange(len(data))
    if by == "random":
        rows = permutation(seed, SPLIT_STREAM, len(data))
    elif data.times is not None:
        rows = np.argsort(data.times, kind="stable")
    rows = rows[np.argsort(data.users[rows], kind="stable")]
    counts = np.bincount(data.users, minlength=len(data.known_users))
    ends = np.cumsum(counts)[data.users[rows]]
    # How many of the same user's pairs come after each: 0 for the last one.
    after = ends - 1 - np.arange(len(rows))
    cut = counts[data.users[rows]] > valid + test
    tested = cut & (after < test)
    watched = cut & ~tested & (after < valid + test)
    if not cut.any():
        raise InputError(
            f"{data.name}: expected users with more than {valid + test} interactions, to test with "
            f"the last {test}; the most that one has is {counts.max()}"
        )
    parts = (~(tested | watched), watched, tested)
    names = ("training", "validation", "test")
    return tuple(  # pyright: ignore[reportReturnType]
        dataclasses.replace(data.take(np.sort(rows[part])), name=f"{data.name} ({name})")
        for part, name in zip(parts, names, strict=True)
    )


def with_negatives(
    data: Interactions, chosen: Lists, each: int = 4, numbered_users: bool = True, seed: int = 0
) -> Arrays:
    """The pairs with label 1, and for each of them some random items with label 0.

    He et al. (2017), "Neural collaborative filtering", section 3.1.1, for data that says what was
    chosen and never what was refused.

    Args:
        data: the pairs.
        chosen: for each user the items that are never drawn as negatives: what was taken, as far
            as is known.
        each: how many for a pair. One that the user has chosen is drawn again; after ten times it
            is left out.
        numbered_users: see `Interactions.arrays`.
        seed: of what is drawn.

    Raises:
        UsageError: `each` is below 1.

    Example:
        >>> from jaxnet.data.interactions.interactions import named
        >>> pairs = Interactions(np.array([0, 0]), np.array([0, 1]), named(["ann"]), named("xyz"))
        >>> sampled = with_negatives(pairs, pairs.of_users(), each=2)
        >>> sampled.inputs.tolist(), sampled.labels.tolist()
        ([[0, 0], [0, 1], [0, 2], [0, 2], [0, 2], [0, 2]], [1, 1, 0, 0, 0, 0])
    """
    if each < 1:
        raise UsageError(f"expected each of at least 1, got {each}")
    rng, count = np.random.default_rng(seed), len(data.known_items)
    owners = np.repeat(np.arange(len(chosen)), chosen.lengths)
    taken = np.unique(owners * count + chosen.values)
    users = np.repeat(data.users, each).astype(np.int64)
    items = rng.integers(0, count, len(users))
    for _ in range(10):
        again = np.isin(users * count + items, taken)
        items[again] = rng.integers(0, count, int(again.sum()))
    free = ~np.isin(users * count + items, taken)
    everything = dataclasses.replace(
        data,
        users=np.concatenate([data.users, users[free]]).astype(np.int32),
        items=np.concatenate([data.items, items[free]]).astype(np.int32),
        ratings=None,
        times=None,
    )
    labels = np.arange(len(everything)) < len(data)
    return everything.arrays(labels.astype(np.int32), numbered_users)
