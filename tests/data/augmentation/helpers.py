"""Batches of images that show what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)


def random_images(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Images in [0, 1], or in [0, 255] where the type is of integers."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(size=shape).astype(dtype)
    return rng.integers(0, 256, shape).astype(dtype)


def ramps(batch: int, height: int, width: int) -> np.ndarray:
    """Two channels that hold each pixel's column and row: bilinear sampling shows where it was."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.broadcast_to(np.stack([columns, rows], axis=-1), (batch, height, width, 2))


def batch_of(images: Any, **columns: Any) -> dict[str, jax.Array]:
    """A batch of unmasked examples with a label of its own each."""
    n = len(images)
    filled = {"inputs": images, "labels": np.arange(n), "mask": np.ones(n, bool), **columns}
    return {name: jnp.asarray(column) for name, column in filled.items()}


def augmented(function: Callable[..., Any], images: Any, seed: int = 0) -> np.ndarray:
    """The images after an augmentation, having checked that it kept shape, type and the rest."""
    return augmented_together((function, images), seed=seed)[0]


def augmented_together(*cases: tuple[Callable[..., Any], Any], seed: int = 0) -> list[np.ndarray]:
    """`augmented` for several functions and images with the same key, as one program."""
    functions, batches = [function for function, _ in cases], [batch_of(x) for _, x in cases]

    @jax.jit
    def run(key: jax.Array, batches: Any) -> Any:
        return [function(key, batch) for function, batch in zip(functions, batches, strict=True)]

    outs = run(jax.random.key(seed), batches)
    for out, batch in zip(outs, batches, strict=True):
        assert out.keys() == batch.keys()
        given = batch["inputs"]
        assert (out["inputs"].shape, out["inputs"].dtype) == (given.shape, given.dtype)
        for name in ("labels", "mask"):
            np.testing.assert_array_equal(out[name], batch[name])
    return [np.asarray(out["inputs"]) for out in outs]


def assert_uniform(values: Any, low: float, high: float) -> None:
    """What uniform draws in [low, high] look like: thirds of the range are equally frequent."""
    values = np.asarray(values, np.float64)
    margin = 1e-3 * (high - low)
    assert values.min() >= low - margin
    assert values.max() <= high + margin
    counts, _ = np.histogram(values, bins=3, range=(low - margin, high + margin))
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, len(values) / 3, atol=5 * np.sqrt(len(values) * 2 / 9))
