"""What is read while training: the batches are those of the same data in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxnet import losses
from jaxnet.data import Arrays, Records, image_folders, load, split
from jaxnet.data.images import decoding, folders
from jaxnet.data.pipeline import stacks
from jaxnet.data.pipeline.epochs import ArrayPipeline, SourcePipeline, pipeline
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.errors import InputError
from jaxnet.training import Supervised, Trainer
from tests.networks import Dense


def batches_of(made: Pipeline, epoch: int, start: int = 0, size: int = 3) -> list[dict[str, Any]]:
    return [
        jax.device_get(feed.batch(jnp.int32(i)))
        for feed, count in made.chunks(7, epoch, start, lambda _: size)
        for i in range(count)
    ]


def assert_same(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])


def arrays(n: int = 23) -> Arrays:
    rng = np.random.default_rng(0)
    return Arrays(
        rng.normal(size=(n, 2, 3)).astype(np.float32),
        np.arange(n) % 3,
        weights=np.arange(n) + 1.0,
        class_names=("a", "b", "c"),
    )


def as_list(data: Arrays) -> list[dict[str, np.ndarray]]:
    return [{name: column[i] for name, column in data.columns().items()} for i in range(len(data))]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_batches_are_those_of_the_same_data_in_memory(shuffle, threads):
    data = arrays()
    by_arrays = pipeline(data, 5, shuffle=shuffle, placement="host", capacity=4)
    made = SourcePipeline(Records(as_list(data)), 5, shuffle, capacity=4, threads=threads)
    assert (made.examples, made.steps, made.spec()) == (23, 5, by_arrays.spec())
    for epoch in (0, 3):
        whole = batches_of(by_arrays, epoch)
        for size in (1, 2, 99):
            assert_same(batches_of(made, epoch, size=size), whole)
        for start in (1, 4, 5):
            assert_same(batches_of(made, epoch, start), whole[start:])


@dataclass
class Counted:
    """Records that note what was read, and by whom."""

    n: int = 400
    read: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        if row == 333:
            raise InputError("shard7: record 333 is damaged")
        self.read.append(row)
        self.threads.add(threading.current_thread().name)
        return np.float32([row]), row % 2


def test_a_resumed_epoch_reads_only_what_is_left():
    counted = Counted(n=40)
    made = SourcePipeline(Records(counted), 4)
    made.spec()
    counted.read.clear()
    assert len(batches_of(made, 0, start=7)) == 3
    assert len(counted.read) == 12
    # What was the first batch is read for the padding of the last one.
    counted.n = 38
    assert_same(batches_of(made, 0, start=7), batches_of(made, 0)[7:])


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one process of several fills."""

    own: slice

    def replicate(self, arrays: Any) -> Any:
        return arrays

    def rows(self, batch: int) -> slice:
        return self.own

    def shard_batch(self, arrays: Any, batch: int) -> Any:
        return jax.device_put(arrays)


# The last case is one batch alone, half of it padding: a process needs examples to fill its rows
# with, and those of another process aren't at hand.
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("n", "batch_size", "read_twice"),
    [(23, 5, 0), (20, 5, 0), (10, 256, 0), (1, 4, 0), (41, 8, 0), (6, 8, 2)],
)
def test_each_example_is_read_once_an_epoch_and_padding_is_copied(
    n, batch_size, read_twice, shuffle
):
    by_arrays = batches_of(
        pipeline(table_of(n), batch_size, shuffle=shuffle, placement="host", capacity=4), 2
    )
    shares = [slice(0, batch_size)]
    if batch_size == 8:
        shares = [slice(0, 4), slice(4, 8)]
    read: list[int] = []
    for own in shares:
        counted = Counted(n)
        made = SourcePipeline(Records(counted), batch_size, shuffle, 4, 2, Share(own))
        made.spec()
        counted.read.clear()
        for got, whole in zip(batches_of(made, 2, size=2), by_arrays, strict=True):
            for name, values in got.items():
                np.testing.assert_array_equal(values, whole[name][own], strict=True)
        assert len(set(counted.read)) == len(counted.read)
        read += counted.read
    assert set(read) == set(range(n))
    assert len(read) == n + read_twice


def table_of(n: int) -> Arrays:
    """What `Counted` has, in memory."""
    return Arrays(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 2)


@pytest.mark.slow
def test_evaluation_and_prediction_read_each_example_once():
    counted = Counted(10)
    trainer = Trainer(Supervised(Dense(2), losses.cross_entropy, optax.sgd(0.1)))
    state = trainer.fit(table_of(10), epochs=1).state
    records = Records(counted)
    records.spec()
    counted.read.clear()
    measured = trainer.evaluate(state, records)
    assert sorted(counted.read) == list(range(10))
    assert measured == trainer.evaluate(state, table_of(10))
    counted.read.clear()
    assert trainer.predict(state, records).shape == (10, 2)
    assert sorted(counted.read) == list(range(10))


def test_what_cannot_be_read_is_raised_where_it_is_used_and_ends_the_threads():
    made = SourcePipeline(Records(Counted()), 4, threads=2)
    with pytest.raises(InputError, match="shard7: record 333 is damaged"):
        batches_of(made, 0)
    assert not readers()


def test_threads_end_with_the_epoch_and_when_nobody_listens_any_more():
    counted = Counted(n=64)
    made = SourcePipeline(Records(counted), 2, capacity=2, threads=2)
    made.spec()
    counted.threads.clear()
    batches_of(made, 0)
    assert not readers()
    assert {name.rpartition("_")[0] for name in counted.threads} == {"jaxnet-reader"}
    chunks = made.chunks(0, 0, 0, lambda _: 1)
    next(chunks)
    assert readers()
    del chunks
    assert not readers()


def readers() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(("jaxnet-reader", "jaxnet-pipeline"))]


def test_a_stack_is_never_larger_than_allowed(monkeypatch):
    monkeypatch.setattr(stacks, "STAGED_BYTES", 500)
    made = SourcePipeline(Records(as_list(arrays())), 5, capacity=512)
    feed, count = next(iter(made.chunks(0, 0, 0, lambda _: 99)))
    row = 2 * 3 * 4 + 4 + 4 + 1
    assert count == feed.capacity == 500 // (5 * row)


@dataclass(frozen=True)
class Wrong:
    """A source whose `read` gives something else than its `spec` says."""

    name: str = "wrong"

    def __len__(self) -> int:
        return 5

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {"inputs": jax.ShapeDtypeStruct((2,), jnp.float32)}

    def read(self, rows: np.ndarray, epoch: int) -> Mapping[str, np.ndarray]:
        return {"inputs": np.zeros((len(rows), 1), np.float32)}


def test_a_source_has_to_keep_its_word():
    with pytest.raises(InputError, match=r"wrong: expected inputs float32 \(5, 2\), .*\(5, 1\)"):
        batches_of(pipeline(Wrong(), 5, shuffle=False), 0)


# Records


def test_records_may_be_pairs_and_are_narrowed_as_arrays_are():
    made = Records([(np.float64([1, 2]), np.int64(3)), (np.float64([4, 5]), np.int64(6))])
    read = made.read(np.array([1, 0, 1]), epoch=0)
    assert {name: values.dtype.name for name, values in read.items()} == {
        "inputs": "float32",
        "labels": "int32",
    }
    assert read["labels"].tolist() == [6, 3, 6]
    assert Records([{"inputs": np.uint8([[1]])}]).spec() == {
        "inputs": jax.ShapeDtypeStruct((1, 1), jnp.uint8)
    }


def test_unread_records_without_known_labels_are_split_but_not_stratified():
    parts = split(Records(as_list(arrays())), (0.7, 0.3), seed=1)
    assert [len(part) for part in parts] == [16, 7]
    with pytest.raises(InputError, match=r"to stratify, expected integer labels .* got none"):
        split(Records(as_list(arrays())), (0.7, 0.3), stratify=True)


@pytest.mark.slow
def test_a_source_is_predicted_as_its_arrays_are_and_by_the_same_program():
    data = arrays(300)
    labels = data.labels.astype(np.int32)
    task = Supervised(Flat(), losses.cross_entropy, optax.sgd(0.1))
    trainer = Trainer(task, eval_batch_size=16)
    model = trainer.fit((data.inputs, labels), epochs=1).model
    expected = model.predict(data.inputs)
    assert expected.shape == (300, 3)
    for same in (data, Records(as_list(data)), Records([{"inputs": row} for row in data.inputs])):
        np.testing.assert_array_equal(model.predict(same), expected)
    traces = trainer.programs.compiles.traces
    assert [name for name in traces if "prediction" in name] == ["prediction of 16"]
    assert len(traces["prediction of 16"]) == 1


class Flat(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return Dense(3)(inputs.reshape(len(inputs), -1))


def test_records_are_split_without_being_read():
    data = arrays(60)
    counted = Counted(n=60)
    records = Records(counted, labels=data.labels, class_names=data.class_names)
    parts = split(records, seed=2)
    assert not counted.read
    for part, expected in zip(parts, split(data, seed=2), strict=True):
        np.testing.assert_array_equal(part.labels, expected.labels)
        assert part.class_names == ("a", "b", "c")
    train = parts[0].take(np.array([5, 0]))
    assert train.read(np.array([0, 1]), 0)["inputs"][:, 0].tolist() == [
        parts[0].rows[5],
        parts[0].rows[0],
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "records: expected at least one record"),
        ([1.0], "got float in record 0"),
        ([{"image": 1}], "got keys image in record 0"),
        ([("text", 1)], "inputs of record 0: expected numbers, got dtype <U4"),
        ([(np.zeros(2), 1), (np.zeros(3), 1)], r"\(2,\) in every record.*\(3,\) in record 1"),
        ([(np.zeros(2), 1), {"inputs": np.zeros(2)}], "got nothing in record 1"),
        ([(np.zeros(2), 1), (np.zeros(2), 1.5)], r"int32 \(\) in every .*float32 \(\) in record 1"),
    ],
)
def test_records_that_cannot_make_a_batch_are_named(records, message):
    with pytest.raises(InputError, match=message):
        Records(records).read(np.arange(len(records)), 0)


def test_labels_have_to_be_as_many_as_records():
    with pytest.raises(InputError, match="a label for each of 2 records, got 3"):
        Records([(0.0, 1), (1.0, 0)], labels=np.zeros(3, np.int32))


@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_an_offset_that_float32_cannot_hold_is_refused_as_records_are_read(offset):
    times = Records([(np.float64([offset + i, 1.0]), float(i)) for i in range(8)])
    if offset:
        with pytest.raises(InputError, match=r"of 8 different values in column 0.* tell 1 "):
            times.read(np.arange(8), 0)
    else:
        assert times.read(np.arange(8), 0)["inputs"][:, 0].tolist() == list(range(8))


# Arrays larger than the memory


def test_mapped_arrays_are_never_read_as_a_whole(tmp_path):
    images = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint16, (1000, 4, 4, 1))
    images[:, 0, 0, 0] = np.arange(1000)
    images.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = Arrays(mapped, np.arange(1000))
    assert np.shares_memory(data.inputs, mapped)
    made = pipeline(data, 10, shuffle=True, placement="host", capacity=4)
    assert isinstance(made, ArrayPipeline)
    assert np.shares_memory(made.columns["inputs"], mapped)
    batch = batches_of(made, 0)[0]
    np.testing.assert_array_equal(batch["inputs"][:, 0, 0, 0], batch["labels"])


def test_an_image_folder_gives_the_batches_of_its_arrays(tmp_path: Path, monkeypatch):
    rng = np.random.default_rng(0)
    for label in range(3):
        (tmp_path / f"class{label}").mkdir()
        for i in range(7):
            pixels = rng.integers(0, 256, (5, 4, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"class{label}" / f"{i}.jpg")
    folder = image_folders(tmp_path)["train"]
    by_arrays = pipeline(load(folder), 4, shuffle=True, placement="host", capacity=4)
    made = pipeline(folder, 4, shuffle=True, capacity=4)
    assert isinstance(made, SourcePipeline)
    decoded: list[str] = []

    def decode(*args: Any, name: str) -> np.ndarray:
        decoded.append(name)
        return decoding.decode(*args, name=name)

    monkeypatch.setattr(folders, "decode", decode)
    for epoch in (0, 1):
        decoded.clear()
        assert_same(batches_of(made, epoch), batches_of(by_arrays, epoch))
        assert sorted(decoded) == folder.files
