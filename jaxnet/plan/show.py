"""A plan as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jaxnet.plan.collectives import Collective, axes_of, moved
from jaxnet.plan.roofline import Machine
from jaxnet.units import amount, duration

if TYPE_CHECKING:
    from jaxnet.plan.cost import Plan
    from jaxnet.plan.program import Program
    from jaxnet.plan.request import Config

# A file or a pipe has no width of its own, and a table cut to 80 columns loses its numbers.
LEAST_WIDTH = 165


@dataclass(frozen=True)
class Case:
    """What came of a layout.

    Attributes:
        sizes: the number of devices along each axis.
        plan: what it takes; None where the layout doesn't fit.
        program: what the compiler makes of it; None where that wasn't asked for, or can't be.
        note: why there is no plan, or no program.
    """

    sizes: dict[str, int]
    plan: Plan | None = None
    program: Program | None = None
    note: str = ""


def title(config: Config, model: Any) -> str:
    """What is planned, in a line."""
    name = " ".join(filter(None, [type(model).__name__, config.size]))
    return f"{name}, batches of {config.batch_size}, {config.optimizer}, {config.precision}"


def tables(head: str, machine: Machine, precision: str, cases: Sequence[Case]) -> None:
    """Print a table of all layouts, and for each what its devices send.

    Args:
        head: what is planned.
        machine: on what.
        precision: the type that is computed in.
        cases: what came of each layout.
    """
    from rich.console import Console

    console = Console()
    console = Console(width=max(console.width, LEAST_WIDTH))
    console.print(_overview(head, machine, precision, cases))
    print(
        "A device's bytes; activations, and the time of its memory, are estimates. step: from all "
        f"at the same time\nto one after the other. Figures of the machine: {machine.source}."
    )
    for case in cases:
        if case.plan is None:
            print(f"{layout_name(case.sizes)} doesn't fit: {case.note}")
    for case in cases:
        if case.plan is not None and (case.plan.collectives or case.program is not None):
            console.print(_exchanges(case))


def _overview(head: str, machine: Machine, precision: str, cases: Sequence[Case]) -> Any:
    parameters = next((f"{c.plan.parameters:,}" for c in cases if c.plan is not None), "?")
    made = _table(
        f"{head}: {parameters} parameters; {machine.name}",
        "layout",
        *("devices", "parameters", "gradients", "optimizer", "activations", "in all", "sends"),
        *("compute", "memory", "network", "step", "binds"),
    )
    for case in cases:
        if case.plan is None:
            continue
        held, time = case.plan.held, case.plan.time(machine, precision)
        much = " !" if held.total > machine.memory else ""
        parts = (held.parameters, held.gradients, held.optimizer, held.activations)
        made.add_row(
            layout_name(case.sizes),
            str(math.prod(case.sizes.values())),
            *map(amount, parts),
            amount(held.total) + much,
            amount(moved(case.plan.collectives)),
            *(duration(each) for each in (time.compute, time.memory, time.network)),
            f"{duration(time.overlapped)} to {duration(time.one_by_one)}",
            time.binds,
        )
    if any(c.plan is not None and c.plan.held.total > machine.memory for c in cases):
        made.caption = f"! more than the {amount(machine.memory)} of the device"
    return made


def _exchanges(case: Case) -> Any:
    """What a device sends by kind and axes: as counted from shapes, and as compiled."""
    assert case.plan is not None
    counted = _grouped(case.plan.collectives, case.sizes)
    compiled = _grouped(case.program.collectives, case.sizes) if case.program else {}
    columns = ["counted: times", "sent"]
    if case.program:
        columns += ["compiled for CPUs: times", "sent"]
    made = _table(f"what a device sends in a step: {layout_name(case.sizes)}", "kind", *columns)
    for key in {**counted, **compiled}:
        cells = [*_cells(counted.get(key)), *(_cells(compiled.get(key)) if case.program else ())]
        made.add_row(key, *cells)
    if case.program is not None:
        made.caption = (
            f"compiled in {case.program.seconds:.1f} s: {amount(case.program.arguments)} of state "
            f"and batch, {amount(case.program.temporary)} besides, {case.program.flops:.3g} "
            f"operations, those of a loop's body once (counted {case.plan.flops:.3g})"
        )
    elif case.note:
        made.caption = case.note
    return made


def _grouped(
    collectives: Iterable[Collective], sizes: Mapping[str, int]
) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for one in collectives:
        key = f"{one.kind} over {' x '.join(axes_of(one.group, sizes))}"
        times, sent = found.get(key, (0, 0.0))
        found[key] = (times + one.count, sent + one.moved)
    return found


def _cells(found: tuple[int, float] | None) -> tuple[str, str]:
    return ("", "") if found is None else (str(found[0]), amount(found[1]))


def _table(title: str, first: str, *others: str) -> Any:
    from rich.table import Table

    made = Table(title=title, title_justify="left", caption_justify="left")
    made.add_column(first, no_wrap=True)
    for name in others:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def as_json(config: Mapping[str, Any], machine: Machine, cases: Sequence[Case]) -> dict[str, Any]:
    """All of it, for programs."""
    precision = config["precision"]
    rows = []
    for case in cases:
        time = case.plan and case.plan.time(machine, precision)
        rows.append(
            {
                **asdict(case),
                "time": time and {**asdict(time), "binds": time.binds},
                "sends": case.plan and moved(case.plan.collectives),
            }
        )
    return {"config": dict(config), "machine": asdict(machine), "layouts": rows}


def layout_name(sizes: Mapping[str, int]) -> str:
    """The axes of more than one device.

    Example:
        >>> layout_name({"data": 8, "fsdp": 1, "tensor": 2})
        'data=8 tensor=2'
    """
    return " ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "one device"
