from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import batches, epoch_order, steps_per_epoch
from jaxnet.errors import InputError


@pytest.mark.parametrize("n", [1, 2, 10, 1797])
def test_every_epoch_is_a_permutation(n):
    for epoch in (0, 1, 7, 10**12):
        order = epoch_order(3, epoch, n)
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_epochs_and_seeds_differ_and_equal_arguments_agree():
    orders = {(s, e): tuple(epoch_order(s, e, 50)) for s in range(5) for e in range(5)}
    assert len(set(orders.values())) == 25
    assert tuple(epoch_order(2, 4, 50)) == orders[2, 4]


def test_the_order_is_the_same_in_every_process_and_release():
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_order(42, 7, 10).tolist() == [6, 8, 7, 4, 5, 2, 9, 0, 1, 3]
    assert epoch_order(0, 0, 60000)[:5].tolist() == [47848, 34552, 24994, 32827, 31943]


def test_the_order_neither_reads_nor_moves_the_global_state():
    np.random.seed(0)
    expected = np.random.random()
    first = epoch_order(0, 0, 10).tolist()
    np.random.seed(0)
    assert epoch_order(0, 0, 10).tolist() == first
    assert np.random.random() == expected


def test_all_orders_are_equally_likely():
    epochs = 24 * 200
    orders = np.stack([epoch_order(0, epoch, 4) for epoch in range(epochs)])
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom: 49.7 is passed by chance once in a thousand times.
    assert ((counts - 200) ** 2 / 200).sum() < 49.7


def test_without_shuffling_every_epoch_is_in_order():
    for epoch in range(3):
        order = epoch_order(1, epoch, 5, shuffle=False)
        assert order.dtype == np.int32
        assert order.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("epoch", "n", "message"),
    [
        (0, 0, r"n \(the number of examples\) must be in \[1, 2147483647\], got 0"),
        (0, 2**31, "n .* got 2147483648"),
        (-1, 5, "epoch must be in .* got -1"),
        (2**63, 5, "epoch must be in"),
        (0, 5.0, "n .* must be an integer, got 5.0"),
        ("1", 5, "epoch must be an integer, got '1'"),
    ],
)
def test_impossible_values_are_refused(epoch, n, message, shuffle):
    with pytest.raises(InputError, match=message):
        epoch_order(0, epoch, n, shuffle)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, "seed must be in .* got -1"),
        (2**64, "seed must be in"),
        (1.5, "seed must be an integer, got 1.5"),
    ],
)
def test_impossible_seeds_are_refused(seed, message):
    with pytest.raises(InputError, match=message):
        epoch_order(seed, 0, 5)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 5), (3, 8), (1, 1), (7, 1), (9, 10)])
def test_only_the_end_of_the_last_batch_is_padding(n, batch_size):
    order = epoch_order(0, 0, n)
    cut = batches(order, batch_size)
    assert cut.dtype == np.int32
    assert cut.shape == (steps_per_epoch(n, batch_size), batch_size)
    assert steps_per_epoch(n, batch_size) == int(np.ceil(n / batch_size))
    assert (cut[:-1] >= 0).all()
    np.testing.assert_array_equal(cut.ravel()[:n], order)
    padding = cut.ravel()[n:]
    # Each the row of the same place in the first batch, or one more turn of what is too short.
    first = np.resize(order, batch_size)
    np.testing.assert_array_equal(~padding, first[batch_size - len(padding) :])
    assert cut[-1, 0] >= 0


@pytest.mark.parametrize(
    ("order", "batch_size", "message"),
    [
        (np.arange(5), 0, r"batch_size must be in \[1, .* got 0"),
        (np.arange(5), 2.0, "batch_size must be an integer, got 2.0"),
        (np.arange(0), 2, "n .* got 0"),
        (np.arange(5.0), 2, r"integer order \(n,\), got float64 \(5,\)"),
        (np.arange(6).reshape(2, 3), 2, r"integer order \(n,\), got int64 \(2, 3\)"),
    ],
)
def test_impossible_batches_are_refused(order, batch_size, message):
    with pytest.raises(InputError, match=message):
        batches(order, batch_size)
