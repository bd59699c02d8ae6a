"""User-item interactions by the name that `--data` has, in parts for training and testing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnet.errors import UsageError
from jaxnet.options import Range

if TYPE_CHECKING:
    from jaxnet.data import GroundTruth, Interactions, Lists


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV file."""

    user: str = "user"
    """the users' ids"""
    item: str = "item"
    """the items' ids"""
    rating: str | None = None
    """ratings, if there are any"""
    time: str | None = None
    """times, as numbers, if they are known"""


@dataclass(frozen=True)
class Split:
    """What to test with."""

    by: Literal["auto", "time", "random"] = "auto"
    """which interactions of a user are the last; by default by time where times are known"""
    valid: Annotated[int, Range()] | None = None
    """how many of each user's interactions to watch; by default 1, of known data 5"""
    test: Annotated[int, Range()] | None = None
    """how many of each user's interactions to test with; by default 1, of known data 5"""


@dataclass(frozen=True)
class Parts:
    """What to learn from, to watch, and to test with."""

    train: Interactions
    valid: Interactions
    test: Interactions
    numbered: bool
    """whether users are known by their numbers"""
    known: GroundTruth | None = None
    """the model that the data was drawn from"""

    @property
    def had(self) -> Lists:
        """What each user has before the test."""
        from jaxnet.data.interactions.interactions import as_lists

        return as_lists(self.train, self.valid)

    @property
    def mappings(self) -> dict[str, Any]:
        """What the numbers of users and items stand for."""
        from jaxnet.digests import array_digest, texts_digest

        sides = {"users": self.train.known_users, "items": self.train.known_items}
        return {
            name: [texts_digest(side.ids), array_digest(side.features)]
            for name, side in sides.items()
        }


def _known(config: Any) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import draw_interactions

    return draw_interactions(seed=config.seed)


def _movielens(config: Any) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import load_movielens

    what = "the folder or the zip file of a set"
    return load_movielens(config.data_path(what, "movielens", "movielens.zip")), None


def _csv(config: Any) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import read_interactions

    path, names = config.data_path("a CSV file"), config.columns
    return read_interactions(path, names.user, names.item, names.rating, names.time), None


# Interactions, and the model that they were drawn from, where that is known.
INTERACTIONS: Mapping[str, Callable[[Any], tuple[Interactions, GroundTruth | None]]] = {
    "known": _known,
    "movielens": _movielens,
    "csv": _csv,
}


def read_parts(config: Any) -> Parts:
    """The interactions that a configuration names, the last ones of each user apart.

    Raises:
        UsageError: the data wasn't said, there are no such users, there aren't so many items, or
            nothing is known of the users.
        InputError: the data can't be read or split.
    """
    from jaxnet.data import leave_last_out

    pairs, known = INTERACTIONS[config.data](config)
    count = len(pairs.known_items)
    if not 1 <= config.k < count:
        raise UsageError(f"--k: expected from 1 to {count - 1}, because there are {count} items")
    numbered = config.user_ids
    if numbered is None:
        numbered = not pairs.known_users.sizes
    if not numbered and not pairs.known_users.sizes:
        raise UsageError("--no-user-ids: nothing else is known of the users of this data")
    # A user that isn't there is told now, and not after training.
    pairs.known_users.numbers(config.users)
    split, usual = config.split, 5 if known is not None else 1
    by = split.by if split.by != "auto" else ("random" if pairs.times is None else "time")
    valid = usual if split.valid is None else split.valid
    test = usual if split.test is None else split.test
    return Parts(*leave_last_out(pairs, valid, test, by, config.seed), numbered, known)
