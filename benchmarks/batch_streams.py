"""Training on batches of an iterable: a generator and a PyTorch DataLoader, beside the same arrays.

    python -m benchmarks.batch_streams [--rounds 9]

The generator yields batches of NumPy arrays, the DataLoader takes rows of tensors by a sampler of
batches, so that neither puts a batch together example by example. All go by a random order, train
the same network with `Trainer.fit`, and take turns within one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks import report
from jaxnet import Supervised, Trainer
from jaxnet.data import Arrays, Batches
from jaxnet.models import MLP

ARRAYS, GENERATOR, LOADER = "arrays", "generator", "DataLoader"


@dataclass(frozen=True)
class Case:
    """A network and its data."""

    inputs: int
    hidden: tuple[int, ...]
    batch_size: int
    rows: int = 32_768


CASES = {
    "784-300-100-10, batches of 128": Case(784, (300, 100), 128),
    "784-32-10, batches of 256": Case(784, (32,), 256),
    "64-32-10, batches of 32": Case(64, (32,), 32),
}


@dataclass(frozen=True)
class Options:
    """Time epochs over iterables of batches."""

    rounds: int = 9
    """Interleaved measurements of each."""
    out: Path = report.RESULTS
    """Where to write batch_streams.json and batch_streams.png."""


def contenders(case: Case) -> dict[str, Callable[[], Any]]:
    """A function for each contender that trains one epoch."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(case.rows, case.inputs)).astype(np.float32)
    labels = rng.integers(0, 10, case.rows).astype(np.int32)

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(epoch).permutation(case.rows)
        for rows in order.reshape(-1, case.batch_size):
            yield inputs[rows], labels[rows]

    sources = {
        ARRAYS: Arrays(inputs, labels),
        GENERATOR: Batches(batches, steps=case.rows // case.batch_size),
        LOADER: _loader(inputs, labels, case.batch_size),
    }
    task = Supervised(MLP(hidden=case.hidden), "cross_entropy", "adam")

    def epoch(trainer: Trainer, source: Any) -> Any:
        return trainer.fit(source, epochs=1, batch_size=case.batch_size, resume=False)

    return {
        name: partial(epoch, Trainer(task, progress=False), source)
        for name, source in sources.items()
    }


def _loader(inputs: np.ndarray, labels: np.ndarray, batch_size: int) -> Any:
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
    sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=False)
    return DataLoader(data, sampler=sampler, batch_size=None)


def measure(case: Case, rounds: int) -> dict[str, tuple[float, ...]]:
    """Contender -> seconds per epoch, round by round; each round begins with another contender."""
    epochs = contenders(case)
    for epoch in epochs.values():
        epoch()
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    names = list(epochs)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            jax.block_until_ready(epochs[name]().state.params)
            seconds[name].append(time.perf_counter() - start)
    return {name: tuple(each) for name, each in seconds.items()}


def ratios(seconds: dict[str, tuple[float, ...]], name: str) -> tuple[float, ...]:
    """Round by round, the speed relative to that of arrays."""
    return tuple(a / b for a, b in zip(seconds[ARRAYS], seconds[name], strict=True))


def main(options: Options) -> None:
    """Measure, print and write."""
    head = report.header("batch_streams", "speed / that of the same data as arrays")
    head["device"] = jax.devices()[0].device_kind
    rows, results, panels = [], [], {}
    for title, case in CASES.items():
        seconds = measure(case, options.rounds)
        panels[title] = {}
        for name in (GENERATOR, LOADER):
            found = ratios(seconds, name)
            panels[title][name] = report.Bar(median(found), min(found), max(found), name)
            spread = f"{median(found):.3f} ({min(found):.2f}-{max(found):.2f})"
            rows.append([title, name, f"{1e3 * median(seconds[name]):.0f}", spread])
        results.append({"network": title, "seconds": seconds})
        print(f"batch_streams: {title} done", flush=True)
    report.table("Batches of an iterable", ["network", "", "ms", "speed / arrays"], rows)
    print(report.caption(head))
    report.write({**head, "results": results}, panels, options.out)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
