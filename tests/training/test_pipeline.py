"""From arrays to batches: which rows come when, and pipelines of one's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.data import Arrays
from jaxnet.data.order import batches, epoch_order
from jaxnet.data.pipeline.device_batches import Chunk, Streamed
from jaxnet.data.pipeline.epochs import pipeline
from jaxnet.training import Trainer
from tests.training.helpers import bits, regressor, table


def rows_of(chunks: Iterator[Chunk]) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """All batches, and how many came at a time."""
    taken, counts = [], []
    for feed, count in chunks:
        assert 1 <= count <= feed.capacity
        taken += [jax.device_get(feed.batch(jnp.int32(i))) for i in range(count)]
        counts.append(count)
    return taken, counts


def numbered(n: int = 23) -> Arrays:
    """Rows that tell who they are."""
    weights = np.arange(n, dtype=np.float32) + 1
    return Arrays(np.arange(n, dtype=np.float32)[:, None], np.arange(n), weights)


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_are_those_of_seed_and_epoch_however_they_are_stretched(placement, epoch):
    made = pipeline(numbered(), 5, shuffle=True, placement=placement, capacity=4)
    order = batches(epoch_order(7, epoch, 23), 5)
    rng = np.random.default_rng(0)
    sizes: list[tuple[int, Callable[[int], int]]] = [
        (0, lambda _: 1),
        (0, lambda _: 4),
        (0, lambda _: 1000),
        (0, lambda _: int(rng.integers(1, 5))),
        (2, lambda _: 2),
        (4, lambda _: 3),
    ]
    for start, size in sizes:
        taken, counts = rows_of(made.chunks(7, epoch, start, size))
        assert sum(counts) == len(taken) == made.steps - start == 5 - start
        assert max(counts) <= 4
        for batch, rows in zip(taken, order[start:], strict=True):
            real = rows >= 0
            np.testing.assert_array_equal(batch["mask"], real)
            np.testing.assert_array_equal(batch["labels"], np.where(real, rows, ~rows))
            np.testing.assert_array_equal(batch["inputs"][:, 0], batch["labels"])
            np.testing.assert_array_equal(batch["weights"], batch["labels"] + 1)


def test_an_epoch_is_each_example_once_in_an_order_of_its_own():
    made = pipeline(numbered(), 5, shuffle=True)
    seen = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        taken, _ = rows_of(made.chunks(seed, epoch, 0, lambda _: 9))
        seen.append([int(row) for batch in taken for row in batch["labels"][batch["mask"]]])
        assert sorted(seen[-1]) == list(range(23))
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_without_shuffling_the_order_is_that_of_the_data():
    made = pipeline(numbered(), 5, shuffle=False)
    taken, _ = rows_of(made.chunks(3, 2, 0, lambda _: 9))
    assert np.concatenate([batch["labels"] for batch in taken])[:23].tolist() == list(range(23))


def test_the_spec_says_what_a_batch_looks_like():
    for placement in ("device", "host"):
        made = pipeline(numbered(), 5, shuffle=True, placement=placement)
        feed, _ = next(iter(made.chunks(0, 0, 0, lambda _: 1)))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), feed.batch(0))
        assert shapes == made.spec()
        assert (made.name, made.examples, made.steps) == ("arrays", 23, 5)


def test_a_chunk_that_is_not_wanted_ends_the_epoch():
    made = pipeline(numbered(), 5, shuffle=True)
    assert len(list(made.chunks(0, 0, 0, lambda position: 1 if position < 2 else 0))) == 2


def test_a_chunk_comes_while_the_next_one_waits_until_it_is_used():
    """As the pace of several processes waits for the steps before."""
    used = threading.Semaphore(0)

    def size(position: int) -> int:
        assert position == 0 or used.acquire(timeout=20), "it waits for a chunk that it withholds"
        return 1

    made = pipeline(numbered(), 5, shuffle=True, placement="host")
    chunks = made.chunks(0, 0, 0, size)
    assert [used.release() for _ in chunks] == [None] * 5


def pipeline_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jaxnet-pipeline"]


def test_the_thread_ends_with_the_epoch_and_when_nobody_listens_any_more():
    made = pipeline(numbered(), 1, shuffle=True, placement="host", capacity=1)
    chunks = made.chunks(0, 0, 0, lambda _: 1)
    assert len(list(chunks)) == 23
    assert not pipeline_threads()

    chunks = made.chunks(0, 0, 0, lambda _: 1)
    next(chunks)
    assert pipeline_threads()
    del chunks
    assert not pipeline_threads()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_data_is_used():
    made = pipeline(numbered(), 5, shuffle=True, placement="host")

    def size(position: int) -> int:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(made.chunks(0, 0, 0, size)))


@dataclass(frozen=True)
class Generated:
    """Batches that are made up on the spot: y = 2 x + 1."""

    name: str = "generated"
    steps: int = 6
    examples: int = 48

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.batch(0, 0, 0))

    def batch(self, seed: int, epoch: int, step: int) -> dict[str, Any]:
        key = jax.random.key(seed)
        for number in (epoch, step):
            key = jax.random.fold_in(key, number)
        inputs = jax.random.uniform(key, (8, 1), jnp.float32, -1, 1)
        return {"inputs": inputs, "labels": 2 * inputs[:, 0] + 1, "mask": jnp.ones(8, bool)}

    def chunks(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Chunk]:
        for step in range(start, self.steps):
            if size(step) < 1:
                return
            batch = self.batch(seed, epoch, step)
            yield Chunk(Streamed(jax.tree.map(lambda x: x[None], batch)), 1)


@pytest.mark.slow
def test_a_pipeline_of_ones_own_trains_and_evaluates():
    trainer = Trainer(regressor(optimizer=optax.sgd(0.3)))
    result = trainer.fit(Generated(), Generated(), epochs=10, seed=3)
    assert (result.last_step, result.stop_reason) == (60, "epochs")
    assert result.history["val_loss"][-1] < 1e-3 < result.history["val_loss"][0]
    np.testing.assert_allclose(result.state.params["kernel"], 2, atol=0.05)
    np.testing.assert_allclose(result.state.params["bias"], 1, atol=0.05)

    # The same data from arrays give the same numbers.
    made = [Generated().batch(0, 0, step) for step in range(6)]
    inputs, labels = (np.concatenate([b[name] for b in made]) for name in ("inputs", "labels"))
    by_arrays = trainer.evaluate(result.state, (inputs, labels))
    by_batches = trainer.evaluate(result.state, Generated())
    np.testing.assert_allclose(by_arrays["loss"], by_batches["loss"], rtol=1e-5)


def test_it_may_end_in_the_middle_of_an_epoch():
    trainer = Trainer(regressor())
    result = trainer.fit(Generated(), steps=8)
    assert (result.last_step, result.stop_reason) == (8, "steps")
    assert result.history["step"] == [6, 8]
    again = trainer.fit(Generated(), steps=8)
    assert bits(again.state) == bits(result.state)


def test_training_on_arrays_sees_the_pairs_of_the_arrays():
    # A shuffle that loses the pairing of inputs and labels could not be fitted exactly.
    inputs, _ = table(40)
    labels = inputs @ np.array([1, -2, 3, 0.5], np.float32)
    trainer = Trainer(regressor(optimizer=optax.sgd(0.2)))
    result = trainer.fit((inputs, labels), epochs=40, batch_size=7)
    np.testing.assert_allclose(result.state.params["kernel"][:, 0], [1, -2, 3, 0.5], atol=1e-3)
