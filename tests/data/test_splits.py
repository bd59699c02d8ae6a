from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, train_test_split

from jaxnet.data import Arrays, assign_folds, k_fold, load_digits, split
from jaxnet.errors import InputError


def dataset(labels, **more) -> Arrays:
    """Rows that carry their own number, so that every example can be traced."""
    labels = np.asarray(labels)
    return Arrays(np.arange(len(labels), dtype=np.int32)[:, None], labels, **more)


def rows(part: Arrays) -> list[int]:
    return part.inputs[:, 0].tolist()


LABELS = np.random.default_rng(5).choice(4, 500, p=[0.6, 0.3, 0.07, 0.03])


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.float32), np.eye(4)[LABELS]])
@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.1), (0.5, 0.5), (0.29, 0.71), (1.0,)])
def test_every_example_is_in_exactly_one_part_with_its_label(labels, fractions):
    data = dataset(labels, weights=np.arange(1, 501))
    parts = split(data, fractions)
    assert len(parts) == len(fractions)
    assert sorted(row for part in parts for row in rows(part)) == list(range(500))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - 500 * fraction) < 1
        assert rows(part) == sorted(rows(part))
        np.testing.assert_array_equal(part.labels, data.labels[rows(part)])
        assert part.weights is not None
        assert part.weights.tolist() == [row + 1 for row in rows(part)]


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.1), (0.8, 0.2), (0.25, 0.25, 0.25, 0.25)])
@pytest.mark.parametrize("size", [4, 7, 10, 33])
def test_each_part_gets_its_share_of_each_class_and_of_the_whole(fractions, size):
    rng = np.random.default_rng(size)
    sizes = rng.integers(len(fractions), size + 1, 60)
    data = dataset(rng.permutation(np.repeat(np.arange(60), sizes)))
    parts = split(data, fractions)
    for part, fraction in zip(parts, fractions, strict=True):
        counts = np.bincount(part.labels, minlength=60)
        assert (np.abs(counts - sizes * fraction) < 1).all()
        assert abs(len(part) - sizes.sum() * fraction) < 1


def test_a_share_that_is_a_whole_number_is_met_exactly():
    # In floating point 50 * 0.14 is 7.000000000000001, which must not be rounded up to 8.
    sizes = np.array([200, 17, 50, 11, 500, 11, 50])
    parts = split(dataset(np.repeat(np.arange(7), sizes)), (0.57, 0.29, 0.14))
    counts = np.stack([np.bincount(part.labels) for part in parts], axis=1)
    assert counts[0].tolist() == [114, 58, 28]
    assert counts[4].tolist() == [285, 145, 70]
    assert (counts[2, 2], counts[6, 2]) == (7, 7)


@pytest.mark.parametrize("data", [load_digits(), dataset(LABELS)])
def test_classes_are_shared_out_as_sklearn_does(data):
    ours, _ = split(data, (0.7, 0.3))
    theirs, _ = train_test_split(data.labels, train_size=0.7, random_state=0, stratify=data.labels)
    counts = np.bincount(ours.labels), np.bincount(theirs)
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_the_seed_and_nothing_else_decides():
    data = dataset(LABELS)
    np.random.seed(1)
    first = [rows(part) for part in split(data, seed=3)]
    np.random.seed(2)
    assert [rows(part) for part in split(data, seed=3)] == first
    assert [rows(part) for part in split(data, seed=4)] != first


def test_within_a_class_every_example_is_as_likely_as_any_other():
    data = dataset(np.repeat([0, 1], 10))
    counts = np.zeros(20)
    for seed in range(2000):
        counts[rows(split(data, (0.7, 0.3), seed)[1])] += 1
    # 600 expected with a deviation of 20.5.
    assert np.abs(counts - 600).max() < 4 * 20.5


def test_stratification_can_be_switched_off():
    data = dataset(np.arange(10))
    assert [len(part) for part in split(data, (0.8, 0.2), stratify=False)] == [8, 2]
    with pytest.raises(InputError, match=r"class 0 has 1 .* fewer than the 2 parts"):
        split(data, (0.8, 0.2))


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 9), np.zeros((9, 2), np.int32)])
def test_labels_that_are_not_classes_are_not_stratified(labels):
    assert [len(part) for part in split(dataset(labels), (0.6, 0.4))] == [5, 4]
    with pytest.raises(InputError, match=r"toy: to stratify, expected integer labels"):
        split(dataset(labels, name="toy"), (0.6, 0.4), stratify=True)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.7, 0.2), r"must sum to 1, got \(0.7, 0.2\): 0.9"),
        ((1.2, -0.2), "expected positive fractions"),
        ((1.0, 0.0), "expected positive fractions"),
        ((0.5, np.nan), "expected positive fractions"),
        ((), "expected positive fractions"),
        (0.8, "expected positive fractions"),
    ],
)
def test_wrong_fractions_are_refused(fractions, message):
    with pytest.raises(InputError, match=f"toy: .*{message}"):
        split(dataset(LABELS, name="toy"), fractions)


def test_a_class_too_small_for_the_parts_is_trained_on_and_named(caplog):
    labels = [0] * 10 + [1] * 2 + [2] * 20
    data = dataset(labels, class_names=("cat", "dog", "eel"), name="toy")
    parts = split(data)
    assert [np.bincount(part.labels, minlength=3).tolist() for part in parts] == [
        [7, 2, 14],
        [2, 0, 4],
        [1, 0, 2],
    ]
    (said,) = caplog.messages
    assert said == (
        "toy: fewer examples than the 3 parts in class dog (2): they are in the first part alone"
    )
    with pytest.raises(InputError, match=r"toy: class 1 \('dog'\) has 2 .* fewer than the 3 parts"):
        split(data, stratify=True)
    caplog.clear()
    folds = [fold.labels.tolist().count(1) for _, fold in k_fold(data, 4)]
    assert sorted(folds) == [0, 0, 1, 1]
    assert "class dog (2): not every fold tests them" in caplog.text


@pytest.mark.parametrize("labels", [[0.5, 1.0, 2.0], [0, 0, 0]])
def test_an_empty_part_is_refused(labels):
    with pytest.raises(InputError, match=r"part 3 of 3 \(fraction 0.1\) of 3 examples would be"):
        split(dataset(labels))


def test_another_word_for_stratify_is_refused():
    with pytest.raises(InputError, match="stratify must be True, False or 'auto', got 'yes'"):
        split(dataset(LABELS), stratify="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [2, 5, 7])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.float32)])
def test_each_example_is_in_one_fold_and_in_the_rest_of_the_others(labels, k):
    data = dataset(labels)
    pairs = list(k_fold(data, k, seed=2))
    assert len(pairs) == k
    assert sorted(row for _, fold in pairs for row in rows(fold)) == list(range(500))
    for rest, fold in pairs:
        assert sorted(rows(rest) + rows(fold)) == list(range(500))
        assert rows(rest) == sorted(rows(rest))
        np.testing.assert_array_equal(fold.labels, data.labels[rows(fold)])
        assert len(fold) in (500 // k, -(-500 // k))


@pytest.mark.parametrize("k", [2, 5, 7])
def test_folds_are_as_even_as_those_of_sklearn(k):
    data = dataset(LABELS)
    ours = [np.bincount(fold.labels, minlength=4) for _, fold in k_fold(data, k)]
    theirs = [
        np.bincount(LABELS[fold], minlength=4)
        for _, fold in StratifiedKFold(k, shuffle=True, random_state=0).split(LABELS, LABELS)
    ]
    assert np.ptp(ours, axis=0).max() <= 1
    np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(theirs, axis=0))
    assert np.ptp(np.sum(ours, axis=1)) <= 1


def test_the_seed_decides_the_folds():
    data = dataset(LABELS)
    folds = assign_folds(data, 5, seed=3)
    np.testing.assert_array_equal(assign_folds(data, 5, seed=3), folds)
    assert (assign_folds(data, 5, seed=4) != folds).mean() > 0.7


def test_every_example_by_itself_is_a_fold_too():
    data = dataset(np.linspace(0, 1, 6))
    assert sorted(rows(fold)[0] for _, fold in k_fold(data, 6)) == list(range(6))


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [
        (LABELS, 1, "toy: expected from 2 folds to one for each of the 500 examples, got 1"),
        (LABELS, 2.5, "toy: expected a whole number of folds, got 2.5"),
        (np.linspace(0, 1, 4), 5, "toy: expected from 2 folds .* 4 examples, got 5"),
        ([0, 0, 1, 1], 3, "toy: class 0 has 2 of the examples, fewer than the 3 parts"),
    ],
)
def test_folds_that_cant_be_made(labels, k, message):
    with pytest.raises(InputError, match=message):
        k_fold(dataset(labels, name="toy"), k)
