"""Techniques on the update: values cut off, rates by path, and rates that a plateau lowers."""

from __future__ import annotations

import functools
import shutil
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxnet import optimizers
from jaxnet.errors import InputError, UsageError
from jaxnet.training import (
    Callback,
    Checkpoints,
    ReduceOnPlateau,
    Trainer,
    clip_values,
    freeze,
    guard_nonfinite,
    reduce_on_plateau,
    scale_by_path,
    with_ema,
)
from tests.training.helpers import (
    assert_close,
    bits,
    classifier,
    first_steps,
    make_batch,
    table,
    take_steps,
)

PLAIN = classifier(optimizer=optax.sgd(1.0))


def updates(*tasks: Any) -> Any:
    """What the first step adds to the parameters, for each task."""
    return [
        jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, after.params, before.params)
        for before, after in first_steps(tasks, make_batch(8))
    ]


# --- clip_values --------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_element_is_cut_off():
    plain, cut = updates(PLAIN, clip_values(PLAIN, 0.05))
    assert max(np.abs(u).max() for u in jax.tree.leaves(plain)) > 0.1
    assert_close(cut, jax.tree.map(lambda u: np.clip(u, -0.05, 0.05), plain))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(UsageError, match="expected a positive limit"):
        clip_values(PLAIN, limit)


# --- scale_by_path ------------------------------------------------------------------------------


@pytest.mark.slow
def test_updates_are_scaled_by_the_first_pattern_that_matches():
    rates = {"Dense_0/bias": 3.0, "Dense_0/**": 0.1}
    plain, scaled = updates(PLAIN, scale_by_path(PLAIN, rates))
    factors = {"Dense_0": {"bias": 3.0, "kernel": 0.1}, "Dense_1": {"bias": 1.0, "kernel": 1.0}}
    assert_close(scaled, jax.tree.map(lambda u, f: u * f, plain, factors))


def test_a_rate_scales_whatever_the_optimizer_gives():
    """Adam's updates don't depend on the gradient's scale, and weight decay shrinks along."""
    task = classifier(optimizer=optimizers.by_name("adamw", 0.1, weight_decay=0.5))
    plain, scaled = updates(task, scale_by_path(task, {"Dense_0/**": 0.25}))
    assert_close(scaled["Dense_0"], jax.tree.map(lambda u: u * 0.25, plain["Dense_0"]))
    assert_close(scaled["Dense_1"], plain["Dense_1"])


def test_rates_of_what_is_not_frozen():
    task = freeze(scale_by_path(PLAIN, {"Dense_1/kernel": 0.5}), "Dense_0/**")
    plain, scaled = updates(PLAIN, task)
    assert_close(scaled["Dense_1"]["kernel"], plain["Dense_1"]["kernel"] / 2)
    assert not np.any(scaled["Dense_0"]["kernel"])


def test_impossible_rates_are_refused():
    with pytest.raises(UsageError, match=r"positive factor for 'a', got 0.*freeze"):
        scale_by_path(PLAIN, {"a": 0.0})
    with pytest.raises(InputError, match=r"'Dens_0/\*\*' matches none"):
        take_steps(scale_by_path(PLAIN, {"Dens_0/**": 0.5}), make_batch(8), 0)


# --- reduce_on_plateau --------------------------------------------------------------------------


@functools.cache
def scales(rule: ReduceOnPlateau) -> Any:
    def step(memory: Any, value: Any) -> Any:
        memory = rule.update(memory, value)
        return memory, memory.scale

    return jax.jit(lambda values: jax.lax.scan(step, rule.init(), values)[1])


def decisions(rule: ReduceOnPlateau, values: Any) -> list[float]:
    """The scale after each evaluation."""
    # What comes after the values makes no difference to what was decided before.
    padded = np.zeros(60, np.float32)
    padded[: len(values)] = values
    return np.asarray(scales(rule)(padded))[: len(values)].tolist()


SEQUENCES = [
    [5, 4, 3, 2, 1, 0.5],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [3, 2, 2.5, 2.4, 1.9, 2, 2, 2, 2, 2, 1, 1, 1, 1],
    [1, 0.875, 0.75, 0.625, 0.625, 0.625, 0.5, 0.5, 0.5, 0.5],
    [1, float("nan"), 2, 0.5, 4, 3, 3, float("nan"), 3, 3, 0.1],
    [float("nan"), float("nan"), 1, 2, 3, 4, 5],
    np.random.default_rng(0).normal(size=60).tolist(),
]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 1, "min_delta": 0.125},
        {"patience": 3, "cooldown": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 1, "min_scale": 0.03},
        {"patience": 2, "mode": "max", "min_delta": 0.0},
    ],
)
def test_decisions_equal_pytorchs(options: dict[str, Any]):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    for values in SEQUENCES:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode=options.get("mode", "min"),
            factor=options.get("factor", 0.1),
            patience=options["patience"] - 1,
            threshold=options.get("min_delta", 1e-4),
            threshold_mode="abs",
            cooldown=options.get("cooldown", 0),
            min_lr=options.get("min_scale", 0.0),
            eps=0.0,
        )
        expected = []
        for value in values:
            theirs.step(value)
            expected.append(optimizer.param_groups[0]["lr"])
        np.testing.assert_allclose(
            decisions(ReduceOnPlateau(**options), values),
            expected,
            rtol=1e-5,
            atol=1e-30,
            err_msg=str(values),
        )


@pytest.mark.parametrize("mode", ["min", "max"])
def test_infinity_is_no_improvement(mode):
    sign, rule = (1 if mode == "max" else -1), ReduceOnPlateau(patience=2, mode=mode, factor=0.5)
    values = [sign * v for v in (float("inf"), 1, 2, float("inf"), float("inf"), 3, 4)]
    assert decisions(rule, values) == [1, 1, 1, 1, 0.5, 0.5, 0.5]


def test_the_mode_goes_by_the_name():
    rising, options = [0.1, 0.2, 0.3], {"patience": 1, "factor": 0.5}
    assert decisions(ReduceOnPlateau("val_acc", **options), rising) == [1, 1, 1]
    assert decisions(ReduceOnPlateau("val_layer2_loss", **options), rising) == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, r"factor in \(0, 1\), got 1.0"),
        ({"factor": 0.0}, "factor"),
        ({"patience": -1}, "patience to be 0 or more"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_delta": -0.1}, "min_delta"),
        ({"min_scale": 1.0}, "min_scale"),
        ({"mode": "up"}, "mode 'auto', 'min' or 'max', got 'up'"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ReduceOnPlateau(**options)


# A rate so high that the loss soon goes up and down.
WILD = classifier(optimizer=optax.sgd(3.0, momentum=0.9))
RULE = ReduceOnPlateau("val_loss", factor=0.5, patience=1)


def fit(task: Any, epochs: int = 8, **options: Any) -> Any:
    trainer = Trainer(task, steps_per_dispatch=2, **options)
    return trainer.fit(table(30), table(12, seed=1), epochs=epochs, batch_size=6)


@pytest.mark.slow
def test_the_scale_follows_the_validation_loss_without_a_compile():
    result = fit(reduce_on_plateau(WILD, RULE))
    losses = result.history["val_loss"]
    # The rate of an epoch is what the evaluations before it decided.
    expected = [1.0, *decisions(RULE, losses)[:-1]]
    assert result.history["learning_rate_scale"] == expected
    assert expected[-1] < 0.5
    assert result.model.trainer.programs.compiles.repeated() == []


@pytest.mark.slow
def test_the_scale_multiplies_the_learning_rate():
    """Against the same steps by hand, the rate halved after the first epoch."""
    rule = ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=1e6)
    plain = classifier(optimizer=optax.sgd(0.4, momentum=0.9))
    task: Any = reduce_on_plateau(plain, rule)

    @jax.jit
    def run(key: jax.Array, batch: Any) -> Any:
        start, state = plain.init(key, batch), task.init(key, batch)
        once = plain.train_step(start, batch)[0]
        twice = plain.train_step(once, batch)[0]
        state = task.train_step(state, batch)[0]
        for loss in (1.0, 1.0):  # the second is no improvement by a million
            state = task.after_evaluation(state, {"loss": np.float32(loss)})
        after = task.train_step(state, batch)[0]
        return [x.params for x in (once, twice, state, after)]

    once, twice, state, after = jax.tree.map(np.asarray, run(jax.random.key(0), make_batch(8)))
    expected = jax.tree.map(lambda a, b: (a - b) / 2, twice, once)
    assert_close(jax.tree.map(lambda a, b: a - b, after, state), expected)


class Interrupted(BaseException):
    """What no code should catch."""


class Interrupts(Callback):
    def __init__(self) -> None:
        self.step = 10**9

    def on_chunk(self, step: int, loss: float | None) -> None:
        if step >= self.step:
            self.step = 10**9
            raise Interrupted


@pytest.mark.slow
def test_a_plateau_is_part_of_the_checkpoint(tmp_path):
    task = guard_nonfinite(with_ema(reduce_on_plateau(WILD, RULE), 0.5), "skip")
    interrupts = Interrupts()
    trainer = Trainer(
        task,
        checkpoints=Checkpoints(tmp_path / "run", every_steps=3),
        callbacks=[interrupts],
        steps_per_dispatch=2,
    )

    def fit() -> Any:
        return trainer.fit(table(30), table(12, seed=1), epochs=8, batch_size=6)

    whole = fit()
    assert whole.history["learning_rate_scale"][-1] < 1
    for at in (13, 20, 31):
        shutil.rmtree(tmp_path / "run")
        interrupts.step = at
        with pytest.raises(Interrupted):
            fit()
        resumed = fit()
        assert resumed.history.rows == whole.history.rows
        assert bits(resumed.state) == bits(whole.state)


def test_a_metric_that_is_not_measured_is_refused_before_training():
    task = reduce_on_plateau(WILD, ReduceOnPlateau("val_auc"))
    with pytest.raises(UsageError, match=r"reduce on plateau monitors 'val_auc'.*val_accuracy"):
        fit(task)


def test_two_rules_are_refused():
    with pytest.raises(UsageError, match="does so already"):
        reduce_on_plateau(with_ema(reduce_on_plateau(WILD, RULE), 0.5), RULE)
