"""Colour against the formulas in float64, and hue against the standard library's HSV."""

from __future__ import annotations

import colorsys

import jax
import numpy as np
import pytest

from jaxnet.data import augmentation as aug
from jaxnet.data.augmentation.colour import turn_hue
from jaxnet.errors import InputError, UsageError
from tests.data.augmentation.helpers import (
    assert_uniform,
    augmented,
    augmented_together,
    random_images,
)

LUMA = np.array([0.299, 0.587, 0.114])


def centres(name: str, images: np.ndarray) -> np.ndarray:
    """What each image is blended with, in float64."""
    x = images.astype(np.float64)
    grey = (x * LUMA).sum(axis=-1, keepdims=True)
    if name == "brightness":
        return np.zeros_like(x)
    return grey.mean(axis=(1, 2), keepdims=True) if name == "contrast" else grey


def factors(got: np.ndarray, images: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The factor of each image, by least squares."""
    away, moved = images - centre, got.astype(np.float64) - centre
    return (away * moved).sum(axis=(1, 2, 3)) / (away**2).sum(axis=(1, 2, 3))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_images_are_blended_by_a_uniform_factor(name):
    images = random_images(600, 4, 5, 3)
    make = getattr(aug, name)
    got, extreme = augmented_together((make(0.4), images), (make(2.0), images))
    centre = centres(name, images)
    factor = factors(got, images, centre)
    assert_uniform(factor, 0.6, 1.4)
    expected = centre + factor[:, None, None, None] * (images - centre)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    # An amount beyond 1 never turns an image into its negative.
    assert factors(extreme, images, centre).min() > -1e-6


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_eight_bit_images_are_rounded_and_stay_within_range(name):
    images = random_images(40, 4, 5, 3, dtype=np.uint8)
    function = getattr(aug, name)(0.9)
    exact, got = augmented_together((function, images.astype(np.float32)), (function, images))
    assert exact.max() > 300
    np.testing.assert_array_equal(got, np.clip(np.round(exact), 0, 255))


def test_contrast_of_grey_images_is_about_their_mean():
    images = random_images(20, 4, 5, 1)
    got = augmented(aug.contrast(0.5), images)
    np.testing.assert_allclose(got.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert np.abs(got - images).max() > 0.1


def test_hue_is_that_of_the_standard_library():
    images = random_images(5, 6, 7, 3)
    images[0, 0] = [[0, 0, 0]] * 7  # black and grey have no hue
    images[1, 0] = [[0.5, 0.5, 0.5]] * 7
    images[2, 0, :4] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    turns = np.array([-0.5, -0.2, 0.0, 0.1, 0.45], np.float32)

    def turned(pixel, turn):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)

    expected = [
        [[turned(map(float, pixel), float(turn)) for pixel in row] for row in image]
        for image, turn in zip(images, turns, strict=True)
    ]
    turn = jax.jit(turn_hue)
    got = np.asarray(turn(images, turns))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    # A range of 0 to 255 makes no difference.
    np.testing.assert_allclose(turn(images * 255, turns), got * 255, atol=1e-3)


def test_the_turn_of_the_hue_is_uniform():
    red = np.zeros((600, 1, 1, 3), np.float32)
    red[..., 0] = 1
    got = augmented(aug.hue(0.15), red)[:, 0, 0]
    assert_uniform([(colorsys.rgb_to_hsv(*p)[0] + 0.5) % 1 - 0.5 for p in got], -0.15, 0.15)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grayscale_takes_the_colour_of_some_images(dtype):
    images = random_images(400, 2, 3, 3, dtype=dtype)
    got = augmented(aug.grayscale(0.3), images)
    grey = np.repeat((images * LUMA).sum(axis=-1, keepdims=True), 3, axis=-1)
    changed = (got != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(got[~changed], images[~changed])
    tolerance = 0.5001 if dtype == np.uint8 else 1e-6
    np.testing.assert_allclose(got[changed], grey[changed], atol=tolerance)
    assert 70 < changed.sum() < 170


@pytest.mark.slow
def test_noise_is_normal_and_independent():
    images = np.full((20, 16, 16, 1), 100.0, np.float32)
    function = aug.gaussian_noise(5.0)
    exact, rounded = augmented_together((function, images), (function, images.astype(np.uint8)))
    noise = exact - 100
    assert abs(noise.mean()) < 0.3
    assert noise.std() == pytest.approx(5.0, rel=0.05)
    assert (np.abs(noise) < 5).mean() == pytest.approx(0.683, abs=0.02)
    flat = noise.reshape(20, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(20)).max() < 0.3
    np.testing.assert_array_equal(rounded, np.round(noise + 100))


@pytest.mark.parametrize("name", ["saturation", "hue", "grayscale"])
def test_what_needs_colour_says_so(name):
    with pytest.raises(InputError, match=rf"{name}: expected images with 3 channels.*\(2, 4, 4, 1"):
        augmented(getattr(aug, name)(0.5), random_images(2, 4, 4, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.brightness(0), "brightness: expected an amount above 0, got 0"),
        (lambda: aug.contrast(-1), "contrast: expected an amount above 0"),
        (lambda: aug.saturation(float("nan")), "saturation: expected an amount above 0"),
        (lambda: aug.hue(0.6), r"hue: expected an amount in \(0, 0.5\]"),
        (lambda: aug.grayscale(2), "grayscale: expected a probability"),
        (lambda: aug.gaussian_noise(0), "gaussian_noise: expected a deviation above 0"),
    ],
)
def test_impossible_amounts_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
