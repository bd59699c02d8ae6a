"""In bfloat16 devices differ from one by no more than rounding does: sums are float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest

from jaxnet import losses, trees
from jaxnet.models import BERT, GPT2, BERTTagger
from jaxnet.parallel import Layout
from jaxnet.parallel.stacked import to_plain
from jaxnet.training import Supervised, accumulate, mixed_precision, with_ema
from jaxnet.training.techniques.ema import averaged
from jaxnet.training.techniques.parallelism import pipelined, sequence_parallel
from tests.parallel.equality import steps

ROWS, TIME = 32, 32


def tagger(precision: Any, spread: bool) -> Any:
    sizes = {"features": 16, "hidden": 32, "num_layers": 1, "num_heads": 2, "init_std": 0.1}
    model = BERTTagger(BERT(32, TIME, dropout=0.0, **sizes), 5)
    task = Supervised(model, losses.cross_entropy, optax.sgd(0.1))
    task = mixed_precision(task, precision)
    return sequence_parallel(task) if spread else task


def language_model(precision: Any, spread: bool) -> Any:
    """With sixteen micro-batches of one row each, in two parts, and an average."""
    model = GPT2(32, TIME, features=16, num_layers=2, num_heads=2, dropout=0.0)
    task = mixed_precision(Supervised(model, losses.cross_entropy, optax.sgd(0.1)), precision)
    task = pipelined(task, micro_batches=ROWS // 2) if spread else task
    return with_ema(accumulate(task, 2), 0.9)


def batch() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 5, (ROWS, TIME)).astype(np.int32)
    tokens = draw.integers(1, 32, (ROWS, TIME)).astype(np.int32)
    return {"inputs": tokens, "labels": labels, "mask": np.ones(ROWS, bool)}


def learnt(task: Any, layout: Layout | None = None) -> dict[str, np.ndarray]:
    """Parameters after three steps, and their average where the task has one."""
    state = steps(task, batch(), layout, scale=None)[-1].state
    trained = {"params": to_plain(state.params)}
    if state.memory:
        trained["average"] = to_plain(averaged(state).params)
    return {path: np.asarray(leaf, np.float64) for path, leaf in trees.named(trained).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "layout"),
    [(tagger, Layout(sequence=4)), (language_model, Layout(stage=2))],
    ids=["sequence", "stage"],
)
def test_many_devices_differ_from_one_by_rounding_alone(task, layout):
    """Rounding alone is what one device differs by from itself in float32, leaf by leaf."""
    exact = learnt(task("float32", False))
    alone = learnt(task("bf16", False))
    shared = learnt(task("bf16", True), layout)
    assert shared.keys() == alone.keys() == exact.keys()
    off, apart = {}, {}
    for path, leaf in alone.items():
        rounding = np.linalg.norm(leaf - exact[path])
        assert rounding > 0, path
        off[path] = np.linalg.norm(shared[path] - exact[path]) / rounding
        apart[path] = np.linalg.norm(shared[path] - leaf) / rounding
    worst = max(off, key=lambda path: off[path])
    assert off[worst] < 1.5, f"{worst}: {off[worst]:.2f}"
    # Two that are off by as much, each by itself, differ by 1.4 times that.
    worst = max(apart, key=lambda path: apart[path])
    assert apart[worst] < 2, f"{worst}: {apart[worst]:.2f}"
