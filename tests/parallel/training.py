"""Training as one of several processes, for tests that compare and stop them.

    python -m tests.parallel.training FOLDER OPTIONS

Process 0 prints a line for each chunk, and writes `result.json` and `state.npz` at the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.app import cli


class Faulty:
    """A table that is read as it goes; from the third epoch on something goes wrong.

    Args:
        rows: inputs and labels.
        fault: "hangs", "fails", "exits", or nothing.
    """

    name = "faulty"

    def __init__(self, rows: Any, fault: str) -> None:
        self.inputs, self.labels = rows
        self.fault = fault

    def __len__(self) -> int:
        return len(self.labels)

    def spec(self) -> Any:
        import jax

        shape = jax.ShapeDtypeStruct
        return {"inputs": shape((4,), np.float32), "labels": shape((), np.int32)}

    def read(self, rows: np.ndarray, epoch: int) -> Any:
        if epoch >= 2 and self.fault == "hangs":
            time.sleep(1000)
        if epoch >= 2 and self.fault == "fails":
            raise ZeroDivisionError("of the source")
        if epoch >= 2 and self.fault == "exits":
            sys.exit(0)
        return {"inputs": self.inputs[rows], "labels": self.labels[rows]}


def train(
    folder: Path,
    epochs: int = 3,
    every_steps: int | None = None,
    sleep: float = 0.0,
    axis: str = "data",
    optimizer: str = "adam",
    width: int = 8,
    fails_at: int | None = None,
    seed: int = 0,
    rate: float = 0.01,
    data: int = 0,
    fault: str | None = None,
    hangs_at: int | None = None,
) -> int:
    """Train a small classifier on all devices of all processes."""
    import jax

    from jaxnet import optimizers
    from jaxnet.cluster import processes
    from jaxnet.files import write_json
    from jaxnet.parallel.layout import Layout
    from jaxnet.training import Callback, Checkpoints, Trainer
    from tests.training.helpers import MLP, classifier, table

    class Report(Callback):
        def on_chunk(self, step: int, loss: float | None) -> None:
            print(step, flush=True)
            time.sleep(sleep)
            if hangs_at is not None and step >= hangs_at:
                time.sleep(1000)
            if fails_at is not None and step >= fails_at:
                raise OSError(28, "No space left on device", "a callback's file")

    axes: dict[str, Any] = {axis: -1}
    task = classifier(MLP(hidden=width), optimizers.by_name(optimizer, rate))
    trainer = Trainer(
        task,
        checkpoints=Checkpoints(folder / "checkpoints", every_steps=every_steps, min_seconds=0),
        callbacks=[Report()],
        steps_per_dispatch=4,
        layout=Layout(**axes, fsdp_min_size=1),
    )
    # 30 examples in batches of 12, which 1, 2, 3 and 4 processes share out evenly.
    rows: Any = table(30, seed=data)
    rows = rows if fault is None else Faulty(rows, fault)
    result = trainer.fit(rows, table(14, seed=1), epochs=epochs, batch_size=12, seed=seed)
    values = {
        "processes": jax.process_count(),
        "stop_reason": result.stop_reason,
        "last_step": result.last_step,
        "history": [dict(row) for row in result.history.rows],
        "test": {name: value for name, value in result.model.evaluate(table(9, seed=2)).items()},
    }
    outputs = result.model.predict(table(9, seed=2)[0])
    named = jax.tree_util.tree_leaves_with_path(processes.on_host(result.state.params))
    state = {jax.tree_util.keystr(path, simple=True): leaf for path, leaf in named}
    if processes.is_first():
        np.savez(folder / "state.npz", outputs=outputs, **state)
        write_json(folder / "result.json", values)
    return cli.PREEMPTED if result.stop_reason == "preempted" else cli.DONE


def train_own(folder: Path, others: Any = None, **options: Any) -> int:
    """As `train`, with other options in some processes, by their number."""
    own = (others or {}).get(os.environ["JAX_PROCESS_ID"], {})
    return train(folder, **{**options, **own})


if __name__ == "__main__":
    sys.exit(cli.run(lambda: train_own(Path(sys.argv[1]), **json.loads(sys.argv[2]))))
