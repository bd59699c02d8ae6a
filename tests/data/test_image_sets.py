from __future__ import annotations

import numpy as np
import pytest

from jaxnet.app.data_options import IMAGES
from jaxnet.data.images.by_name import IMAGE_SETS, read_images
from jaxnet.errors import UsageError


def test_digits_are_cut_without_overlap():
    parts = read_images("digits", seed=3)
    assert parts.whole is not None
    assert sum(map(len, parts[:3])) == len(parts.whole) == 1797
    rows = np.concatenate([np.asarray(part.inputs).reshape(len(part), -1) for part in parts[:3]])
    whole = parts.whole.inputs.reshape(1797, -1)
    np.testing.assert_array_equal(np.sort(rows.sum(axis=1)), np.sort(whole.sum(axis=1)))


def test_mnist_keeps_its_own_test_set(mnist_dir):
    parts = read_images("mnist", mnist_dir)
    assert [len(part) for part in parts] == [54000, 6000, 10000, 60000]  # pyright: ignore[reportArgumentType]


def test_every_name_of_the_commands_is_known():
    assert {*IMAGES} == {*IMAGE_SETS}


@pytest.mark.parametrize(
    ("name", "message"), [("digts", "did you mean 'digits'"), ("folder", "needs --data-dir")]
)
def test_what_is_not_there_is_said(name, message):
    with pytest.raises(UsageError, match=message):
        read_images(name)
