"""How augmentations compose, and what they owe to their key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import augmentation as aug
from jaxnet.errors import UsageError
from tests.data.augmentation.helpers import augmented, batch_of, random_images

FUNCTIONS = {
    "flip_left_right": aug.flip_left_right(),
    "flip_up_down": aug.flip_up_down(),
    "crop": aug.crop(2),
    "affine": aug.affine(rotation=20, translation=0.2),
    "resized_crop": aug.resized_crop(),
    "brightness": aug.brightness(0.3),
    "contrast": aug.contrast(0.3),
    "saturation": aug.saturation(0.3),
    "hue": aug.hue(0.2),
    "grayscale": aug.grayscale(0.5),
    "gaussian_noise": aug.gaussian_noise(0.1),
    "cutout": aug.cutout(4),
    "erase": aug.erase(),
    "mixup": aug.mixup(),
    "cutmix": aug.cutmix(),
}


def test_every_public_function_is_tried():
    makers = {name for name in vars(aug) if callable(getattr(aug, name)) and name[0].islower()}
    shared = {"compose", "one_of", "on", "on_images", "rotate", "translate"}
    of_tokens = {"mask_tokens", "masked_once"}  # see test_tokens.py
    assert makers - shared - of_tokens == set(FUNCTIONS)


@pytest.mark.slow
def test_what_is_drawn_depends_on_the_key_and_on_nothing_else():
    batch = batch_of(random_images(16, 8, 8, 3))
    everything = jax.jit(
        lambda key, batch: {name: function(key, batch) for name, function in FUNCTIONS.items()}
    )
    first = everything(jax.random.key(0), batch)
    again = everything(jax.random.key(0), batch)
    other = everything(jax.random.key(1), batch)
    # Sixteen times the same image: what draws once a batch would change all of them alike.
    alike = {**batch, "inputs": jnp.repeat(batch["inputs"][:1], 16, axis=0)}
    varied = everything(jax.random.key(0), alike)
    for name in FUNCTIONS:
        for key in first[name]:
            np.testing.assert_array_equal(first[name][key], again[name][key])
        one, two = np.asarray(first[name]["inputs"]), np.asarray(other[name]["inputs"])
        assert (one != two).any(), name
        if name not in ("mixup", "cutmix"):
            images = np.asarray(varied[name]["inputs"])
            assert (images != images[:1]).any(), name


@pytest.mark.slow
def test_composed_functions_go_one_after_the_other_with_keys_of_their_own():
    def adds(key, images):
        return images + jax.random.uniform(key, (len(images), 1, 1, 1))

    images = np.zeros((50, 1, 1, 1), np.float32)
    one, two = (augmented(aug.compose(*[aug.on_images(adds)] * n), images) for n in (1, 2))
    second = two - one
    assert abs(np.corrcoef(one.ravel(), second.ravel())[0, 1]) < 0.4
    doubled_then_raised = aug.compose(
        aug.on_images(lambda key, x: 2 * x), aug.on_images(lambda key, x: x + 1)
    )
    np.testing.assert_array_equal(augmented(doubled_then_raised, images + 3), images + 7)
    np.testing.assert_array_equal(augmented(aug.compose(), images), images)


@pytest.mark.slow
def test_one_of_takes_each_function_as_often():
    adds = [aug.on_images(lambda key, x, n=n: x + n) for n in range(3)]
    turn = jax.jit(jax.vmap(aug.one_of(*adds), in_axes=(0, None)))
    batch = batch_of(np.zeros((4, 1, 1, 1), np.float32))
    seen = np.asarray(turn(jax.random.split(jax.random.key(0), 600), batch)["inputs"])[..., 0, 0, 0]
    assert (seen == seen[:, :1]).all()
    np.testing.assert_allclose(np.bincount(seen[:, 0].astype(int)), 200, atol=60)
    with pytest.raises(UsageError, match="one_of: expected at least one function"):
        aug.one_of()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32, np.int8, np.uint8])
def test_shapes_and_types_are_kept(dtype):
    batch = batch_of(jnp.zeros((4, 8, 8, 3), dtype))
    for name, function in FUNCTIONS.items():
        out = jax.eval_shape(function, jax.random.key(0), batch)
        for key, column in batch.items():
            assert (out[key].shape, out[key].dtype) == (column.shape, column.dtype), name


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_integers_are_rounded_and_kept_in_range(dtype):
    limits = np.iinfo(dtype)
    images = np.array([limits.min, 0, 1, 99], dtype).reshape(4, 1, 1, 1)
    halved = augmented(aug.on_images(lambda key, x: x.astype(jnp.float32) * 1.51), images)
    exact = np.round(images.astype(np.float32) * np.float32(1.51))
    np.testing.assert_array_equal(halved, np.clip(exact, limits.min, limits.max).astype(dtype))
