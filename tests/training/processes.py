"""Training in a process of its own, for tests that stop it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a run; it writes a line for each chunk, and `result.json` when it returns."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.processes", str(folder), json.dumps(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(folder: Path, **options: Any) -> dict[str, Any]:
    """Let a run come to its end, and return its result.

    It says nothing on stderr but, where it had ended before, that there was nothing left to do.
    """
    process = start(folder, **options)
    _, errors = process.communicate(timeout=500)
    said = [line for line in errors.splitlines() if "nothing is left to do" not in line]
    assert (process.returncode, said) == (0, [])
    result = result_of(folder)
    assert result is not None
    return result


def finished_here(folder: Path, **options: Any) -> dict[str, Any]:
    """The same run in this process, which starts no other."""
    _run(folder, **options)
    result = result_of(folder)
    assert result is not None
    return result


def result_of(folder: Path) -> dict[str, Any] | None:
    """What the last run that returned wrote."""
    file = folder / "result.json"
    return json.loads(file.read_text()) if file.exists() else None


def _run(
    folder: Path,
    epochs: int,
    every_steps: int | None = None,
    min_seconds: float = 0.0,
    sleep: float = 0.0,
    seed: int = 0,
) -> None:
    from jaxnet import optimizers
    from jaxnet.files import write_json
    from jaxnet.training import Callback, Checkpoints, Trainer, with_ema
    from tests.training.helpers import bits, classifier, table

    class Report(Callback):
        def on_chunk(self, step: int, loss: float | None) -> None:
            print(step, flush=True)
            time.sleep(sleep)

    task = with_ema(classifier(optimizer=optimizers.by_name("adam", 0.01)), 0.9)
    checkpoints = Checkpoints(
        folder / "checkpoints", every_steps=every_steps, min_seconds=min_seconds
    )
    trainer = Trainer(task, checkpoints=checkpoints, callbacks=[Report()], steps_per_dispatch=4)
    result = trainer.fit(table(30), table(12, seed=1), epochs=epochs, batch_size=4, seed=seed)
    state = {
        path: hashlib.sha256(repr(leaf).encode()).hexdigest()
        for path, leaf in bits(result.state).items()
    }
    values = {
        "stop_reason": result.stop_reason,
        "last_step": result.last_step,
        "best_step": result.best_step,
        "history": [dict(row) for row in result.history.rows],
        "state": state,
    }
    write_json(folder / "result.json", values)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
