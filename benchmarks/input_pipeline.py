"""Batches of augmented images in memory: how fast each way of making them is.

    python -m benchmarks.input_pipeline [--rounds 7]

50,000 uint8 images of 32x32x3 in a new order, batches of 128, each image padded by 4, cut out at a
random place and mirrored one time in two. What is timed is an epoch of batches that nobody uses.
jaxnet's are on the device when they count; the others' are NumPy arrays or PyTorch tensors.

- jaxnet, host: `pipeline(..., placement="host", augment=CropFlip(4))`, the thread that makes stacks
  of batches ready while the device is busy.
- jaxnet, in the step: `augment(task, crop(4), flip_left_right())` on data that lives on the device,
  compiled; each batch is summed, so that it has to be made.
- NumPy: whole batches by hand, in every form that we know. `one gather` indexes all pixels;
  `windows` copies windows of padded images and mirrors half of them; `mirrored windows` takes them
  from images that were mirrored beforehand, as jaxnet does.
- PyTorch: a `Dataset` that cuts and mirrors a tensor, behind a `DataLoader` with 0 and 2 workers.

Each way has a process of its own. They take turns, one epoch each, and a warm-up comes first.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report

BATCH, SIZE, CHANNELS, PADDING = 128, 32, 3, 4
PLACES = 2 * PADDING + 1
OURS, BY_HAND, TORCH = "jaxnet, host", "numpy", "torch"

Epoch = Callable[[int], Any]


@dataclass(frozen=True)
class Options:
    """Time an epoch of augmented batches, made in several ways."""

    images: int = 50_000
    """How many, all random."""
    rounds: int = 7
    """Epochs that count, of each way in turn."""
    out: Path = report.RESULTS
    """Where to write input_pipeline.json and input_pipeline.png."""


def random_images(n: int) -> np.ndarray:
    """(n, 32, 32, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, CHANNELS), np.uint8)


# --- jaxnet -------------------------------------------------------------------------------------


def host(images: np.ndarray) -> Epoch:
    import jax

    from jaxnet.data.pipeline.epochs import pipeline
    from jaxnet.data.pipeline.host_augmentation import CropFlip

    data, varied = (images, np.arange(len(images))), CropFlip(PADDING)
    made = pipeline(data, BATCH, shuffle=True, placement="host", capacity=512, augment=varied)

    def epoch(number: int) -> None:
        for feed, _ in made.chunks(0, number, 0, lambda _: 512):
            jax.block_until_ready(feed)

    return epoch


def in_step(images: np.ndarray) -> Epoch:
    import jax
    import jax.numpy as jnp

    from jaxnet.data.augmentation import compose, crop, flip_left_right
    from jaxnet.data.pipeline.epochs import pipeline

    data = images, np.arange(len(images))
    made = pipeline(data, BATCH, shuffle=True, placement="device", capacity=512)
    varied = compose(crop(PADDING), flip_left_right())

    @jax.jit
    def total(feed: Any, key: jax.Array, count: int) -> jax.Array:
        def step(i: jax.Array, sums: jax.Array) -> jax.Array:
            batch = varied(jax.random.fold_in(key, i), feed.batch(i))["inputs"]
            return sums + batch.sum(dtype=jnp.uint32)

        return jax.lax.fori_loop(0, count, step, jnp.uint32(0))

    def epoch(number: int) -> None:
        for feed, count in made.chunks(0, number, 0, lambda _: 512):
            total(feed, jax.random.key(number), count).block_until_ready()

    return epoch


# --- by hand ------------------------------------------------------------------------------------


def drawn(n: int, number: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows, place and whether to mirror, for each batch of an epoch."""
    rng = np.random.default_rng(number)
    order = rng.permutation(n)
    for start in range(0, n, BATCH):
        rows = order[start : start + BATCH]
        y, x = rng.integers(0, PLACES, (2, len(rows)))
        yield rows, y, x, rng.random(len(rows)) < 0.5


def padded(images: np.ndarray) -> np.ndarray:
    margin = (PADDING, PADDING)
    return np.pad(images, ((0, 0), margin, margin, (0, 0)))


def one_gather(store: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """One index for each pixel; mirrored ones count backwards."""
    places = np.arange(SIZE)
    for rows, y, x, mirrored in drawn(len(store), number):
        columns = x[:, None] + np.where(mirrored[:, None], places[::-1], places)
        yield store[rows[:, None, None], (y[:, None] + places)[:, :, None], columns[:, None]]


def windows_of(store: np.ndarray) -> np.ndarray:
    """A view of padded images (n, ...): (n, places, places, height, width * channels)."""
    image, row, pixel, value = store.strides
    shape = (len(store), PLACES, PLACES, SIZE, SIZE * CHANNELS)
    return np.lib.stride_tricks.as_strided(store, shape, (image, row, pixel, row, value))


def windows(store: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """Windows, of which half are mirrored afterwards."""
    cut = windows_of(store)
    for rows, y, x, mirrored in drawn(len(store), number):
        batch = cut[rows, y, x].reshape(-1, SIZE, SIZE, CHANNELS)
        batch[mirrored] = batch[mirrored, :, ::-1]
        yield batch


def mirrored_windows(store: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """Windows of the padded images and of their mirror images, which come after them."""
    cut, n = windows_of(store), len(store) // 2
    for rows, y, x, mirrored in drawn(n, number):
        yield cut[rows + n * mirrored, y, x].reshape(-1, SIZE, SIZE, CHANNELS)


def by_hand(batches: Callable[..., Iterator[np.ndarray]], images: np.ndarray) -> Epoch:
    store = padded(images)
    if batches is mirrored_windows:
        store = np.concatenate([store, store[:, :, ::-1]])
    return lambda number: _exhaust(batches(store, number))


# --- PyTorch ------------------------------------------------------------------------------------


def cropped(store: Any) -> Any:
    """A dataset of random windows of padded images (n, channels, height, width)."""
    import torch
    from torch.utils.data import Dataset

    class Cropped(Dataset):
        def __len__(self) -> int:
            return len(store)

        def __getitem__(self, row: int) -> torch.Tensor:
            draw, mirrored = divmod(int(torch.randint(0, 2 * PLACES * PLACES, ())), 2)
            y, x = divmod(draw, PLACES)
            image = store[row, :, y : y + SIZE, x : x + SIZE]
            return image.flip(2) if mirrored else image

    return Cropped()


def dataloader(workers: int, images: np.ndarray) -> Epoch:
    import torch
    from torch.utils.data import DataLoader

    store = torch.from_numpy(padded(images).transpose(0, 3, 1, 2).copy())
    options: dict[str, Any] = {}
    if workers:
        # Forked, as PyTorch's default on Linux is; this process itself was spawned, and would pass
        # that on.
        options = {"multiprocessing_context": "fork", "persistent_workers": True}
        options["prefetch_factor"] = 8
    loader = DataLoader(cropped(store), BATCH, shuffle=True, num_workers=workers, **options)
    return lambda number: _exhaust(loader)


def _exhaust(batches: Any) -> None:
    for _ in batches:
        pass


# --- the race -----------------------------------------------------------------------------------

WAYS: Mapping[str, Callable[[np.ndarray], Epoch]] = {
    OURS: host,
    "jaxnet, in the step": in_step,
    f"{BY_HAND}, one gather": partial(by_hand, one_gather),
    f"{BY_HAND}, windows": partial(by_hand, windows),
    f"{BY_HAND}, mirrored windows": partial(by_hand, mirrored_windows),
    f"{TORCH} DataLoader, 0 workers": partial(dataloader, 0),
    f"{TORCH} DataLoader, 2 workers": partial(dataloader, 2),
}


def work(name: str, images: int, pipe: Connection) -> None:
    """A way's own process: seconds of an epoch for each number that comes in."""
    epoch = WAYS[name](random_images(images))
    while (number := pipe.recv()) is not None:
        start = time.perf_counter()
        epoch(number)
        pipe.send(time.perf_counter() - start)


def measure(options: Options, names: tuple[str, ...] = tuple(WAYS)) -> dict[str, list[float]]:
    """Seconds an epoch of each way, round by round."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=work, args=(name, options.images, theirs))
        process.start()
        theirs.close()  # so that a process that dies ends the race with EOFError
        processes.append(process)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(number)
            elapsed = pipe.recv()
            if number:
                seconds[name].append(elapsed)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    return seconds


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Round by round, how many times longer the best way of each kind took than ours."""

    def best(kind: str) -> str:
        return min(
            (name for name in seconds if name.startswith(kind)), key=lambda n: median(seconds[n])
        )

    return {
        name: [other / own for other, own in zip(seconds[name], seconds[OURS], strict=True)]
        for name in (best(BY_HAND), best(TORCH))
    }


def main(options: Options) -> None:
    """Measure, print and write."""
    head = report.header("input_pipeline", "images a second")
    seconds = measure(options)
    speed = {name: [options.images / s for s in took] for name, took in seconds.items()}
    rows = [
        [name, f"{median(s):,.0f}", f"{min(s):,.0f} .. {max(s):,.0f}"] for name, s in speed.items()
    ]
    report.table("Augmented batches", ["", "images/s", "rounds"], rows, report.caption(head))
    compared = ratios(seconds)
    for name, values in compared.items():
        print(f"{OURS} is {median(values):.2f} times as fast as {name}")
    bars = {
        name: report.Bar(median(s), min(s), max(s), name.partition(",")[0].partition(" ")[0])
        for name, s in speed.items()
    }
    result = {
        **head,
        "images": options.images,
        "batch_size": BATCH,
        "seconds": seconds,
        "ratios": {name: {"rounds": v, "median": median(v)} for name, v in compared.items()},
    }
    report.write(result, {"crop and flip": bars}, options.out)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
