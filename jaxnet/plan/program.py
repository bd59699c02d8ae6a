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

from jaxnet.errors import InputError

if TYPE_CHECKING:
    from jaxnet.parallel import Layout
    from jaxnet.parallel.collectives import Collective

# Beyond this the compiler for CPUs refuses: it was measured with jax 0.10.2.
MOST_DEVICES = 2048


@dataclass(frozen=True)
class Program:
    """What is known of a compiled step; bytes of a device.

    Attributes:
        seconds: how long it took to compile.
        arguments: the state and the batch.
        temporary: what the compiler for CPUs lays out besides, an estimate for other devices.
        flops: the operations that it counts.
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
    return of_json(json.loads(done.stdout.splitlines()[-1]))


def of_json(values: dict[str, Any]) -> Program:
    """The program that `asdict` made a mapping of."""
    from jaxnet.parallel.collectives import Collective

    sent = [{**one, "group": tuple(one["group"])} for one in values["collectives"]]
    return Program(**{**values, "collectives": tuple(Collective(**one) for one in sent)})


def compile_step(task: Any, batch: Mapping[str, Any], layout: Layout) -> Program:
    """Compile a training step for a layout on the devices of this process.

    Args:
        task: what is trained.
        batch: the shapes of a whole batch.
        layout: how it lies.
    """
    import jax

    from jaxnet.parallel import collectives
    from jaxnet.training.programs import compiled

    mesh = layout.mesh()
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    lies = layout.shardings(state, mesh)

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
        )

    def step(state: Any, batch: Any) -> Any:
        state, metrics = task.train_step(state, batch)
        return jax.lax.with_sharding_constraint(state, lies), metrics

    begun = time.perf_counter()
    with jax.set_mesh(mesh):
        given = placed(state, lies), placed(dict(batch), layout.batch(batch, mesh))
        program = compiled(step).lower(*given).compile()
    seconds = time.perf_counter() - begun
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return Program(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=float(cost.get("flops", 0.0)),
        collectives=collectives.read(program.as_text()),
    )


def main() -> None:
    """Compile what standard input asks for."""
    import jax

    job = json.load(sys.stdin)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", job["devices"])
    # The program is looked at and thrown away.
    jax.config.update("jax_enable_compilation_cache", False)
    from jaxnet.config import from_mapping
    from jaxnet.plan import command
    from jaxnet.recipe import Layout

    config = from_mapping(command.Config, job["config"], "the job")
    model = command.network_of(config)
    task, batch = command.step_of(config, model)
    layout = from_mapping(Layout, job["layout"], "the job").build(model)
    print(json.dumps(asdict(compile_step(task, batch, layout))))


if __name__ == "__main__":
    main()
