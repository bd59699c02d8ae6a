"""A training step of an NNX module, of the same Linen network, and of a loop of NNX's own.

    python -m benchmarks.nnx_step [--rounds 15]

The first two are the compiled step of `Supervised`, the third is `nnx.jit` around `nnx.grad` and
`nnx.Optimizer`, with `nnx.cached_partial`, as Flax's guide to performance has it. All three hold
the same number of parameters, see the same batch and update by adam. They take turns within one
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import report
from jaxnet import Supervised, losses
from jaxnet.training import Nnx

# A measurement repeats a step until it lasts about so long.
SECONDS = 0.5
LINEN, NNX, LOOP = "Linen", "NNX", "nnx.jit loop"


class LinenMLP(nn.Module):
    """Dense layers with batch normalisation and dropout."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        x = inputs
        for features in self.hidden:
            x = nn.Dense(features)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(10)(x)


class NnxMLP(nnx.Module):
    """The same network."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], rngs: nnx.Rngs) -> None:
        widths = (inputs, *hidden)
        pairs = list(zip(widths, hidden, strict=False))
        self.dense = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.BatchNorm(b, rngs=rngs) for b in hidden])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(widths[-1], 10, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x = inputs
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x = self.dropout(nnx.relu(norm(dense(x))))
        return self.last(x)


@dataclass(frozen=True)
class Case:
    """A network's hidden layers and the batch that it is trained on."""

    hidden: tuple[int, ...]
    batch_size: int
    inputs: int = 784


CASES = {
    "784-300-100-10, batch of 32": Case((300, 100), 32),
    "784-512-512-10, batch of 128": Case((512, 512), 128),
    "64-32-32-32-32-32-32-10, batch of 32": Case((32,) * 6, 32, inputs=64),
}


@dataclass(frozen=True)
class Options:
    """Time a training step of NNX modules."""

    rounds: int = 15
    """Interleaved measurements of each."""
    out: Path = report.RESULTS
    """Where to write nnx_step.json and nnx_step.png."""


def steps(case: Case) -> dict[str, Callable[[], Any]]:
    """A function for each contender: one step, which gives its loss without waiting for it."""
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.normal(size=(case.batch_size, case.inputs)), jnp.float32),
        "labels": jnp.asarray(rng.integers(0, 10, case.batch_size)),
        "mask": jnp.ones(case.batch_size, bool),
    }
    return {
        LINEN: _of_a_task(LinenMLP(case.hidden), batch),
        NNX: _of_a_task(Nnx(NnxMLP, (case.inputs, case.hidden)), batch),
        LOOP: _of_a_loop(NnxMLP(case.inputs, case.hidden, nnx.Rngs(0)), batch),
    }


def _of_a_task(model: Any, batch: dict[str, jax.Array]) -> Callable[[], Any]:
    task = Supervised(model, losses.cross_entropy, optax.adam(1e-3))
    state = jax.jit(task.init)(jax.random.key(0), batch)
    compiled = jax.jit(task.train_step, donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["loss"].compute()

    return step


def _of_a_loop(model: NnxMLP, batch: dict[str, jax.Array]) -> Callable[[], Any]:
    model.train()
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def compiled(model: NnxMLP, optimizer: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        def objective(model: NnxMLP) -> jax.Array:
            return losses.cross_entropy(model(inputs), labels).mean()

        loss, grads = nnx.value_and_grad(objective)(model)
        optimizer.update(model, grads)
        return loss

    # Without it each call goes over the modules in Python, which small networks spend most time on.
    bound = nnx.cached_partial(compiled, model, optimizer)
    return lambda: bound(batch["inputs"], batch["labels"])


def measure(case: Case, rounds: int) -> dict[str, tuple[float, ...]]:
    """Contender -> seconds a step, round by round; each round begins with another contender."""
    contenders = steps(case)
    for step in contenders.values():
        jax.block_until_ready(step())
    calls = max(1, round(SECONDS / _seconds(contenders[LINEN], 3)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds(contenders[name], calls))
    return {name: tuple(each) for name, each in seconds.items()}


def ratios(seconds: dict[str, tuple[float, ...]], name: str) -> tuple[float, ...]:
    """Round by round, how many times as long a contender took as the Linen network."""
    return tuple(a / b for a, b in zip(seconds[name], seconds[LINEN], strict=True))


def _seconds(step: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        last = step()
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / calls


def main(options: Options) -> None:
    """Measure, print and write."""
    head = report.header("nnx_step", "time of a step / that of the Linen network")
    head["device"] = jax.devices()[0].device_kind
    rows, results, panels = [], [], {}
    for title, case in CASES.items():
        seconds = measure(case, options.rounds)
        panels[title] = {}
        for name in (NNX, LOOP):
            found = ratios(seconds, name)
            panels[title][name] = report.Bar(median(found), min(found), max(found), name)
            spread = f"{median(found):.3f} ({min(found):.2f}-{max(found):.2f})"
            rows.append([title, name, f"{1e3 * median(seconds[name]):.3f}", spread])
        results.append({"network": title, "seconds": seconds})
        print(f"nnx_step: {title} done", flush=True)
    report.table("A step of an NNX module", ["network", "", "ms", "time / Linen"], rows)
    print(report.caption(head))
    report.write({**head, "results": results}, panels, options.out)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
