"""The program that the compiler makes of a training step on virtual devices.

A process has to say how many devices it has before it uses any, so a process of its own compiles:
it reads a configuration of `jaxnet plan` as JSON and writes a `Program` as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    from jaxnet.parallel import Layout
    from jaxnet.plan.collectives import Collective

# Beyond this the compiler for CPUs refuses: it was measured with jax 0.10.2.
MOST_DEVICES = 2048


@dataclass(frozen=True)
class Program:
    """What is known of a compiled step; bytes of a device.

    Attributes:
        seconds: how long it took to compile.
        arguments: the state and the batch.
        temporary: what the compiler for CPUs lays out besides, an estimate for other devices.
        flops: the operations that it counts, those of a loop's body once.
        collectives: what it sends.
    """

    seconds: float
    arguments: int
    temporary: int
    flops: float
    collectives: tuple[Collective, ...]


def compile_apart(job: Mapping[str, Any]) -> Program:
    """Compile in a process of its own.

    Raises:
        UsageError: the layout can't be for this network.
        InputError: that process failed; the message ends with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "jaxnet.plan.program"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise InputError(f"the step could not be compiled:\n{last}")
    said = json.loads(done.stdout.splitlines()[-1])
    if "refused" in said:
        raise UsageError(said["refused"])
    return of_json(said)


def of_json(values: dict[str, Any]) -> Program:
    """The program that `asdict` made a mapping of."""
    from jaxnet.plan.collectives import Collective

    sent = [{**one, "group": tuple(one["group"])} for one in values["collectives"]]
    return Program(**{**values, "collectives": tuple(Collective(**one) for one in sent)})


def compile_step(task: Any, batch: Mapping[str, Any], layout: Layout) -> Program:
    """Compile the step that a trainer takes under a layout, on the devices of this process.

    Args:
        task: what is trained.
        batch: the shapes of a whole batch.
        layout: how it lies.

    Raises:
        UsageError: the layout can't be for this network; see `Programs.state`.
    """
    import jax

    from jaxnet.plan import collectives
    from jaxnet.training.programs import Programs

    programs = Programs(task, layout=layout)
    state = programs.state(jax.random.key(0), dict(batch))
    begun = time.perf_counter()
    program = programs.step(state, dict(batch))
    seconds = time.perf_counter() - begun
    # What there is of these depends on the compiler: that for CPUs has them all.
    memory: Any = program.memory_analysis()
    cost, text = program.cost_analysis() or {}, program.as_text() or ""
    return Program(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=float(cost.get("flops", 0.0)),
        collectives=collectives.read(text),
    )


def main() -> None:
    """Compile what standard input asks for."""
    import jax

    job = json.load(sys.stdin)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", job["devices"])
    # The program is looked at and thrown away.
    jax.config.update("jax_enable_compilation_cache", False)
    from jaxnet.app.config import from_mapping
    from jaxnet.app.run_options import Layout
    from jaxnet.plan import request

    config = from_mapping(request.Config, job["config"], "the job")
    model = request.network_of(config)
    task, batch = request.step_of(config, model)
    layout = from_mapping(Layout, job["layout"], "the job").build(model)
    try:
        said = asdict(compile_step(task, batch, layout))
    except InputError as error:
        said = {"refused": str(error)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
