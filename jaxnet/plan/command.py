"""The command `jaxnet plan`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.app.config import from_mapping, to_mapping
from jaxnet.app.run_options import Layout
from jaxnet.errors import UsageError
from jaxnet.files import json_text
from jaxnet.names import lookup
from jaxnet.plan.request import Config, inputs_of, network_of, step_of
from jaxnet.plan.show import Case

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet import parallel
    from jaxnet.plan.program import Program

ONE_DEVICE = Layout()


def plan(config: Config) -> int:
    """Plan each layout, and print.

    Raises:
        UsageError: a name is unknown, or the only layout doesn't fit.
    """
    from jaxnet.plan import show
    from jaxnet.plan.roofline import MACHINES

    machine = lookup(config.machine, MACHINES, "machine")
    model = network_of(config)
    chosen = [parsed(text, config.layout) for text in config.layouts] or [config.layout]
    cases = _cases(config, model, chosen)
    if len(cases) == 1 and cases[0].plan is None:
        raise UsageError(cases[0].note)
    if config.json:
        print(json_text(show.as_json(to_mapping(config), machine, cases), indent=1))
    else:
        show.tables(show.title(config, model), machine, config.precision, cases)
    return cli.DONE


def parsed(text: str, base: Layout = ONE_DEVICE) -> Layout:
    """The layout that a word of a command line describes; the rest is that of `base`.

    Raises:
        UsageError: it isn't of the form `data=8,tensor=2`.

    Example:
        >>> parsed("data=8,tensor=2").tensor
        2
    """
    pairs = [part.partition("=") for part in text.split(",")]
    sizes = {name: int(size) if size.isdigit() else size for name, _, size in pairs}
    return from_mapping(Layout, {**to_mapping(base), **sizes}, f"--layouts {text}")


def _cases(config: Config, model: nn.Module, chosen: Sequence[Layout]) -> list[Case]:
    from jaxnet import optimizers
    from jaxnet.plan.cost import plan
    from jaxnet.plan.tracing import trace
    from jaxnet.training.parallelize import check_used, complete, used_by

    task, _ = step_of(config, model)
    optimizer = optimizers.by_name(config.optimizer, 1e-3)
    inputs = inputs_of(config, model)
    traced = trace(model, *inputs, optimizer=optimizer, precision=config.precision)
    used = used_by({layer.kind for layer in traced.layers.values()})
    cases = []
    for sizes in chosen:
        try:
            layout = complete(sizes.build(model), task, plain=True)
            check_used(layout, used)
            planned = plan(traced, layout)
            cases.append(Case(layout.sizes, planned, *_program(config, sizes, layout)))
        except UsageError as error:
            cases.append(Case(_numbers(sizes), note=str(error)))
    return cases


def _program(config: Config, sizes: Layout, layout: parallel.Layout) -> tuple[Program | None, str]:
    """What the compiler makes of a layout, or why it isn't asked."""
    from jaxnet.plan.program import MOST_DEVICES, compile_apart

    if not config.compile:
        return None, ""
    if layout.devices > MOST_DEVICES:
        return None, f"not compiled: JAX makes at most {MOST_DEVICES} virtual devices"
    job = {
        "config": to_mapping(config),
        "layout": to_mapping(sizes),
        "devices": layout.devices,
    }
    return compile_apart(job), ""


def _numbers(sizes: Layout) -> dict[str, int]:
    from jaxnet.parallel.axes import AXES

    return {name: getattr(sizes, name) for name in AXES}


def main() -> int:
    """The command."""
    return cli.run_alone(
        lambda: plan(from_command_line(Config, sys.argv[1:], "python -m jaxnet plan"))
    )
