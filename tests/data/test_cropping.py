"""Crops and mirror images on the host: each a window of the padded image, drawn evenly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import Arrays
from jaxnet.data.order import batches, epoch_draws, epoch_order
from jaxnet.data.pipeline.epochs import pipeline
from jaxnet.data.pipeline.host_augmentation import CropFlip
from jaxnet.errors import InputError, UsageError
from jaxnet.training import Trainer
from tests.training.helpers import ConvNet, bits, classifier

MODES = {"zero": "constant", "reflect": "reflect"}


def random_images(n: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 5, 6, 3)).astype(dtype)


def windows(image: np.ndarray, config: CropFlip) -> np.ndarray:
    """(places * places * 2, H, W, C): all that may become of an image; the latter half mirrored."""
    margin = (config.padding, config.padding)
    padded = np.pad(image, (margin, margin, (0, 0)), mode=MODES[config.border])
    cut = np.lib.stride_tricks.sliding_window_view(padded, image.shape)[:, :, 0]
    cut = cut.reshape(-1, *image.shape)
    return np.concatenate([cut, cut[:, :, ::-1]]) if config.flip else cut


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "config",
    [
        CropFlip(padding=2),
        CropFlip(padding=2, border="reflect"),
        CropFlip(padding=1, flip=False),
        CropFlip(padding=0),
    ],
)
def test_every_window_comes_as_often(config, dtype):
    images = random_images(3, dtype)
    rows = np.repeat(np.arange(3), 1000)
    taken = np.empty((2, 1500, 5, 6, 3), dtype)
    config.open(images)(taken, rows.reshape(2, -1), epoch_draws(0, 0, 3000).reshape(2, -1))
    taken = taken.reshape(3000, 5, 6, 3)
    for row in range(3):
        possible = windows(images[row], config)
        matches = (taken[rows == row][:, None] == possible[None]).all(axis=(2, 3, 4))
        assert (matches.sum(axis=1) == 1).all()
        expected = 1000 / len(possible)
        counts = matches.sum(axis=0)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def batches_of(made, seed: int, epoch: int, start: int = 0, size: int = 3):
    return [
        jax.device_get(feed.batch(jnp.int32(i)))
        for feed, count in made.chunks(seed, epoch, start, lambda _: size)
        for i in range(count)
    ]


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    images, config = random_images(23), CropFlip(padding=2)
    data = Arrays(images, np.arange(23))
    made = pipeline(data, 5, shuffle=True, placement="host", capacity=4, augment=config)
    order, draws = batches(epoch_order(7, 3, 23), 5), epoch_draws(7, 3, 25).reshape(5, 5)
    real = np.where(order < 0, ~order, order)
    whole = np.empty((5, 5, *images.shape[1:]), np.uint8)
    config.open(images)(whole, real, draws)
    for start, size in ((0, 1), (0, 4), (2, 2), (4, 3)):
        taken = batches_of(made, 7, 3, start, size)
        assert len(taken) == 5 - start
        for step, batch in enumerate(taken, start):
            np.testing.assert_array_equal(batch["inputs"], whole[step])
            np.testing.assert_array_equal(batch["labels"], real[step])
            np.testing.assert_array_equal(batch["mask"], order[step] >= 0)
    runs = [batches_of(made, seed, epoch) for seed, epoch in ((7, 3), (7, 4), (8, 3))]
    one, *others = (np.concatenate([batch["inputs"] for batch in run]) for run in runs)
    assert all((one != other).any() for other in others)


def test_draws_are_independent_of_the_order_and_of_each_other():
    draws = epoch_draws(5, 0, 4000)
    halves = [(draws >> np.uint64(shift) & np.uint64(0xFFFF)).astype(float) for shift in (0, 16)]
    series = [np.argsort(epoch_order(5, 0, 4000)), *halves, epoch_draws(5, 1, 4000).astype(float)]
    assert np.abs(np.corrcoef(series) - np.eye(4)).max() < 0.08


@pytest.mark.slow
def test_it_trains_and_repeats():
    images = np.random.default_rng(0).normal(size=(20, 2, 2, 1)).astype(np.float32)
    data = Arrays(images, np.arange(20) % 3)
    config = CropFlip(padding=1)
    trainer = Trainer(classifier(ConvNet()))
    made = pipeline(data, 8, shuffle=True, placement="host", augment=config)
    first, second = (trainer.fit(made, epochs=2, seed=1) for _ in range(2))
    assert bits(first.state) == bits(second.state)
    plain = trainer.fit(data, epochs=2, batch_size=8, seed=1)
    assert bits(plain.state.params) != bits(first.state.params)


@pytest.mark.parametrize(
    "options", [{"padding": -1}, {"padding": 0, "flip": False}, {"border": "wrap"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UsageError, match="CropFlip: expected"):
        CropFlip(**options)


def test_what_it_cannot_cut_is_refused():
    with pytest.raises(InputError, match=r"takes images.*got \(3, 4\)"):
        CropFlip().open(np.zeros((3, 4)))
    with pytest.raises(InputError, match="5x6 can't be mirrored for a padding of 5: the most is 4"):
        CropFlip(padding=5, border="reflect").open(random_images(1))
    with pytest.raises(UsageError, match=r"take placement='host', or jaxnet\.training"):
        pipeline((random_images(3), np.arange(3)), 2, shuffle=True, augment=CropFlip())
