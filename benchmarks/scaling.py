"""Many devices against one: a transformer whose batch is shared out, and what saving costs.

    python -m benchmarks.scaling [--devices 2 4 8] [--axes data fsdp] [--processes 2 4] [--rounds 5]
    python -m benchmarks.scaling --no-virtual           on the machine's accelerators

Strong scaling: the same batch on more devices. Weak scaling: a batch that grows with them. Devices
belong to one process, or to several of one device each. Virtual devices, and processes on one
processor, share its cores, so that more of them can't be faster: there the ideal is the time in
which one device does the same work, and what is above it is the cost of sharing out. On
accelerators the ideal is that n devices do n times the work of one.

All settings take turns, each in processes of its own; a round is one epoch. A process is stopped
while it isn't its turn; several that train as one only wait, because they have to hear each other.
One setting saves its whole state every so many steps while it trains.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import race, report
from benchmarks.race import Contender, Entry
from benchmarks.workloads import Workload

MODULE = "benchmarks.contenders.jaxnet_fit"


@dataclass(frozen=True)
class Options:
    """Measure training on many devices."""

    devices: tuple[int, ...] = (2, 4, 8)
    """Numbers of devices, besides 1."""
    axes: tuple[str, ...] = ("data", "fsdp")
    """Axes of the layouts."""
    processes: tuple[int, ...] = (2, 4)
    """Numbers of processes of one device each, besides 1; they share out the batch."""
    batch_size: int = 64
    """Examples a step in strong scaling; in weak scaling each device has as many as here each of
    the most devices."""
    steps: int = 16
    """Steps of an epoch in strong scaling."""
    save_steps: int = 4
    """The setting that saves does so every so many steps."""
    rounds: int = 5
    """Epochs that count; one more warms up."""
    virtual: bool = True
    """Virtual devices of the processor; otherwise those of the machine."""
    width: int = 128
    """Of a token; the feed-forward networks are four times as wide."""
    length: int = 64
    """Words of an example."""
    out: Path = report.RESULTS
    """Where to write scaling.json and scaling.png."""

    @property
    def workload(self) -> Workload:
        """A transformer encoder of two blocks."""
        return Workload(
            "scaling",
            (4 * self.width,),
            "adam",
            self.batch_size,
            examples=self.batch_size * self.steps,
            vocabulary=1_000,
            length=self.length,
            embedding=self.width,
            blocks=2,
            heads=4,
        )


@dataclass(frozen=True)
class Setting:
    """A layout and a batch.

    Attributes:
        kind: `"strong"`, `"weak"`, or `"saving"`.
        axis: of the layout; empty for one device.
        devices: along it, of all processes together.
        batch_size: examples a step, all devices together.
        processes: how many the devices belong to: 1, or each its own.
    """

    kind: str
    axis: str
    devices: int
    batch_size: int
    processes: int = 1

    @property
    def name(self) -> str:
        if self.processes > 1:
            return f"{self.kind} {self.processes} processes"
        return f"{self.kind} {self.axis}={self.devices}" if self.axis else f"{self.kind} 1 device"

    @property
    def family(self) -> str:
        """What colours its bar."""
        return "processes" if self.processes > 1 else self.axis or "1 device"

    def contender(self, options: Options, folder: Path) -> Contender:
        """How to run it, with its checkpoints in `folder`."""
        chosen = {"devices": str(self.devices), "batch_size": str(self.batch_size)}
        if self.axis:
            chosen["axis"] = self.axis
        if self.kind == "saving":
            chosen |= {"save_steps": str(options.save_steps), "folder": str(folder)}
        environment = {}
        if options.virtual:
            chosen["virtual"] = str(self.devices // self.processes)
            environment["JAX_PLATFORMS"] = "cpu"
        if self.processes > 1:
            # To wait long while others have their turn is no fault.
            environment["JAXNET_PEER_TIMEOUT"] = "600"
        return Contender(self.name, "jaxnet", MODULE, chosen, environment, ("jax",), self.processes)


@dataclass(frozen=True)
class Outcome:
    """A setting's seconds a step, round by round, and what they would be at best."""

    setting: Setting
    seconds: tuple[float, ...]
    ideal: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times longer than at best, round by round."""
        return tuple(a / b for a, b in zip(self.seconds, self.ideal, strict=True))


def settings(options: Options) -> list[Setting]:
    """One device, each axis in strong and in weak scaling, processes, and one that saves."""
    each = options.batch_size // max(*options.devices, *options.processes, 1)
    found = [
        Setting("strong", "", 1, options.batch_size),
        Setting("weak", "", 1, each),
        Setting("saving", "", 1, options.batch_size),
    ]
    for axis in options.axes:
        for devices in options.devices:
            found.append(Setting("strong", axis, devices, options.batch_size))
            found.append(Setting("weak", axis, devices, each * devices))
    for number in options.processes:
        found.append(Setting("strong", "data", number, options.batch_size, number))
        found.append(Setting("weak", "data", number, each * number, number))
    return found


def outcomes(options: Options, entries: dict[Setting, Entry]) -> list[Outcome]:
    """The seconds of a step against the ideal, which comes from one device in the same round."""
    examples = options.workload.examples

    def seconds(setting: Setting) -> tuple[float, ...]:
        steps = -(-examples // setting.batch_size)
        return tuple(lap / steps for lap in entries[setting].seconds)

    alone = {s.kind: seconds(s) for s in entries if not s.axis}
    found = []
    for setting in entries:
        base = alone["strong" if setting.kind == "saving" else setting.kind]
        # What one device does in the time that n of them are given at best.
        share = setting.devices if setting.kind == "weak" else 1
        speedup = 1 if options.virtual else setting.devices
        found.append(Outcome(setting, seconds(setting), tuple(b * share / speedup for b in base)))
    return found


def measure(options: Options) -> list[Outcome]:
    """Race all settings."""
    chosen = settings(options)
    synthetic = (options.workload.examples, 64)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        contenders = [setting.contender(options, Path(folder)) for setting in chosen]
        say = partial(print, flush=True)
        raced = race.run(options.workload, contenders, options.rounds, synthetic=synthetic, say=say)
    entries = dict(zip(chosen, raced.entries, strict=True))
    return outcomes(options, entries)


def saving_seconds(options: Options, measured: list[Outcome]) -> float:
    """How much longer training takes for each save."""
    (saving,) = [each for each in measured if each.setting.kind == "saving"]
    more = [a - b for a, b in zip(saving.seconds, saving.ideal, strict=True)]
    return median(more) * options.save_steps


def main(options: Options) -> None:
    """Measure, print a table, write JSON and a picture."""
    measured = measure(options)
    head = report.header("scaling", "times as long as at best")
    rows: list[list[str]] = []
    panels: dict[str, dict[str, report.Bar]] = {}
    for each in measured:
        ratios = each.ratios
        rows.append(
            [
                each.setting.name,
                str(each.setting.batch_size),
                f"{1e3 * median(each.seconds):.1f} ms",
                f"{1e3 * median(each.ideal):.1f} ms",
                f"{median(ratios):.2f}",
                f"{min(ratios):.2f} - {max(ratios):.2f}",
            ]
        )
        bar = report.Bar(median(ratios), min(ratios), max(ratios), each.setting.family)
        panels.setdefault(each.setting.kind, {})[each.setting.name] = bar
    columns = ("setting", "batch", "step", "at best", "ratio", "rounds")
    kind = "virtual devices" if options.virtual else "accelerators"
    report.table(f"scaling, {kind}", columns, rows, report.caption(head))
    save = saving_seconds(options, measured)
    print(f"a save while training, every {options.save_steps} steps, costs {1e3 * save:.0f} ms")
    result: dict[str, Any] = {
        **head,
        "virtual": options.virtual,
        "workload": dataclasses.asdict(options.workload),
        "save_seconds": save,
        "settings": [
            {**dataclasses.asdict(each.setting), "seconds": each.seconds, "ideal": each.ideal}
            for each in measured
        ],
    }
    report.write(result, panels, options.out)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
