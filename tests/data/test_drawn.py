from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import draw_interactions
from jaxnet.errors import UsageError


def test_nobody_takes_an_item_twice_and_the_seed_decides_all():
    pairs, known = draw_interactions(users=30, items=20, each=8, seed=3)
    for user in range(30):
        assert len(set(pairs.of_users()[user])) == 8
    again, other = draw_interactions(30, 20, 8, seed=3)[0], draw_interactions(30, 20, 8, seed=4)[0]
    np.testing.assert_array_equal(pairs.items, again.items)
    assert (pairs.items != other.items).any()
    assert set(np.unique(pairs.ratings)) <= {1, 2, 3, 4, 5}
    residual = pairs.ratings - known.expected_rating(pairs.users, pairs.items)
    assert abs(residual.mean()) < 0.1 and residual.std() < 0.8


def test_the_first_item_has_the_chances_of_the_softmax():
    """One item each for many users: chi-square of what they took against the model's chances."""
    pairs, known = draw_interactions(users=20_000, items=10, each=1)
    scores = known.users.astype(np.float64) @ known.items.T
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected, taken = chances.sum(axis=0), np.bincount(pairs.items, minlength=10)
    # 9 degrees of freedom: above 27.9 one time in a thousand. Users differ, so it is less still.
    assert ((taken - expected) ** 2 / expected).sum() < 27.9


def test_known_features_decide_a_users_vector():
    pairs, known = draw_interactions(users=4000, items=10, each=1)
    features = pairs.known_users.features
    _, first, back = np.unique(features, axis=0, return_index=True, return_inverse=True)
    assert len(first) < 4000
    np.testing.assert_array_equal(known.users, known.users[first][back.ravel()])


@pytest.mark.parametrize("sizes", [(0, 5, 1), (5, 5, 6)])
def test_impossible_sizes(sizes):
    with pytest.raises(UsageError, match="expected numbers of at least 1"):
        draw_interactions(*sizes)
