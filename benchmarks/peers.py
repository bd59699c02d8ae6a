"""Side by side: jaxnet, hand-written JAX, Keras 3 on JAX, PyTorch and scikit-learn.

    python -m benchmarks.peers [--race mlp512 mlp300 mlp300_b32 cnn rnn lstm_lm transformer
                               resnet18] [--rounds 5] [--data-dir DIR]

A round is one epoch of shuffled MNIST, or of synthetic texts (`rnn`, `lstm_lm`, `transformer`) or
images (`resnet18`), with the mean loss and, where the library keeps it, the accuracy. Each library
runs in several settings, and its fastest is compared with `Trainer.fit`.
All run on the CPU. scikit-learn has no rmsprop and trains `mlp512` with adam.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks import race, report
from benchmarks.race import Contender, Entry, Race
from benchmarks.workloads import WORKLOADS, Workload

Name = Literal["mlp512", "mlp300", "mlp300_b32", "cnn", "rnn", "lstm_lm", "transformer", "resnet18"]

# How many times longer than jaxnet's a library's epoch has to take.
BARS: dict[str, dict[str, float]] = {
    "raw_jax": dict.fromkeys(WORKLOADS, 0.97),
    "keras": {
        "mlp512": 1.15,
        "mlp300": 1.25,
        "mlp300_b32": 1.4,
        "cnn": 2.0,
        "rnn": 1.3,
        "lstm_lm": 1.3,
        "transformer": 1.3,
        "resnet18": 1.05,
    },
    "torch": {
        "mlp512": 1.3,
        "mlp300": 1.45,
        "mlp300_b32": 1.8,
        "cnn": 1.0,
        "rnn": 2.0,
        "lstm_lm": 0.85,
        "transformer": 0.9,
    },
    "sklearn": dict.fromkeys(("mlp512", "mlp300", "mlp300_b32"), 2.0),
}

# From so many cores on, other work on the machine makes a figure doubtful.
DISTURBED = 0.15


@dataclass(frozen=True)
class Options:
    """Race jaxnet against hand-written JAX, Keras on JAX, PyTorch and scikit-learn."""

    race: tuple[Name, ...] = (
        "mlp512",
        "mlp300",
        "mlp300_b32",
        "cnn",
        "rnn",
        "lstm_lm",
        "transformer",
        "resnet18",
    )
    """Which networks to train."""
    rounds: int = 5
    """Epochs that count; one more warms up."""
    data_dir: Path | None = None
    """Folder that holds mnist/*.gz; default JAXNET_DATA_DIR or ../shared/data."""
    out: Path = report.RESULTS
    """Where to write peers_RACE.json and peers_RACE.png."""


def contenders(workload: Workload) -> list[Contender]:
    """Every library in the settings that have a chance of being its fastest."""
    return [
        _contender("jaxnet", "jaxnet_fit", {}, {**_ON_CPU, "JAXNET_CACHE_DIR": "off"}),
        *_raw_jax(workload),
        *_keras(),
        *_torch(workload),
        *_sklearn(workload),
    ]


_ON_CPU = {"JAX_PLATFORMS": "cpu"}


def _contender(
    library: str, module: str, options: dict[str, str], environment: dict[str, str]
) -> Contender:
    waits = [environment[name] for name in environment if name == "OMP_WAIT_POLICY"]
    name = " ".join([library, *options.values(), *waits])
    needed = {"keras": ("keras", "jax"), "torch": ("torch",), "sklearn": ("sklearn",)}
    requires = needed.get(library, ("jax",))
    module = f"benchmarks.contenders.{module}"
    return Contender(name, library, module, options, environment, requires)


def _raw_jax(workload: Workload) -> list[Contender]:
    if workload.residual:
        settings = [("step", "plain"), ("step", "im2col"), ("fori", "im2col")]
        forms = [{"loop": loop, "form": form} for loop, form in settings]
        return [_contender("raw_jax", "raw_resnet", form, _ON_CPU) for form in forms]
    if workload.blocks:
        forms = [
            {"loop": loop, "form": form}
            for loop in ("fori", "step")
            for form in ("heads", "einsum")
        ]
        return [_contender("raw_jax", "raw_transformer", form, _ON_CPU) for form in forms]
    settings = [("fori", "uint8"), ("fori", "float32"), ("scan", "uint8")]
    forms = [{"loop": loop, "data": data} for loop, data in settings]
    if workload.convolutional:
        forms = [{**form, "form": "im2col"} for form in forms]
        forms.append({"loop": "step", "data": "float32", "form": "slices"})
    if workload.next_token:
        forms = [{"loop": loop, "form": "scan"} for loop in ("fori", "step")]
    elif workload.recurrent:
        forms = [
            {"loop": loop, "form": form} for loop in ("fori", "step") for form in ("scan", "matmul")
        ]
    return [_contender("raw_jax", "raw_jax", form, _ON_CPU) for form in forms]


def _keras() -> list[Contender]:
    return [
        _contender(
            "keras",
            "keras_fit",
            {"steps_per_execution": steps},
            {**_ON_CPU, "KERAS_BACKEND": "jax"},
        )
        for steps in ("1", "16", "all")
    ]


def _torch(workload: Workload) -> list[Contender]:
    optimizers = ("foreach",) if workload.optimizer == "rmsprop" else ("fused", "foreach")
    if workload.blocks or workload.residual:
        # Of their long steps the update is a small part; `fused` was the faster one in a warm-up.
        optimizers = ("fused",)
    layouts = ("channels_last", "contiguous") if workload.convolutional else ("contiguous",)
    layouts = ("fused_qkv", "own") if workload.blocks else layouts
    return [
        _contender(
            "torch",
            "torch_loop",
            {"optimizer": optimizer, "layout": layout},
            {"OMP_WAIT_POLICY": wait},
        )
        for optimizer, layout, wait in product(optimizers, layouts, ("active", "passive"))
    ]


def _sklearn(workload: Workload) -> list[Contender]:
    """scikit-learn has perceptrons only."""
    if workload.convolutional or workload.recurrent:
        return []
    return [_contender("sklearn", "sklearn_fit", {}, {})]


@dataclass(frozen=True)
class Verdict:
    """How a library's fastest setting compares with jaxnet, round by round."""

    framework: str
    best: str
    ratio: float
    low: float
    high: float
    bar: float
    met: bool


def verdicts(result: Race) -> list[Verdict]:
    """The libraries' times over jaxnet's, against the bars; none if jaxnet did not run."""
    reference = result.best("jaxnet")
    found = []
    for library, bars in BARS.items():
        entry = result.best(library)
        bar = bars.get(result.workload.name)
        if reference is None or entry is None or bar is None:
            continue
        ratios = entry.ratios(reference)
        ratio = median(ratios)
        found.append(
            Verdict(
                framework=library,
                best=entry.contender.name,
                ratio=ratio,
                low=min(ratios),
                high=max(ratios),
                bar=bar,
                met=ratio >= bar,
            )
        )
    return found


def as_json(result: Race) -> dict[str, Any]:
    """One race as plain data: every round of every contender, ratios and verdicts."""
    reference = _reference(result)
    return {
        "workload": dataclasses.asdict(result.workload),
        "steps_per_round": result.workload.steps,
        "images": result.source,
        "device": "cpu",
        "reference": reference.contender.name,
        "contenders": [_entry_json(entry, reference) for entry in result.entries],
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts(result)],
        "skipped": dict(result.skipped),
    }


def _entry_json(entry: Entry, reference: Entry) -> dict[str, Any]:
    ratios = entry.ratios(reference)
    return {
        **dataclasses.asdict(entry.contender),
        "median": entry.median,
        "min": min(entry.seconds),
        "max": max(entry.seconds),
        "ratio": median(ratios),
        "ratios": ratios,
        "first_epoch_accuracy": entry.accuracy,
        "warm_up": dataclasses.asdict(entry.warm_up),
        "rounds": [dataclasses.asdict(lap) for lap in entry.laps],
    }


def _reference(result: Race) -> Entry:
    return result.best("jaxnet") or min(result.entries, key=lambda entry: entry.median)


def show(result: Race) -> None:
    """Print the contenders of one race and how jaxnet does against the bars."""
    workload, reference = result.workload, _reference(result)
    rows = [
        [
            entry.contender.name,
            f"{entry.median:.3f}",
            f"{min(entry.seconds):.3f}",
            f"{max(entry.seconds):.3f}",
            f"{1e3 * entry.median / workload.steps:.3f}",
            f"{median(entry.ratios(reference)):.2f}",
            f"{entry.warm_up.loss:.3f}",
            f"{100 * entry.accuracy:.1f}",
            f"{entry.warm_up.seconds:.1f}",
            _others(entry),
        ]
        for entry in sorted(result.entries, key=lambda entry: entry.median)
    ]
    title = (
        f"{workload.name}: {workload.examples} examples of {result.source}, batch "
        f"{workload.batch_size}, {workload.optimizer}; seconds a round of {workload.steps} steps"
    )
    columns = ("contender", "median", "min", "max", "ms/step", f"/ {reference.contender.name}")
    checks = ("1st loss", "1st acc %", "1st s", "others")
    note = "1st: the first epoch, with compilation. others: cores busy with other work."
    skipped = "".join(f"\nskipped {name}: {why}" for name, why in result.skipped.items())
    report.table(title, columns + checks, rows, note + skipped)


def _others(entry: Entry) -> str:
    busy = [lap.foreign_cores for lap in entry.laps if lap.foreign_cores is not None]
    if not busy:
        return "-"
    return f"{median(busy):.2f}" + (" !" if median(busy) > DISTURBED else "")


def show_verdicts(results: list[Race]) -> None:
    """Print every bar of every race, and whether it is met."""
    rows = [
        [
            f"{result.workload.name} / {verdict.framework}",
            f"{verdict.ratio:.2f}",
            f"{verdict.low:.2f} .. {verdict.high:.2f}",
            f"{verdict.bar:.2f}",
            "met" if verdict.met else "not met",
            verdict.best,
        ]
        for result in results
        for verdict in verdicts(result)
    ]
    columns = ("race / library", "x of jaxnet", "rounds", "bar", "", "best setting")
    report.table("Time of the library's best setting / time of jaxnet", columns, rows)


def main(options: Options) -> None:
    """Run the races, one after the other, and write a report of each."""
    results = []
    for name in options.race:
        workload = WORKLOADS[name]
        say = partial(print, flush=True)
        result = race.run(workload, contenders(workload), options.rounds, options.data_dir, say=say)
        results.append(result)
        show(result)
        head = report.header(f"peers_{name}", "seconds per round")
        bars = {
            entry.contender.name: report.Bar(
                entry.median, min(entry.seconds), max(entry.seconds), entry.contender.framework
            )
            for entry in result.entries
        }
        panels = {f"{name} ({result.source})": bars}
        report.write({**head, **as_json(result)}, panels, options.out)
        print(report.caption(head))
    show_verdicts(results)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
