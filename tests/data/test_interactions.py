from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import Interactions, leave_last_out, read_interactions, with_negatives
from jaxnet.data.interactions.interactions import named
from jaxnet.errors import InputError, UsageError

RNG = np.random.default_rng(0)


def pairs(users: int = 20, items: int = 40, n: int = 300) -> Interactions:
    both = RNG.choice(users * items, n, replace=False)
    times = RNG.permutation(n)
    people, things = named([f"u{i}" for i in range(users)]), named([f"i{i}" for i in range(items)])
    return Interactions(
        (both // items).astype(np.int32),
        (both % items).astype(np.int32),
        people,
        things,
        RNG.integers(1, 6, n).astype(np.float32),
        times,
    )


@pytest.mark.parametrize("by", ["time", "random"])
def test_the_last_of_each_user_are_left_out(by):
    data = pairs()
    parts = leave_last_out(data, valid=2, test=3, by=by, seed=1)
    together = np.concatenate([part.times for part in parts])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(data)))  # each exactly once
    counts = np.bincount(data.users, minlength=20)
    enough = counts > 5
    assert enough.any()
    for part, each in zip(parts[1:], (2, 3), strict=True):
        np.testing.assert_array_equal(np.bincount(part.users, minlength=20), each * enough)
    train, valid, test = parts
    later = all(
        train.times[train.users == user].max()
        < valid.times[valid.users == user].min()
        <= valid.times[valid.users == user].max()
        < test.times[test.users == user].min()
        for user in np.flatnonzero(enough)
    )
    assert later == (by == "time")
    again = leave_last_out(data, valid=2, test=3, by=by, seed=1)
    np.testing.assert_array_equal(again[2].times, test.times)


def test_users_with_too_few_are_learnt_from_only():
    data = Interactions(np.array([0, 0, 0, 1, 1]), np.arange(5), named("ab"), named("vwxyz"))
    train, valid, test = leave_last_out(data, by="random")
    assert len(train.users[train.users == 1]) == 2
    assert valid.users.tolist() == test.users.tolist() == [0]
    assert len(test.of_users()[1]) == 0
    with pytest.raises(InputError, match="the most that one has is 3"):
        leave_last_out(data, valid=2, test=2, by="random")


def test_split_by_time_needs_times():
    data = Interactions(np.array([0, 0, 0]), np.arange(3), named("a"), named("xyz"))
    with pytest.raises(UsageError, match="no times to split by"):
        leave_last_out(data)


def test_lists_and_rows():
    data = pairs()
    for user, items in enumerate(data.of_users().padded(np.arange(20))):
        np.testing.assert_array_equal(items[items >= 0], data.items[data.users == user])
    rows = data.arrays(data.items)
    np.testing.assert_array_equal(rows.inputs, np.stack([data.users, data.items], axis=1))
    np.testing.assert_array_equal(rows.labels, data.items)


def test_negatives_are_what_the_user_has_not_chosen():
    data = pairs()
    sampled = with_negatives(data, data.of_users(), each=3)
    positive = sampled.labels == 1
    np.testing.assert_array_equal(
        sampled.inputs[positive], np.stack([data.users, data.items], axis=1)
    )
    chosen = set(zip(data.users.tolist(), data.items.tolist(), strict=True))
    wrong = [tuple(row) for row in sampled.inputs[~positive].tolist()]
    assert len(wrong) == 3 * len(data)
    assert not chosen & set(wrong)
    # All that are left come about equally often.
    assert len({item for _, item in wrong}) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": np.array([0, 7])}, "expected users from 0 to 1, got 7 in row 1"),
        ({"items": np.array([0, -1])}, "expected items from 0 to 1, got -1 in row 1"),
        ({"ratings": np.ones(3)}, "columns of one length"),
        ({"ratings": np.array([1, np.nan])}, "rating in row 1"),
        ({"users": np.zeros(0, int), "items": np.zeros(0, int)}, "at least one interaction"),
    ],
)
def test_bad_columns(change, message):
    columns = {"users": np.array([0, 1]), "items": np.array([1, 0])} | change
    with pytest.raises(InputError, match=message):
        Interactions(known_users=named("ab"), known_items=named("xy"), **columns)


def test_unknown_ids():
    assert named(["ann", "bob"]).numbers(["bob", "ann"]).tolist() == [1, 0]
    with pytest.raises(InputError, match="got 'eve'"):
        named(["ann", "bob"]).numbers(["eve"])


def test_a_csv_of_ones_own(tmp_path):
    file = tmp_path / "plays.csv"
    file.write_text(
        'who,what,stars,at\n10,"tea, green",4.5,7\n9,milk,2,8\n10,milk,1,9\n10,milk,3,5\n',
        encoding="utf-8",
    )
    plays = read_interactions(file, "who", "what", "stars", "at")
    assert plays.known_users.ids == ("9", "10")  # as numbers
    assert plays.known_items.ids == ("milk", "tea, green")
    # Of the two ratings of milk by 10 that of the later time.
    assert list(zip(plays.users, plays.items, plays.ratings, plays.times, strict=True)) == [
        (1, 1, 4.5, 7),
        (0, 0, 2.0, 8),
        (1, 0, 1.0, 9),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("user,item\n", "got 0 rows"),
        ("user,thing\n1,2\n", "the columns user, item, stars; got 1 rows with user, thing"),
        ("user,item,stars\na,b,good\n", "expected numbers, got 'good' in row 2"),
        ("user,item,stars\na,b,1\na,,2\n", "row 3: expected user, item, stars"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    file = tmp_path / "plays.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_interactions(file, rating="stars")
    with pytest.raises(InputError, match=r"absent\.csv: No such file"):
        read_interactions(tmp_path / "absent.csv")
