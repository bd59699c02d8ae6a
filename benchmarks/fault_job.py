"""The training that `benchmarks.faults` disturbs: small, slowed down, and saved often.

    python -m benchmarks.fault_job FOLDER SAVE_STEPS STEP_SECONDS [STEPS]

Each process writes its number into `FOLDER/pid-K`. Process 0 adds a line to `FOLDER/steps` after
each step: seconds of the machine's monotonic clock, its process number, the step. Without a number
of steps it never ends.

It can be told what to do wrong, once: process K looks for the file `FOLDER/source-K` whenever it
reads an example, and process 0 for `FOLDER/callback-0` after a step. There stands `hang` or `fail`.
A number in `FOLDER/seed-K` is another seed for process K.
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import os
import sys
import time
from pathlib import Path

from jaxnet.app import cli

FOREVER = 10**8


def obey(order: Path) -> None:
    """Do what stands in a file, if it is there, and only once.

    Raises:
        RuntimeError: it says so.
    """
    if not order.exists():
        return
    word = order.read_text()
    order.unlink()
    if word == "fail":
        raise RuntimeError(f"{order.name} was told to fail")
    time.sleep(FOREVER)


def train(folder: Path, save_steps: int, step_seconds: float, steps: int = FOREVER) -> int:
    """Train a perceptron on all devices of all processes, until something ends it."""
    import jax
    import numpy as np

    from jaxnet import losses, optimizers
    from jaxnet.data import Records
    from jaxnet.models import MLP
    from jaxnet.parallel import Layout
    from jaxnet.training import Callback, Checkpoints, Supervised, Trainer

    class Report(Callback):
        def on_chunk(self, step: int, loss: float | None) -> None:
            with (folder / "steps").open("a") as file:
                file.write(f"{time.monotonic()} {os.getpid()} {step}\n")
            obey(folder / "callback-0")
            time.sleep(step_seconds)

    class Examples:
        def __len__(self) -> int:
            return len(inputs)

        def __getitem__(self, row: int) -> tuple[np.ndarray, np.int32]:
            obey(folder / f"source-{number}")
            return inputs[row], labels[row]

    number = jax.process_index()
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    other = folder / f"seed-{number}"
    seed = int(other.read_text()) if other.exists() else 0
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12_000, 16)).astype(np.float32)
    labels = inputs[:, :3].argmax(axis=1).astype(np.int32)
    trainer = Trainer(
        Supervised(MLP((32,), 3), losses.cross_entropy, optimizers.by_name("adam", 1e-3)),
        checkpoints=Checkpoints(folder / "checkpoints", every_steps=save_steps, min_seconds=0),
        callbacks=[Report()],
        progress=False,
        steps_per_dispatch=1,
        layout=Layout(data=-1),
    )
    result = trainer.fit(Records(Examples()), steps=steps, batch_size=12, seed=seed)
    return cli.PREEMPTED if result.stop_reason == "preempted" else cli.DONE


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    numbers = int(rest[0]), float(rest[1]), *map(int, rest[2:])
    sys.exit(cli.run(lambda: train(Path(first), *numbers)))
