"""The training that `benchmarks.faults` disturbs: small, slowed down, and saved often.

    python -m benchmarks.fault_job FOLDER SAVE_STEPS STEP_SECONDS

Each process writes its number into `FOLDER/pid-K`. Process 0 adds a line to `FOLDER/steps` after
each step: seconds of the machine's monotonic clock, its process number, the step. It never ends.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from jaxnet import cli

FOREVER = 10**9


def train(folder: Path, save_steps: int, step_seconds: float) -> int:
    """Train a perceptron on all devices of all processes, until something ends it."""
    import jax
    import numpy as np

    from jaxnet import losses, optimizers
    from jaxnet.parallel import Layout
    from jaxnet.training import Callback, Checkpoints, Supervised, Trainer
    from models.mlp import MLP

    class Report(Callback):
        def on_stretch(self, step: int, loss: float | None) -> None:
            with (folder / "steps").open("a") as file:
                file.write(f"{time.monotonic()} {os.getpid()} {step}\n")
            time.sleep(step_seconds)

    (folder / f"pid-{jax.process_index()}").write_text(str(os.getpid()))
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
    trainer.fit((inputs, labels), steps=FOREVER, batch_size=12)
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.run(lambda: train(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
