"""All techniques at once on one network: it learns, and it is compiled once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, metrics
from jaxnet.data import Arrays
from jaxnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool, Sequential
from jaxnet.optimizers import by_name
from jaxnet.training import (
    Supervised,
    Trainer,
    accumulate,
    clip,
    guard_nonfinite,
    mixed_precision,
    penalize,
    with_ema,
)

MODEL = Sequential(
    (
        Conv(8, 3),
        BatchNorm(momentum=0.9),
        jax.nn.relu,
        MaxPool(2),
        Flatten(),
        Dropout(0.2),
        Dense(3),
    )
)


def stripes(n: int, seed: int) -> Arrays:
    """8x8 images with a bright row in one of three places, the third of them rare."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.45, 0.45, 0.1]).astype(np.int32)
    inputs = 0.3 * rng.normal(size=(n, 8, 8, 1)).astype(np.float32)
    inputs[np.arange(n), 2 * labels] += 1
    return Arrays(inputs, labels, weights=rng.uniform(0.5, 1.5, n))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "policy"), [("bf16", "skip"), ("fp16", "stop")])
def test_every_lever_on_is_one_compile(precision, policy):
    data = stripes(203, 0)  # the last batch is padded
    weights = losses.balanced_class_weights(data.labels)
    task = Supervised(
        MODEL,
        losses.with_class_weights(losses.cross_entropy, weights),
        by_name("adam", 1e-2),
        metrics={"accuracy": metrics.accuracy},
    )
    task = clip(penalize(mixed_precision(task, precision), l1=1e-4, l2=1e-4), 1.0)
    task = guard_nonfinite(with_ema(accumulate(task, 2), 0.9), policy)
    trainer = Trainer(task)
    result = trainer.fit(data, stripes(60, 1), epochs=6, batch_size=16)
    compiles = {name: len(traces) for name, traces in trainer.programs.compiles.traces.items()}
    assert compiles == {"initialisation": 1, "the training loop": 1, "evaluation": 1}
    assert result.stop_reason == "epochs" and result.history["val_accuracy"][-1] > 0.9
    assert result.history["penalty"][-1] > 0
    kept = (result.state.params, result.state.opt_state, result.state.collections)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(kept)}
    assert kinds <= {jnp.dtype("float32"), jnp.dtype("int32")}
