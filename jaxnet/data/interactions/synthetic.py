"""Interactions drawn from a known two-tower model, whose own recall says what can be reached."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnet.data.interactions.interactions import Entities, Interactions
from jaxnet.errors import UsageError

# What is known of users, and the number of its values: in people's terms age, place and trade.
USER_SIZES = (6, 10, 20)
GENRES = 12
LOWEST, HIGHEST = 1.0, 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """The model that interactions were drawn from.

    Attributes:
        users: (users, width + 1) float32 vectors.
        items: (items, width + 1) float32 vectors. The score of a pair is the dot product; its last
            term is the item's popularity.
    """

    users: np.ndarray
    items: np.ndarray

    def expected_rating(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(n,) float32: the mean rating of pairs, before it is rounded: popularity left out."""
        taste = (self.users[users, :-1] * self.items[items, :-1]).sum(axis=1)
        return np.clip(3 + 0.5 * taste, LOWEST, HIGHEST)


def draw_interactions(
    users: int = 8000, items: int = 400, each: int = 40, width: int = 4, seed: int = 0
) -> tuple[Interactions, GroundTruth]:
    """Users that choose `each` items of a catalogue, as a two-tower model has it.

    A user is known by three features; their embeddings are added and go through a tanh and a matrix
    to the user's vector. An item's vector is that of its genre and a part of its own, its
    popularity a number of its own. A user's items are drawn without repetition, each with the
    chances of the softmax over the items that are left (Plackett 1975). `times` are random: the
    last items are no other kind than the first. Ratings are 3 and half the dot product without
    popularity, from 1 to 5, with normal noise of deviation 0.5, rounded.

    Args:
        users: how many users.
        items: how many items.
        each: how many items each user takes.
        width: the width of the known vectors.
        seed: of all that is drawn.

    Returns:
        The pairs, and the model that they were drawn from.

    Raises:
        UsageError: a number is below 1, or a user would take more items than there are.

    Example:
        >>> pairs, known = draw_interactions(users=10, items=30, each=5)
        >>> len(pairs), known.users.shape, known.items.shape
        (50, (10, 5), (30, 5))
    """
    if min(users, items, each, width) < 1 or each > items:
        raise UsageError(
            f"expected numbers of at least 1, and at most {items} items for each user; got "
            f"users {users}, items {items}, each {each}, width {width}"
        )
    rng = np.random.default_rng(seed)
    known_users, user_vectors = _users(rng, users, width)
    known_items, item_vectors = _items(rng, items, width)
    known = GroundTruth(user_vectors, item_vectors)
    # The largest of scores with Gumbel noise are a draw without repetition (Yellott 1977).
    noisy = user_vectors @ item_vectors.T + rng.gumbel(size=(users, items))
    chosen = np.argsort(-noisy, axis=1)[:, :each]
    # The likeliest come first; shuffled, all times are alike.
    chosen = rng.permuted(chosen, axis=1).ravel().astype(np.int32)
    who = np.repeat(np.arange(users, dtype=np.int32), each)
    rating = known.expected_rating(who, chosen) + 0.5 * rng.standard_normal(len(who))
    rating = np.clip(np.round(rating), LOWEST, HIGHEST).astype(np.float32)
    times = np.tile(np.arange(each), users)
    pairs = Interactions(who, chosen, known_users, known_items, rating, times, "known")
    return pairs, known


def _users(rng: np.random.Generator, count: int, width: int) -> tuple[Entities, np.ndarray]:
    features = np.stack([rng.integers(0, size, count) for size in USER_SIZES], axis=1)
    features = features.astype(np.int32)
    tables = [rng.standard_normal((size, 8)) for size in USER_SIZES]
    hidden = np.tanh(sum(table[features[:, i]] for i, table in enumerate(tables)))
    vectors = hidden @ rng.standard_normal((8, width)) / np.sqrt(width)
    ones = np.ones((count, 1))
    ids = tuple(f"user {number}" for number in range(count))
    known = Entities(ids, features, USER_SIZES)
    return known, np.concatenate([vectors, ones], axis=1).astype(np.float32)


def _items(rng: np.random.Generator, count: int, width: int) -> tuple[Entities, np.ndarray]:
    genre = rng.integers(0, GENRES, count).astype(np.int32)
    own = rng.standard_normal((count, width))
    vectors = 0.7 * rng.standard_normal((GENRES, width))[genre] + 0.7 * own
    popularity = 0.5 * rng.standard_normal((count, 1))
    ids = tuple(f"item {number}" for number in range(count))
    known = Entities(ids, genre[:, None], (GENRES,))
    return known, np.concatenate([vectors, popularity], axis=1).astype(np.float32)
