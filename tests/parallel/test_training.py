"""`Trainer` with a layout: the same run on many devices, and no compile more."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxnet.data import Arrays
from jaxnet.data.order import batches, epoch_order
from jaxnet.data.pipeline.device_batches import Chunk, Streamed
from jaxnet.errors import UsageError
from jaxnet.parallel import Layout
from jaxnet.training import (
    Callback,
    EarlyStopping,
    ReduceOnPlateau,
    Trainer,
    guard_nonfinite,
    reduce_on_plateau,
)
from tests.parallel.equality import assert_leaves
from tests.parallel.helpers import gpt, plain, supervised
from tests.training.helpers import bits

RULE = (("kernel", (None, "tensor")),)
HYBRID = Layout(
    data=2,
    fsdp=2,
    tensor=2,
    rules=(("Dense_0/kernel", (None, "tensor")), ("Dense_1/kernel", ("tensor",))),
    fsdp_min_size=16,
)


class Dropped(nn.Module):
    """With dropout and batch normalisation: what is random and what is global."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.BatchNorm(use_running_average=not train)(nn.Dense(16, use_bias=False)(inputs))
        hidden = nn.Dropout(0.2, deterministic=not train)(nn.tanh(hidden))
        return nn.Dense(3)(hidden)


def rows(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng([seed, 1]).normal(size=(n, 6)).astype(np.float32)
    lines = np.random.default_rng(0).normal(size=(6, 3))
    return inputs, (inputs @ lines).argmax(axis=1).astype(np.int32)


def task() -> Any:
    inner = supervised(Dropped(), optax.adam(1e-2))
    return guard_nonfinite(reduce_on_plateau(inner, ReduceOnPlateau()), "stop")


def fit(layout: Layout, train: Any = None, **options: Any) -> Any:
    trainer = Trainer(task(), layout=layout, eval_batch_size=10, **options)
    return trainer.fit(rows() if train is None else train, rows(21, 1), epochs=4, batch_size=8)


@pytest.fixture(scope="module")
def alone() -> Any:
    return fit(Layout())


class Read:
    """The same rows, read one by one."""

    name = "rows"

    def __len__(self) -> int:
        return 60

    def spec(self) -> Any:
        shape = jax.ShapeDtypeStruct
        return {"inputs": shape((6,), np.float32), "labels": shape((), np.int32)}

    def read(self, chosen: np.ndarray, epoch: int) -> Any:
        inputs, labels = rows()
        return {"inputs": inputs[chosen], "labels": labels[chosen]}


class Own:
    """A pipeline of somebody's own, with batches on the host."""

    name, examples, steps = "own", 60, 8

    def spec(self) -> Any:
        return {
            name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in self.stack().items()
        }

    def stack(self, seed: int = 0, epoch: int = 0) -> Any:
        order = batches(epoch_order(seed, epoch, 60), 8)
        taken = np.where(order < 0, ~order, order)
        inputs, labels = rows()
        return {"inputs": inputs[taken], "labels": labels[taken], "mask": order >= 0}

    def chunks(self, seed: int, epoch: int, start: int, size: Any) -> Any:
        stack = self.stack(seed, epoch)
        for step in range(start, 8):
            yield Chunk(Streamed({name: v[step : step + 1] for name, v in stack.items()}), 1)


WAYS = {
    "hybrid": (HYBRID, {}),
    "batches from the host": (HYBRID, {"placement": "host"}),
    "a source": (HYBRID, {"train": Read()}),
    "a pipeline of one's own": (HYBRID, {"train": Own()}),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_that_of_one_device(way, alone):
    layout, options = WAYS[way]
    result = fit(layout, **options)
    # Rounding grows with the steps, and Adam divides by what is small.
    assert_leaves(plain(result.state).params, plain(alone.state).params, 1e-3)
    assert_leaves(plain(result.state).collections, plain(alone.state).collections, 1e-3)
    assert result.best_step == alone.best_step
    for row, expected in zip(result.history.rows, alone.history.rows, strict=True):
        assert row.keys() == expected.keys()
        assert np.allclose(list(row.values()), list(expected.values()), rtol=1e-3, atol=1e-4)
    trainer = result.model.trainer
    assert trainer.programs.compiles.repeated() == []
    count = {name: len(shapes) for name, shapes in trainer.programs.compiles.traces.items()}
    assert count == {
        name: len(shapes) for name, shapes in alone.model.trainer.programs.compiles.traces.items()
    }
    lies = trainer.programs.on_mesh.state(result.state)
    for leaf, expected in zip(jax.tree.leaves(result.state), jax.tree.leaves(lies), strict=True):
        assert leaf.sharding == expected


@pytest.mark.slow
def test_evaluation_and_prediction_of_a_state_from_elsewhere(alone):
    inputs, labels = rows(21, 1)
    trainer = Trainer(task(), layout=HYBRID, eval_batch_size=10)
    got, expected = trainer.predict(alone.state, inputs), alone.model.predict(inputs)
    assert got.shape == expected.shape == (21, 3)
    assert np.allclose(got, expected, atol=1e-5)
    measured = trainer.evaluate(alone.state, Arrays(inputs, labels))
    assert measured["loss"] == pytest.approx(alone.model.evaluate((inputs, labels))["loss"], 1e-5)


def test_the_beginning_is_bit_for_bit_that_of_one_device():
    batch = {"inputs": np.zeros((8, 6), np.float32), "labels": np.zeros(8, np.int32)}
    batch["mask"] = np.ones(8, bool)
    states = [
        Trainer(task(), layout=layout).programs.init(jax.random.key(3), batch)
        for layout in (Layout(), HYBRID)
    ]
    assert bits(states[0]) == bits(states[1])
    kernel = states[1].params["Dense_0"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 8)}


@pytest.mark.slow
def test_the_best_state_is_kept_when_training_stops_early():
    stopping = EarlyStopping("val_loss", patience=1, mode="max")
    result = fit(HYBRID, early_stopping=stopping)
    assert result.stop_reason == "early_stopping" and result.best_step < result.last_step
    assert result.state.params["Dense_0"]["kernel"].sharding.spec == P("fsdp", "tensor")
    assert fit(Layout(), early_stopping=stopping).best_step == result.best_step


@pytest.mark.slow
def test_a_step_that_isnt_finite_ends_training_with_the_state_before_it(alone):
    inputs, labels = rows()
    order = batches(epoch_order(0, 0, 60), 8)
    inputs[order[5, 0], 0] = 1e30  # its square is infinite
    halt = fit(HYBRID, (inputs, labels))
    assert halt.stop_reason == "nonfinite" and halt.last_step == 5
    # As many steps on one device, none of which comes upon that row.
    expected = alone.model.trainer.fit(rows(), rows(21, 1), steps=5, batch_size=8)
    assert_leaves(plain(halt.state).params, plain(expected.state).params, 1e-3)


class Shown(Callback):
    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_epoch(self, row: Any, trained: Any) -> None:
        self.states.append(plain(trained.state))


@pytest.mark.slow
def test_all_but_the_programs_of_a_pipeline_see_plain_parameters():
    tokens = np.random.default_rng(0).integers(0, 64, (24, 9)).astype(np.int32)
    data, results, shown = (tokens[:, :-1], tokens[:, 1:]), [], []
    for layout in (Layout(), Layout(data=2, stage=2)):
        shown.append(Shown())
        inner = guard_nonfinite(supervised(gpt()), "stop")
        trainer = Trainer(inner, layout=layout, callbacks=[shown[-1]], eval_batch_size=8)
        results.append(trainer.fit(data, data, epochs=2, batch_size=8))
    alone, piped = results
    assert_leaves(plain(piped.state).params, plain(alone.state).params, 1e-3)
    assert jax.tree.structure(piped.state) == jax.tree.structure(alone.state)
    for state, expected in zip(shown[1].states, shown[0].states, strict=True):
        assert_leaves(state.params, expected.params, 1e-3)
    trainer = piped.model.trainer
    assert trainer.programs.compiles.repeated() == []
    got, expected = trainer.predict(alone.state, data[0]), alone.model.predict(data[0])
    assert np.allclose(got, expected, atol=1e-5)


def test_a_batch_that_cant_be_shared_out_is_refused():
    with pytest.raises(UsageError, match="6 examples can't be split evenly over data=8"):
        Trainer(task(), layout=Layout(data=8)).fit(rows(), epochs=1, batch_size=6)


@pytest.mark.slow
def test_the_log_says_what_a_device_holds(caplog):
    caplog.set_level(logging.INFO, "jaxnet.layout")
    for layout in (HYBRID, Layout()):
        Trainer(supervised(nn.Dense(4)), layout=replace(layout, rules=RULE)).fit(
            rows(), steps=1, batch_size=8
        )
    first, second = [record.message for record in caplog.records]
    assert first.startswith("layout: data=2 x fsdp=2 x tensor=2: ")
    assert "on each of 8 devices" in first
    assert "one of 8 devices" in second and "--layout.data -1" in second


@pytest.mark.slow
def test_several_fits_share_their_programs():
    trainer = Trainer(supervised(Dropped()), layout=Layout(data=4))
    for seed in range(2):
        trainer.fit(rows(), epochs=1, batch_size=8, seed=seed)
    assert trainer.programs.compiles.total == 2


def test_a_layout_doesnt_outlive_its_run(alone):
    Trainer(task(), layout=HYBRID).predict(alone.state, rows(3)[0])
    assert jax.sharding.get_abstract_mesh().empty
    assert replace(HYBRID, data=-1).filled(8) == HYBRID
