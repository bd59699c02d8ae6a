"""How long until something happens: imports, and a network's first step.

    python -m benchmarks.startup [--runs 5] [--data-dir DIR]

Each figure is the median over fresh processes. The first step is that of 784-300-100-10 on MNIST,
from the start of the process: imports, reading the data, compiling or reading the compiled program
from the cache, one step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import report

FIRST_STEP = """
import os, sys
from pathlib import Path
from jaxnet import Supervised, Trainer, losses, metrics, optimizers
from jaxnet.data import Scale, load_mnist
from jaxnet.training import Callback
from jaxnet.models import MLP

class Stop(Callback):
    def on_chunk(self, step, loss):
        os._exit(0)

train, _ = load_mnist(Path(sys.argv[1]))
task = Supervised(MLP(), losses.cross_entropy, optimizers.by_name("adam", 1e-3),
                  metrics={"accuracy": metrics.accuracy}, preprocess=Scale(0.0, 1 / 255))
Trainer(task, callbacks=[Stop()]).fit(train, epochs=1, batch_size=128)
"""
BARS = {"import jaxnet beyond jax and flax": 0.3, "first step, warm cache": 1.5}


@dataclass(frozen=True)
class Options:
    """Measure imports and the first step."""

    runs: int = 5
    """fresh processes a figure"""
    data_dir: Path | None = None
    """folder that holds mnist/*.gz; default JAXNET_DATA_DIR or ../shared/data"""
    out: Path = report.RESULTS
    """where to write startup.json and startup.png"""


def seconds(code: str, *arguments: str, cache: str = "off") -> float:
    """The time that a fresh process takes to run `code`."""
    environment = {**os.environ, "JAXNET_CACHE_DIR": cache}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment)
    return time.perf_counter() - begun


def measure(options: Options) -> dict[str, float]:
    """Each figure, in seconds."""
    default = Path(os.environ.get("JAXNET_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))
    folder = str(options.data_dir or default)
    with tempfile.TemporaryDirectory() as cache:
        seconds(FIRST_STEP, folder, cache=cache)
        rounds = [
            (
                seconds("import jax, flax"),
                seconds("import jax, flax, jaxnet"),
                seconds(FIRST_STEP, folder),
                seconds(FIRST_STEP, folder, cache=cache),
            )
            for _ in range(options.runs)
        ]
    base, imported, cold, warm = zip(*rounds, strict=True)
    return {
        "import jax, flax": median(base),
        "import jaxnet beyond jax and flax": median(
            b - a for a, b in zip(base, imported, strict=True)
        ),
        "first step, no cache": median(cold),
        "first step, warm cache": median(warm),
    }


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    import tyro

    options = tyro.cli(Options, prog="python -m benchmarks.startup")
    measured = measure(options)
    result = {**report.header("startup", "seconds"), "runs": options.runs, "seconds": measured}
    rows = [
        [name, f"{value:.2f} s", f"{BARS[name]} s" if name in BARS else ""]
        for name, value in measured.items()
    ]
    report.table("startup", ["", "median", "bar"], rows, report.caption(result))
    bars = {name: report.Bar(value, value, value, "jaxnet") for name, value in measured.items()}
    report.write(result, {"seconds": bars}, options.out)


if __name__ == "__main__":
    main()
