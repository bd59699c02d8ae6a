"""Flips, crops and the affine sampler, against NumPy and PyTorch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import augmentation as aug
from jaxnet.data.augmentation import geometry
from jaxnet.errors import InputError, UsageError
from tests.data.augmentation.helpers import (
    assert_uniform,
    augmented,
    augmented_together,
    ramps,
    random_images,
)

BORDERS = {"zero": "constant", "edge": "edge", "reflect": "reflect"}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("name", "axis"), [("flip_left_right", 2), ("flip_up_down", 1)])
def test_a_flip_mirrors_one_axis_of_some_images(name, axis, dtype):
    images = random_images(400, 3, 4, 2, dtype=dtype)
    mirrored = np.flip(images, axis)
    make = getattr(aug, name)
    always, never, some = augmented_together(*((make(p), images) for p in (1.0, 0.0, 0.3)))
    np.testing.assert_array_equal(always, mirrored)
    np.testing.assert_array_equal(never, images)
    flipped = (some == mirrored).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(some[~flipped], images[~flipped])
    assert 70 < flipped.sum() < 170


@pytest.mark.parametrize(("border", "dtype"), [("zero", np.float32), ("reflect", np.uint8)])
def test_a_crop_is_any_window_of_the_padded_image(border, dtype):
    padding, shape = 2, (4, 5)
    images = np.repeat(random_images(1, *shape, 3, dtype=dtype), 1000, axis=0)
    margin = (padding, padding)
    padded = np.pad(images[0], (margin, margin, (0, 0)), mode=BORDERS[border])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (*shape, 3))[:, :, 0]
    windows = windows.reshape(-1, *shape, 3)
    assert len(windows) == 25

    found = augmented(aug.crop(padding, border), images)
    matches = (found[:, None] == windows[None]).all(axis=(2, 3, 4))
    assert (matches.sum(axis=1) == 1).all()
    # Each of the 25 windows comes 40 times on average.
    counts = matches.sum(axis=0)
    assert counts.min() > 12
    assert counts.max() < 75


def test_each_platform_cuts_the_same_windows():
    images = random_images(5, 8, 9, 3, dtype=np.uint8)
    corners = np.array([[0, 0], [1, 2], [2, 3], [0, 3], [2, 1]], np.int32)
    expected = [image[y : y + 6, x : x + 6] for image, (y, x) in zip(images, corners, strict=True)]
    for form in (geometry._cut_at_once, geometry._cut_in_turn):
        np.testing.assert_array_equal(
            jax.jit(partial(form, size=(6, 6)))(images, corners), expected
        )


def test_a_reflecting_crop_needs_an_image_larger_than_its_padding():
    images = random_images(2, 4, 4, 1)
    with pytest.raises(InputError, match=r"4x4 can't be mirrored.*of 4: the most is 3"):
        augmented(aug.crop(4, "reflect"), images)


def test_warping_is_that_of_pytorch():
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    rng = np.random.default_rng(1)
    images = rng.normal(size=(6, 7, 9, 3))
    matrices = rng.uniform(-0.5, 0.5, (6, 2, 2)) + np.eye(2)
    offsets = rng.uniform(-3, 3, (6, 2))

    height, width = images.shape[1:3]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    places = np.stack([columns, rows], axis=-1) - centre
    source = places[None] - offsets[:, None, None]
    source = np.einsum("bij,bhwj->bhwi", np.linalg.inv(matrices), source) + centre
    # In PyTorch's coordinates -1 and 1 are the centres of the first and the last pixel.
    grid = torch.from_numpy(source / centre - 1)
    modes = {"zero": "zeros", "edge": "border", "reflect": "reflection"}
    assert modes.keys() == BORDERS.keys()
    warps = jax.jit(lambda *args: {name: geometry.warp(*args, border=name) for name in modes})
    for border, got in warps(*map(np.float32, (images, matrices, offsets))).items():
        expected = torch.nn.functional.grid_sample(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            grid,
            padding_mode=modes[border],
            align_corners=True,
        )
        # Places are known to 1e-6 of the image's size, and neighbouring values differ by up to 5.
        np.testing.assert_allclose(
            got, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=2e-5, err_msg=border
        )


def test_quarter_turns_are_clockwise_and_exact():
    images = np.repeat(random_images(1, 6, 6, 2), 4, axis=0)

    @jax.jit
    def turn(images: jax.Array, angles: jax.Array) -> jax.Array:
        maps = geometry.linear_maps(angles, jnp.ones(4), jnp.zeros(4))
        return geometry.warp(images, maps, jnp.zeros((4, 2)), border="edge")

    got = turn(images, np.arange(4, dtype=np.float32) * np.float32(np.pi / 2))
    for quarters in range(4):
        np.testing.assert_allclose(got[quarters], np.rot90(images[0], -quarters), atol=1e-5)


def recovered_maps(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrices and offsets that moved these `ramps`, from the three pixels at their centre."""
    height, width = images.shape[1:3]
    y, x = height // 2, width // 2
    here, right, below = images[:, y, x], images[:, y, x + 1], images[:, y + 1, x]
    inverse = np.stack([right - here, below - here], axis=-1)
    matrices = np.linalg.inv(inverse)
    # The sizes are odd: the pixel (y, x) is the centre, and `here` is where it was.
    return matrices, -np.einsum("bij,bj->bi", matrices, here - np.array([x, y]))


def test_an_affine_augmentation_draws_each_amount_within_its_bounds():
    images = ramps(600, 31, 41)
    function = aug.affine(rotation=20, translation=0.1, zoom=0.2, shear=10, border="edge")
    matrices, offsets = recovered_maps(augmented(function, images))
    # zoom * rotation * shear: the first column is zoom * (cos, sin).
    zoom = np.linalg.norm(matrices[:, :, 0], axis=1)
    angle = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    back = np.stack(
        [
            np.stack([np.cos(angle), np.sin(angle)], axis=-1),
            np.stack([-np.sin(angle), np.cos(angle)], axis=-1),
        ],
        axis=-2,
    )
    shears = np.einsum("bij,bjk->bik", back, matrices) / zoom[:, None, None]
    np.testing.assert_allclose(shears[:, 1], np.tile([0.0, 1.0], (600, 1)), atol=1e-3)
    assert_uniform(np.rad2deg(angle), -20, 20)
    assert_uniform(zoom, 0.8, 1.2)
    assert_uniform(np.rad2deg(np.arctan(shears[:, 0, 1])), -10, 10)
    assert_uniform(offsets[:, 0], -4.1, 4.1)
    assert_uniform(offsets[:, 1], -3.1, 3.1)
    drawn = np.corrcoef([angle, zoom, shears[:, 0, 1], *offsets.T])
    assert np.abs(drawn - np.eye(5)).max() < 0.2


@pytest.mark.slow
def test_rotate_and_translate_do_one_thing_each():
    images = ramps(50, 31, 41)
    turned, moved = augmented_together((aug.rotate(30.0), images), (aug.translate(0.2), images))
    matrices, offsets = recovered_maps(turned)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-3)
    np.testing.assert_allclose(offsets, 0, atol=1e-3)
    assert np.abs(matrices[:, 0, 1]).max() > 0.3
    matrices, offsets = recovered_maps(moved)
    np.testing.assert_allclose(matrices, np.tile(np.eye(2), (50, 1, 1)), atol=1e-3)
    assert np.abs(offsets).max() > 3


@pytest.mark.slow
def test_a_resized_crop_is_a_rectangle_within_the_image():
    height, width = 40, 60
    images = ramps(500, height, width)
    got = augmented(aug.resized_crop((0.1, 0.3), (0.5, 1.5)), images)
    mid = height // 2, width // 2
    here = got[:, mid[0], mid[1]]
    # The window's width and height, from how far apart neighbouring pixels were.
    w = (got[:, mid[0], mid[1] + 1, 0] - here[:, 0]) * width
    h = (got[:, mid[0] + 1, mid[1], 1] - here[:, 1]) * height
    assert_uniform(w * h / (height * width), 0.1, 0.3)
    assert (w / h).min() > 0.5 - 1e-2
    assert (w / h).max() < 1.5 + 1e-2
    left = here[:, 0] + 0.5 - w / width * (mid[1] + 0.5)
    top = here[:, 1] + 0.5 - h / height * (mid[0] + 0.5)
    for start, size, whole in ((left, w, width), (top, h, height)):
        assert_uniform(start / (whole - size), 0, 1)
    # Shape, size and place are drawn by themselves.
    drawn = [w / h, w * h, left / (width - w), top / (height - h)]
    others = np.abs(np.corrcoef(drawn) - np.eye(4))
    assert others.max() < 4 / np.sqrt(len(images)), others


def test_whole_image_and_square_leave_nothing_to_draw():
    images = random_images(3, 5, 5, 3)
    same = augmented(aug.resized_crop((1.0, 1.0), (1.0, 1.0)), images)
    np.testing.assert_allclose(same, images, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.flip_left_right(1.5), r"flip_left_right: expected a probability in \[0, 1\]"),
        (lambda: aug.flip_up_down(-0.1), "flip_up_down: expected a probability"),
        (lambda: aug.crop(0), "crop: expected a padding of at least 1 pixel, got 0"),
        (lambda: aug.crop(1, "wrap"), "crop: expected a border"),  # pyright: ignore
        (lambda: aug.affine(), "affine: expected amounts from 0, one above"),
        (lambda: aug.rotate(-3), "affine: expected amounts"),
        (lambda: aug.affine(zoom=1.0), "affine: expected a zoom below 1"),
        (lambda: aug.affine(shear=90), "affine: expected a shear below 90"),
        (lambda: aug.rotate(3, "wrap"), "affine: expected a border"),  # pyright: ignore
        (lambda: aug.resized_crop((0.0, 1.0)), "resized_crop: expected an area"),
        (lambda: aug.resized_crop(aspect=(0.0, 1.0)), "resized_crop: expected an aspect"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match=r"\(batch, height, width, channels\).*\(3, 4\)"):
        aug.flip_left_right()(jax.random.key(0), {"inputs": jnp.zeros((3, 4))})
