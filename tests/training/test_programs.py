"""Compiled programs: the same result however the steps are dispatched, and no second compile."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxnet import metrics, trees
from jaxnet.data.pipeline.epochs import pipeline
from jaxnet.errors import UsageError
from jaxnet.training import Callback, Trainer
from jaxnet.training.programs import AUTO_STEPS, Programs
from tests.networks import Dense
from tests.training.helpers import (
    ConvNet,
    assert_close,
    bits,
    classifier,
    images,
    make_batch,
    table,
)


class Dropped(nn.Module):
    """With dropout, so that a random stream that depends on the dispatch would show."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.Dropout(0.2, deterministic=not train)(nn.tanh(Dense(8)(inputs)))
        return Dense(3)(hidden)


class Chunks(Callback):
    """Notes after which steps the loop heard of its measurements."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_chunk(self, step: int, loss: float | None) -> None:
        self.steps.append(step)


def fit(model: Any, data: Any, **options: Any) -> Any:
    trainer = Trainer(classifier(model), **options)
    return trainer.fit(data, data, epochs=3, batch_size=2)


@pytest.fixture(scope="module")
def usual() -> Any:
    """The run that all others have to equal: three epochs of 15 steps."""
    return fit(Dropped(), table(29))


OTHER_WAYS = [*({"steps_per_dispatch": n} for n in (1, 2, 7)), {"placement": "host"}]


@pytest.mark.slow
@pytest.mark.parametrize("options", OTHER_WAYS, ids=str)
def test_dispatch_and_placement_change_no_bit(usual, options):
    heard = Chunks()
    result = fit(Dropped(), table(29), callbacks=[heard], **options)
    assert bits(result.state) == bits(usual.state)
    assert result.history.rows == usual.history.rows
    assert heard.steps[-1] == 45
    most = max(np.diff([0, *heard.steps]))
    assert most <= options.get("steps_per_dispatch", AUTO_STEPS)
    assert most > 1 or options == {"steps_per_dispatch": 1}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_step_by_step_is_the_loop(count):
    programs = Programs(classifier(Dropped()), steps_per_dispatch=6)
    data = pipeline(table(12), 2, shuffle=True, capacity=programs.capacity)
    feed, taken = next(iter(data.chunks(0, 0, 0, lambda _: count)))
    assert taken == count
    key, batch = jax.random.key(0), jax.device_get(feed.batch(0))
    looped, loop_log = programs.train("loop", programs.init(key, batch), feed, count)
    stepped, step_log = programs.train("step", programs.init(key, batch), feed, count)
    assert int(looped.step) == int(stepped.step) == count
    assert_close(looped.params, stepped.params)
    assert_close(loop_log.fetch(), step_log.fetch())
    assert {len(leaf) for leaf in jax.tree.leaves(loop_log.fetch())} == {count}


def test_convolutions_on_a_cpu_go_step_by_step():
    programs = {model: Programs(classifier(model)) for model in (ConvNet(), Dropped())}
    forms = {}
    for (model, made), data in zip(programs.items(), (images(8), table(8)), strict=True):
        batch = dict(zip(("inputs", "labels"), data, strict=True), mask=np.ones(8, bool))
        state = jax.eval_shape(made.task.init, jax.random.key(0), batch)
        forms[type(model).__name__] = made.form(state, batch)
    cpu = jax.default_backend() == "cpu"
    assert forms == {"ConvNet": "step" if cpu else "loop", "Dropped": "loop"}


@pytest.mark.slow
def test_a_run_with_convolutions_is_the_same_for_all_dispatches():
    results = [fit(ConvNet(), images(13), steps_per_dispatch=n) for n in ("auto", 3)]
    assert bits(results[0].state) == bits(results[1].state)
    assert results[0].history.rows == results[1].history.rows
    assert results[0].history["loss"][-1] < results[0].history["loss"][0]


def counts(trainer: Trainer) -> dict[str, int]:
    return {name: len(traces) for name, traces in trainer.programs.compiles.traces.items()}


@pytest.mark.slow
def test_nothing_is_compiled_twice_until_a_shape_changes(caplog):
    trainer = Trainer(classifier(), eval_batch_size=4)
    result = trainer.fit(table(100), table(10, 1), epochs=3, batch_size=8)
    once = {"initialisation": 1, "the training loop": 1, "evaluation": 1}
    assert counts(trainer) == once

    for n in (1, 70, 333):
        trainer.evaluate(result.state, table(n, 2))
        trainer.predict(result.state, table(n, 2)[0])
    once |= {"prediction of 1": 1, "prediction of 4": 1}
    assert counts(trainer) == once

    # Another seed, about as many rows, stopped in the middle.
    trainer.fit(table(98), table(31, 1), steps=17, batch_size=8, seed=5)
    assert counts(trainer) == once
    assert trainer.programs.compiles.total == 5
    assert trainer.programs.compiles.repeated() == []
    assert "compiled again" not in caplog.text

    trainer.fit(table(100), epochs=1, batch_size=16)
    assert counts(trainer) == {**once, "initialisation": 2, "the training loop": 2}
    said = trainer.programs.compiles.repeated()
    assert len(said) == 2
    assert said[1] == (
        "the training loop was compiled again: "
        f".order was int32[{AUTO_STEPS}, 8], is int32[{AUTO_STEPS}, 16]"
    )
    assert all(line in caplog.text for line in said)
    caplog.clear()
    trainer.fit(table(100), epochs=1, batch_size=16)
    assert "compiled again" not in caplog.text


@pytest.mark.slow
def test_a_second_run_of_one_trainer_is_the_first_one_again():
    trainer = Trainer(classifier(Dropped()))
    first, second = (trainer.fit(table(20), epochs=2, batch_size=4) for _ in range(2))
    assert bits(first.state) == bits(second.state)
    assert first.history.rows == second.history.rows
    other = trainer.fit(table(20), epochs=2, batch_size=4, seed=1)
    assert bits(other.state) != bits(first.state)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "many", None, True])
def test_impossible_numbers_of_steps_are_refused(steps):
    message = rf"expected steps_per_dispatch 'auto' or a whole number of at least 1, got {steps!r}"
    with pytest.raises(UsageError, match=message):
        Trainer(classifier(), steps_per_dispatch=steps).fit(table(8), epochs=1)


@pytest.mark.slow
def test_what_is_measured_bounds_the_steps_of_a_dispatch(monkeypatch):
    task = classifier(metrics={"confusion": metrics.confusion_matrix(3)})
    whole = Trainer(task, steps_per_dispatch=8)
    expected = whole.fit(table(60), epochs=2, batch_size=5)
    monkeypatch.setattr("jaxnet.training.programs.LOG_BYTES", 200)
    bounded = Trainer(task, steps_per_dispatch=8)
    logs: list[int] = []
    train = Programs.train

    def noted(self, form, state, feed, count):
        state, log = train(self, form, state, feed, count)
        logs.append(len(jax.tree.leaves(log.parts)[0]))
        return state, log

    monkeypatch.setattr(Programs, "train", noted)
    result = bounded.fit(table(60), epochs=2, batch_size=5)
    batch = make_batch(5)
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    size = trees.size_bytes(bounded.programs.metrics(state, batch))
    assert set(logs) == {200 // size} and 1 < 200 // size < 8
    assert result.history == expected.history
    assert bits(result.state) == bits(expected.state)
    assert bounded.programs.steps_with({"m": np.zeros((1000, 1000), np.float32)}) == 1
    monkeypatch.setattr("jaxnet.training.programs.LOG_BYTES", 2**26)
    assert Trainer(task).programs.steps_with({"m": np.zeros((1000, 1000), np.float32)}) == 16
