"""Folders of JPEG files: images a second, read and decoded, without training on them.

    python -m benchmarks.input_folder [--set small photos] [--rounds 5] [--workers N]

`jaxnet.data.ImageFolder` with N reading threads against PyTorch's DataLoader with N processes and
Grain with N threads, each with the same files, image size and batches. PyTorch and Grain decode as
their tutorials do (Pillow, convert, resize) and, in a second setting, with jaxnet's own `decode`;
the faster one counts. The files are made from random numbers; the first epoch of each process,
which reads them into the system's cache, doesn't count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from benchmarks import report

Set = Literal["small", "photos"]
# What PyTorch's time divided by jaxnet's has to be.
BAR = 1.0


@dataclass(frozen=True)
class Kind:
    """Files of one size, and the size to bring them to."""

    count: int
    height: int
    width: int
    size: int
    batch_size: int


KINDS: dict[str, Kind] = {
    "small": Kind(4000, 32, 32, 32, 128),
    "photos": Kind(1000, 375, 500, 224, 64),
}
CONTENDERS = ("jaxnet", "torch plain", "torch decode", "grain plain", "grain decode")


@dataclass(frozen=True)
class Options:
    """Race jaxnet, PyTorch and Grain at reading folders of JPEG files."""

    set: tuple[Set, ...] = ("small", "photos")
    """which files to read"""
    rounds: int = 5
    """fresh processes for each, in turn"""
    workers: int = 0
    """reading threads or processes; by default one for each processor"""
    out: Path = report.RESULTS
    """where to write input_folder.json and input_folder.png"""


def make_files(folder: Path, kind: Kind, seed: int = 0) -> None:
    """Two classes of smooth, slightly noisy pictures: JPEG files of a usual size."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number in range(kind.count):
        place = folder / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (kind.height // 16 + 2, kind.width // 16 + 2, 3), np.uint8)
        picture = Image.fromarray(coarse).resize(
            (kind.width, kind.height), Image.Resampling.BICUBIC
        )
        noise = rng.integers(-10, 11, (kind.height, kind.width, 3))
        pixels = (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:05d}.jpg", quality=90)


def plain_decode(file: str, size: tuple[int, int]) -> np.ndarray:
    """How tutorials read an image with Pillow."""
    from PIL import Image

    with Image.open(file) as image:
        small = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(small)


def decoder(name: str) -> Callable[[str, tuple[int, int]], np.ndarray]:
    """`plain` or `decode`."""
    from jaxnet.data.images.decoding import decode

    return plain_decode if name == "plain" else decode


def jaxnet_epoch(folder: Path, kind: Kind, workers: int) -> Callable[[int], int]:
    """An epoch through `SourcePipeline`; returns the number of images."""
    import jax

    from jaxnet.data import image_folders
    from jaxnet.data.pipeline.epochs import SourcePipeline

    images = image_folders(folder, (kind.size, kind.size))["train"]
    made = SourcePipeline(images, kind.batch_size, threads=workers)

    def epoch(number: int) -> int:
        steps = 0
        for feed, count in made.chunks(0, number, 0, lambda _: made.capacity):
            jax.block_until_ready(feed)
            steps += count
        return steps * kind.batch_size

    return epoch


class TorchFiles:
    """A map-style dataset of PyTorch."""

    def __init__(self, images: Any, decode: str) -> None:
        self.images, self.decode = images, decode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        import torch

        pixels = decoder(self.decode)(self.images.files[row], self.images.size)
        return torch.from_numpy(pixels.copy()), int(self.images.labels[row])


def torch_epoch(folder: Path, kind: Kind, workers: int, decode: str) -> Callable[[int], int]:
    """An epoch through `DataLoader`."""
    from torch.utils.data import DataLoader

    from jaxnet.data import image_folders

    images = image_folders(folder, (kind.size, kind.size))["train"]
    loader = DataLoader(
        TorchFiles(images, decode),  # type: ignore[arg-type]
        kind.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    return lambda number: sum(len(inputs) for inputs, _ in loader)


def grain_epoch(folder: Path, kind: Kind, workers: int, decode: str) -> Callable[[int], int]:
    """An epoch through Grain's `MapDataset`, with its reading threads."""
    import grain

    from jaxnet.data import image_folders

    images = image_folders(folder, (kind.size, kind.size))["train"]
    read = decoder(decode)

    def record(row: int) -> dict[str, Any]:
        return {"inputs": read(images.files[row], (kind.size, kind.size))}

    def epoch(number: int) -> int:
        rows = grain.MapDataset.range(len(images)).shuffle(seed=number)
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=4 * workers)
        batches: Iterator[Any] = iter(
            rows.map(record).to_iter_dataset(options).batch(kind.batch_size)
        )
        return sum(len(batch["inputs"]) for batch in batches)

    return epoch


def measure(contender: str, folder: Path, kind: Kind, workers: int) -> float:
    """Images a second of one epoch, after another one; in this process."""
    library, _, decode = contender.partition(" ")
    if library == "jaxnet":
        epoch = jaxnet_epoch(folder, kind, workers)
    else:
        make = torch_epoch if library == "torch" else grain_epoch
        epoch = make(folder, kind, workers, decode)
    epoch(0)
    begun = time.perf_counter()
    epoch(1)
    return kind.count / (time.perf_counter() - begun)


def in_a_process(contender: str, folder: Path, name: Set, workers: int) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.input_folder", "--one"]
    command += [contender, str(folder), name, str(workers)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def race(name: Set, options: Options) -> dict[str, list[float]]:
    """Images a second of every contender, round by round."""
    workers = options.workers or report.cores()
    rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), KINDS[name])
        for round_ in range(options.rounds):
            # Who begins changes, so that nobody always follows the same neighbour.
            turn = round_ % len(CONTENDERS)
            for contender in (*CONTENDERS[turn:], *CONTENDERS[:turn]):
                rates[contender].append(in_a_process(contender, Path(folder), name, workers))
    return rates


def verdicts(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """jaxnet's rate over that of each contender, round by round: median, lowest, highest."""
    found = {}
    for contender in CONTENDERS[1:]:
        ratios = [a / b for a, b in zip(rates["jaxnet"], rates[contender], strict=True)]
        found[contender] = {"median": median(ratios), "low": min(ratios), "high": max(ratios)}
    return found


def main() -> None:
    """Race, print a table, write JSON and a picture."""
    if sys.argv[1:2] == ["--one"]:
        contender, folder, name, workers = sys.argv[2:]
        print(json.dumps(measure(contender, Path(folder), KINDS[name], int(workers))))
        return
    import tyro

    options = tyro.cli(Options, prog="python -m benchmarks.input_folder")
    result: dict[str, Any] = {
        **report.header("input_folder", "images a second"),
        "workers": options.workers or report.cores(),
        "rounds": options.rounds,
        "sets": {},
    }
    panels, rows = {}, []
    for name in options.set:
        rates = race(name, options)
        compared = verdicts(rates)
        result["sets"][name] = {"images_per_second": rates, "ratios": compared}
        panels[name] = {
            contender: report.Bar(median(values), min(values), max(values), contender.split()[0])
            for contender, values in rates.items()
        }
        for contender, values in rates.items():
            ratio = compared.get(contender)
            shown = (
                f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else ""
            )
            bar = f"{BAR}" if contender.startswith("torch") else ""
            rows.append([f"{name}: {contender}", f"{median(values):,.0f}", shown, bar])
    columns = ["", "images/s", "jaxnet is faster by", "bar"]
    report.table("folders of JPEG files", columns, rows, report.caption(result))
    report.write(result, panels, options.out)


if __name__ == "__main__":
    main()
