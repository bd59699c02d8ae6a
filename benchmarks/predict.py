"""From a trained network to an answer: latency and memory of predictions, against peers.

    python -m benchmarks.predict [--networks mlp300 cnn bert_small resnet18] [--rounds 5]

`Bundle.predict` and `Trained.predict`, which hold the same way to outputs, beside the same network
under plain `jax.jit` on one batch of all examples, and in a loop of batches of 256 that fetches
each batch; Keras's `Model.predict` and PyTorch under `inference_mode`, in batches of 256. Each
contender has a process of its own, and they take turns. Memory is what the process's resident set
grows by at its highest while predicting. All run on the CPU. Needs the extra [bench].
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.workloads import WORKLOADS, Workload

BATCH = 256
# Below this a round takes the mean of several calls.
ROUND_SECONDS = 0.1
# One example may take so many times as long as under plain jit, and so many seconds more.
ONE_FACTOR, ONE_MORE = 1.3, 1e-4
# All examples at a speed of at least this part of the fastest loop.
MANY_BAR = 0.95

NETWORKS = {
    **{name: WORKLOADS[name] for name in ("mlp300", "cnn", "resnet18")},
    "bert_small": replace(
        WORKLOADS["transformer"], name="bert_small", hidden=(2048,), embedding=512
    ),
}
Predict = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Options:
    """Race predictions."""

    networks: tuple[str, ...] = ("mlp300", "cnn", "bert_small", "resnet18")
    """Of mlp300 (784-300-100-10), cnn (32-64-64), bert_small (128 tokens) and resnet18."""
    examples: tuple[int, ...] = (1, 8, 64, 1_000, 10_000)
    """How many at once."""
    rounds: int = 5
    """Turns that count; one more warms up."""
    longest: float = 60.0
    """Numbers of examples for which a contender would need more seconds than this are left out."""
    out: Path = report.RESULTS
    """Where to write predict.json and predict.png."""


def inputs_of(workload: Workload, examples: int) -> np.ndarray:
    """Random examples as the network takes them."""
    rng = np.random.default_rng(0)
    if workload.vocabulary:
        return rng.integers(1, workload.vocabulary, (examples, workload.length), dtype=np.int32)
    shape = workload.image if workload.convolutional else (784,)
    return rng.random((examples, *shape), dtype=np.float32)


def _jax(workload: Workload) -> tuple[Any, Any]:
    import jax

    from benchmarks.contenders.jaxnet_fit import model_of

    model = model_of(workload)
    variables = jax.jit(model.init)(jax.random.key(0), inputs_of(workload, 1))
    return model, variables


def _bundle(workload: Workload) -> Predict:
    import jax

    from jaxnet import Bundle

    model, variables = _jax(workload)
    example = inputs_of(workload, 1)
    like = jax.ShapeDtypeStruct(example.shape[1:], example.dtype)
    bundle = Bundle(model, jax.device_get(variables), like, matmul_precision="highest")
    return bundle.predict


def _trained(workload: Workload) -> Predict:
    from benchmarks.contenders.jaxnet_fit import model_of
    from jaxnet import Supervised, Trainer, losses, optimizers

    task = Supervised(model_of(workload), losses.cross_entropy, optimizers.by_name("adam", 1e-6))
    data = inputs_of(workload, 8), np.arange(8, dtype=np.int32)
    return Trainer(task, progress=False).fit(data, steps=1, batch_size=8).model.predict


def _jit(workload: Workload) -> Predict:
    import jax

    model, variables = _jax(workload)
    apply = jax.jit(model.apply)
    return lambda inputs: np.asarray(apply(variables, inputs))


def _loop(workload: Workload) -> Predict:
    one = _jit(workload)
    return lambda inputs: np.concatenate([one(part) for part in _batches(inputs)])


def _keras(workload: Workload) -> Predict:
    from benchmarks.contenders.keras_fit import SILENT, model_of

    model = model_of(workload)
    return lambda inputs: model.predict(inputs, batch_size=BATCH, verbose=SILENT)


def _torch(workload: Workload) -> Predict:
    import torch

    from benchmarks.contenders.torch_loop import model_of

    torch.set_num_threads(report.cores())
    model = model_of(workload).eval()

    @torch.inference_mode()
    def predict(inputs: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(inputs)
        tensor = tensor if tensor.ndim == 2 else tensor.permute(0, 3, 1, 2)
        return torch.cat([model(part) for part in tensor.split(BATCH)]).numpy()

    return predict


CONTENDERS: dict[str, tuple[Callable[[Workload], Predict], dict[str, str]]] = {
    "Bundle.predict": (_bundle, {}),
    "Trained.predict": (_trained, {}),
    "jit, one batch": (_jit, {}),
    "jit, batches of 256": (_loop, {}),
    "Keras predict": (_keras, {"KERAS_BACKEND": "jax"}),
    "PyTorch active": (_torch, {"OMP_WAIT_POLICY": "active"}),
    "PyTorch passive": (_torch, {"OMP_WAIT_POLICY": "passive"}),
}
OURS = ("Bundle.predict", "Trained.predict")


def _batches(inputs: np.ndarray) -> list[np.ndarray]:
    return [inputs[begin : begin + BATCH] for begin in range(0, len(inputs), BATCH)]


def _work(pipe: Connection, name: str, network: str) -> None:
    """A contender's process: told a number of examples, it answers with seconds and bytes."""
    workload = NETWORKS[network]
    predict = CONTENDERS[name][0](workload)
    calls: dict[int, int] = {}
    while examples := pipe.recv():
        inputs = inputs_of(workload, examples)
        if examples not in calls:
            predict(inputs)  # compiles
            calls[examples] = max(1, round(ROUND_SECONDS / _timed(predict, inputs, 1)))
        grown = _growth(lambda: predict(inputs))  # noqa: B023
        pipe.send((_timed(predict, inputs, calls[examples]), grown))


def _timed(predict: Predict, inputs: np.ndarray, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        predict(inputs)
    return (time.perf_counter() - start) / calls


def _growth(run: Callable[[], object]) -> int:
    """Bytes by which the resident set grows at its highest while something runs (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed counts no more
    Path("/proc/self/clear_refs").write_text("5")  # the highest is from now on
    before = _status("VmRSS")
    kept = run()
    del kept
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


@dataclass(frozen=True)
class Measured:
    """The rounds of a contender for a number of examples."""

    seconds: tuple[float, ...]
    memory: int


def race(options: Options, network: str) -> dict[int, dict[str, Measured]]:
    """All contenders for each number of examples."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, (_, environment) in CONTENDERS.items():
        pipes[name], theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(theirs, name, network), daemon=True)
        before = dict(os.environ)
        os.environ.update({"JAX_PLATFORMS": "cpu", **environment})
        process.start()
        os.environ.clear()
        os.environ.update(before)
        processes.append(process)
    found: dict[int, dict[str, Measured]] = {}
    for examples in options.examples:
        if found and _expected(found, examples) > options.longest:
            print(f"{network}, {examples}: left out, it would take too long", flush=True)
            continue
        rounds: dict[str, list[tuple[float, int]]] = {name: [] for name in pipes}
        for _ in range(options.rounds + 1):
            for name, pipe in pipes.items():
                pipe.send(examples)
                rounds[name].append(pipe.recv())
        found[examples] = {
            name: Measured(tuple(s for s, _ in each[1:]), max(m for _, m in each[1:]))
            for name, each in rounds.items()
        }
        print(f"{network}, {examples}: done", flush=True)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return found


def _expected(found: dict[int, dict[str, Measured]], examples: int) -> float:
    """The seconds of the slowest contender, by those of fewer examples."""
    known = max(found)
    slowest = max(median(each.seconds) for each in found[known].values())
    return slowest * examples / known


def ratio(measured: dict[str, Measured], name: str, other: str) -> float:
    """How many times as long as another one took, the median of the rounds."""
    pairs = zip(measured[name].seconds, measured[other].seconds, strict=True)
    return median(a / b for a, b in pairs)


def fastest_loop(measured: dict[str, Measured]) -> str:
    """The fastest of what isn't ours."""
    others = [name for name in measured if name not in OURS]
    return min(others, key=lambda name: median(measured[name].seconds))


def main(options: Options) -> None:
    """Race, print and write."""
    head = report.header("predict", "milliseconds")
    results, rows, panels = [], [], {}
    for network in options.networks:
        for examples, measured in race(options, network).items():
            best = fastest_loop(measured)
            for name, each in measured.items():
                ratios = {
                    other: ratio(measured, name, other)
                    for other in ("jit, one batch", best)
                    if name in OURS
                }
                results.append(
                    {
                        "network": network,
                        "examples": examples,
                        "contender": name,
                        "milliseconds": [1e3 * seconds for seconds in each.seconds],
                        "memory_bytes": each.memory,
                        "times_as_long_as": ratios,
                    }
                )
                rows.append(
                    [
                        f"{network}, {examples}: {name}",
                        f"{1e3 * median(each.seconds):.3f}",
                        f"{each.memory / 2**20:.0f}",
                        f"{ratios['jit, one batch']:.2f}" if ratios else "",
                        f"{ratios[best]:.2f} ({best})" if ratios else "",
                    ]
                )
            panels[f"{network}, {examples}"] = {
                name: report.Bar(
                    1e3 * median(each.seconds),
                    1e3 * min(each.seconds),
                    1e3 * max(each.seconds),
                    name.split()[0],
                )
                for name, each in measured.items()
            }
    title = (
        f"predictions; bars: one example {ONE_FACTOR} times jit and {1e3 * ONE_MORE:.1f} ms more, "
        f"10,000 at {MANY_BAR} of the fastest loop's speed"
    )
    columns = ("what", "ms", "MiB", "times jit", "times the fastest other")
    report.table(title, columns, rows)
    report.write({**head, "rounds": options.rounds, "results": results}, panels, options.out)
    print(report.caption(head))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
