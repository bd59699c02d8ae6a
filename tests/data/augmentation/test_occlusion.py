"""What is hidden: rectangles of the right sizes in the right places."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import augmentation as aug
from jaxnet.errors import UsageError
from tests.data.augmentation.helpers import assert_uniform, augmented, random_images


def rectangles(hidden: np.ndarray) -> np.ndarray:
    """(n, 4): top, left, bottom, right of what is hidden, having checked that it is a rectangle."""
    found = []
    for mask in hidden:
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1])
        found.append(box)
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_cutout_hides_a_square_around_any_pixel(size):
    height, width = 6, 8
    images = np.ones((1200, height, width, 2), np.float32)
    hidden = (augmented(aug.cutout(size, fill=0.0), images) == 0).all(axis=-1)
    top, left, bottom, right = rectangles(hidden).T
    assert (bottom - top).max() == (right - left).max() == size
    # How often a pixel is hidden: a share of the centres is near enough.
    half = size // 2

    def chance(length: int) -> np.ndarray:
        centres, places = np.arange(length)[:, None], np.arange(length)[None]
        near = (places >= centres - half) & (places < centres - half + size)
        return near.mean(axis=0)

    expected = np.outer(chance(height), chance(width))
    np.testing.assert_allclose(hidden.mean(axis=0), expected, atol=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_hidden_has_the_mean_of_the_image_or_a_value(dtype):
    images = random_images(30, 6, 8, 3, dtype=dtype)
    got = augmented(aug.cutout(4), images)
    changed = (got != images).any(axis=-1)
    mean = images.astype(np.float64).mean(axis=(1, 2))
    mean = np.round(mean) if dtype == np.uint8 else mean
    for image, mask, value in zip(got, changed, mean, strict=True):
        np.testing.assert_allclose(image[mask], np.broadcast_to(value, (mask.sum(), 3)), rtol=1e-5)
    sevens = augmented(aug.cutout(4, fill=7.0), images)
    assert (sevens[changed & (sevens != images).any(axis=-1)] == 7).all()


@pytest.mark.slow
def test_erasing_hides_rectangles_of_random_area_and_shape():
    height, width = 50, 80
    images = np.ones((600, height, width, 1), np.float32)
    hidden = (augmented(aug.erase(0.5, (0.1, 0.3), (0.5, 2.0), 0.0), images) == 0)[..., 0]
    changed = hidden.any(axis=(1, 2))
    assert 240 < changed.sum() < 360
    top, left, bottom, right = rectangles(hidden[changed]).T
    h, w = bottom - top, right - left
    shares = hidden[changed].mean(axis=(1, 2))
    assert shares.min() > 0.09 and shares.max() < 0.32  # its sides are whole pixels
    assert_uniform(shares.clip(0.1, 0.3), 0.1, 0.3)
    assert_uniform(np.log(w / h), -np.log(2.1), np.log(2.1))
    # Anywhere that it fits.
    assert_uniform(top / (height - h), 0, 1)
    assert_uniform(left / (width - w), 0, 1)


@pytest.mark.slow
def test_a_rectangle_that_is_too_long_is_cut_down_to_the_image():
    images = np.ones((200, 10, 40, 1), np.float32)
    hidden = (augmented(aug.erase(1.0, (0.3, 0.3), (0.05, 20.0), 0.0), images) == 0)[..., 0]
    top, _, bottom, _ = rectangles(hidden).T
    assert ((bottom - top) == 10).any()
    assert hidden.mean() < 0.31


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.cutout(0), "cutout: expected a size of at least 1 pixel, got 0"),
        (lambda: aug.erase(1.1), "erase: expected a probability"),
        (lambda: aug.erase(area=(0.5, 0.1)), r"erase: expected an area within \(0, 1\]"),
        (lambda: aug.erase(aspect=(-1, 1)), "erase: expected an aspect above 0"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
