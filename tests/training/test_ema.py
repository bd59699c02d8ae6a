"""The moving average: against its formula in float64, and with all that steps aside for it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.errors import UsageError
from jaxnet.training import Trainer, accumulate, mixed_precision, with_ema
from jaxnet.training.techniques.ema import MovingAverage, averaged
from tests.networks import Dense
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    make_batch,
    regressor,
    table,
    take_steps,
)

pytestmark = pytest.mark.usefixtures("shared_programs")


class Counted(nn.Module):
    """Batch normalisation, and a variable that isn't a floating-point number."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        calls = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value += 1
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(Dense(8)(inputs))
        return Dense(3)(nn.relu(hidden))


@pytest.mark.slow
def test_it_is_the_warmed_up_average_of_parameters_and_statistics_and_serves_evaluation():
    # The warm-up gives 1/10 and 2/11 to the first two steps, and more than 0.2 to the others.
    batch, plain, decay = make_batch(8), classifier(Counted()), 0.2
    task = with_ema(plain, decay)
    states = take_steps(task, batch, 5)

    def learnt(state: Any) -> Any:
        values = {"params": state.params, "batch_stats": state.collections["batch_stats"]}
        return jax.tree.map(lambda x: np.asarray(x, np.float64), values)

    expected = learnt(states[0])
    for t, state in enumerate(states[1:]):
        d = min(decay, (1 + t) / (10 + t))  # TensorFlow's, with num_updates
        expected = jax.tree.map(lambda e, p, d=d: d * e + (1 - d) * p, expected, learnt(state))
    used = averaged(states[-1])
    assert_close(learnt(used), expected)
    assert int(states[-1].memory["ema"].updates) == 5
    assert int(used.collections["counts"]["calls"]) == 5
    raw = [{"params": s.params, **s.collections} for s in states]
    alone = [{"params": s.params, **s.collections} for s in take_steps(plain, batch, 5)]
    assert bits(raw) == bits(alone)  # training goes on as without

    averages, parameters = (
        jax.jit(lambda s, b, t=t: (t.eval_step(s, b), t.predict_step(s, b))) for t in (task, plain)
    )
    served = averages(states[-1], batch)
    assert_close(served, parameters(used, batch), 0)
    assert not np.allclose(served[1], parameters(states[-1], batch)[1])
    inferred = task.inference(states[-1]).variables
    assert bits(inferred) == bits({"params": used.params, **used.collections})


@pytest.mark.slow
def test_after_a_short_run_a_long_memory_has_forgotten_the_initial_weights():
    # Without a warm-up the average holds 0.999 ** 120 of them, 89 %.
    data = table(120)
    result = Trainer(with_ema(classifier(Counted()), 0.999)).fit(data, data, epochs=8, batch_size=8)
    assert result.history["val_accuracy"][-1] > 0.85
    assert result.history["val_loss"][-1] < 1.2 * result.history["loss"][-1]


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_an_overflow_in_float16_does_not_move_it(order):
    # The bias has the gradient 2 * 10, and 20 * 2**15 is beyond float16.
    inputs, labels = np.ones((4, 2), np.float32), np.full(4, 10, np.float32)
    batch = {"inputs": inputs, "labels": labels, "mask": np.ones(4, bool)}
    plain = regressor(Dense(1), optax.adam(0.1))
    if order == "outside":
        task = with_ema(mixed_precision(plain, "fp16"), 0.9)
    else:
        task = mixed_precision(with_ema(plain, 0.9), "fp16")
    states = take_steps(task, batch, 6)
    scales = [float(s.memory["loss_scale"]["scale"]) for s in states]
    overflows = scales.index(scales[-1])
    assert 1 <= overflows < 6
    for state in states[1 : overflows + 1]:
        assert bits(state.memory["ema"]) == bits(states[0].memory["ema"])
    assert int(states[-1].memory["ema"].updates) == 6 - overflows
    assert bits(states[-1].memory["ema"]) != bits(states[0].memory["ema"])


def test_what_stays_as_it_is_stays_so_bit_for_bit():
    kept = {"a": jnp.array([-jnp.inf, jnp.inf, 0.1]), "n": jnp.int32(3)}
    average = MovingAverage.of(kept)
    for _ in range(3):
        average = average.moved(kept, 0.99)
    assert bits(average.values) == bits(kept)


def test_small_changes_of_half_precision_add_up():
    zeros, ones = jnp.zeros(1, jnp.bfloat16), jnp.ones(1, jnp.bfloat16)
    average = jax.lax.fori_loop(
        0, 6000, lambda _, mean: mean.moved(ones, 0.9999), MovingAverage.of(zeros)
    )
    assert average.values.dtype == jnp.float32
    assert average.like(zeros).dtype == jnp.bfloat16
    assert float(average.values[0]) > 0.999


@pytest.mark.slow
def test_accumulation_moves_it_once_a_step():
    batch = make_batch(8)
    inner = take_steps(accumulate(with_ema(classifier(), 0.9), 2), batch, 3)[-1]
    outer = take_steps(with_ema(accumulate(classifier(), 2), 0.9), batch, 3)[-1]
    assert_close(inner.memory["ema"].values, outer.memory["ema"].values)
    assert int(inner.memory["ema"].updates) == 3


def test_a_second_average_is_refused():
    with pytest.raises(UsageError, match="has a moving average already"):
        with_ema(accumulate(with_ema(classifier(), 0.9), 2), 0.5)
