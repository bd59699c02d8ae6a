"""Watch gradients vanish and explode in a deep network, and what cures them.

    python -m train.vanishing              a table and vanishing.png, in half a minute
    python -m train.vanishing --help       all options

A multilayer perceptron of ten hidden layers learns the digits that come with scikit-learn, once for
each pair of an activation and an initialiser. With sigmoids the gradient shrinks towards the input,
whatever the start, so that the first layers never learn; with zeros nothing but the last bias does;
uniform weights in [-0.5, 0.5] make ReLU explode; and He's initialiser (He et al. 2015) passes the
gradient on as it is. Glorot and Bengio (2010) drew these pictures first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.app.deep_starts import measured_start
from jaxnet.app.run_options import AtTheTop, Numerics, started
from jaxnet.options import Count, Positive, Range, check_ranges
from jaxnet.report.layer_norms import plot_starts, print_starts

PROGRAM = "python -m train.vanishing"


@dataclass(frozen=True)
class Config:
    """Compare activations and initialisers in a deep network, layer by layer."""

    activations: tuple[str, ...] = ("sigmoid", "relu")
    """names of jaxnet.layers.activations"""
    initializers: tuple[str, ...] = ("zeros", "normal", "uniform", "glorot_uniform", "he_normal")
    """names of jaxnet.layers.initializers"""
    depth: Count = 10
    """hidden layers"""
    width: Count = 64
    """units of each"""
    epochs: Count = 8
    """how often to go through the digits"""
    learning_rate: Positive = 0.02
    """of gradient descent with momentum 0.9"""
    seed: Annotated[int, Range()] = 0
    """of the split, the weights and the order of the data"""
    run_dir: Path = Path("runs/vanishing")
    """where to put the picture"""
    numerics: AtTheTop = Numerics()

    def __post_init__(self) -> None:
        check_ranges(self)


def train(config: Config) -> int:
    """Train all pairs, print the table and draw the picture."""
    from jaxnet.data import load_digits, split

    train_set, test_set = split(load_digits(), (0.8, 0.2), seed=config.seed)
    data = {"train": train_set, "test": test_set}
    starts = [
        measured_start(config, activation, initializer, data)
        for activation in config.activations
        for initializer in config.initializers
    ]
    config.run_dir.mkdir(parents=True, exist_ok=True)
    plot_starts(starts, config.run_dir / "vanishing.png")
    print_starts(starts)
    print(f"picture  {config.run_dir / 'vanishing.png'}")
    return cli.DONE


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
