"""Grain's sources and datasets as records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxnet.data import Records, load
from jaxnet.data.pipeline.epochs import SourcePipeline
from tests.data.test_sources import assert_same, batches_of

grain = pytest.importorskip("grain", reason="needs the extra [grain]")


class Squares:
    """A random-access source, as Grain defines it."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"inputs": np.float32([row]), "labels": row * row}


class Noise(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return {**element, "inputs": element["inputs"] + rng.uniform()}


def test_a_source_and_a_dataset_of_grain_are_records():
    dataset = grain.MapDataset.source(Squares()).map(lambda r: {**r, "labels": -r["labels"]})
    for records, sign in ((Squares(), 1), (dataset, -1), (dataset[2:8], -1)):
        made = Records(records)
        batch = batches_of(SourcePipeline(made, 4, shuffle=True), 1)[0]
        np.testing.assert_array_equal(batch["labels"], sign * batch["inputs"][:, 0] ** 2)


def test_random_changes_differ_by_epoch_and_come_again_when_resumed():
    dataset = grain.MapDataset.source(Squares()).seed(3).random_map(Noise())
    made = SourcePipeline(Records(dataset), 4, shuffle=False)
    first, second = batches_of(made, 0), batches_of(made, 1)
    noise = [np.concatenate([b["inputs"][b["mask"]] for b in e])[:, 0] for e in (first, second)]
    for one in noise:
        assert ((one - np.arange(10) >= 0) & (one - np.arange(10) < 1)).all()
    assert (noise[0] != noise[1]).all()
    assert_same(batches_of(made, 1, start=2), second[2:])


class Noted(Squares):
    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, row: int) -> dict[str, Any]:
        self.read.append(row)
        return super().__getitem__(row)


def test_padding_is_not_read():
    noted = Noted()
    for records in (noted, grain.MapDataset.source(noted)):
        made = SourcePipeline(Records(records), 8)
        made.spec()
        noted.read.clear()
        assert [batch["mask"].sum() for batch in batches_of(made, 0)] == [8, 2]
        assert sorted(noted.read) == list(range(10))


def test_array_record_files_are_records(tmp_path):
    writer_module = pytest.importorskip(
        "array_record.python.array_record_module", reason="needs the extra [grain]"
    )
    path = tmp_path / "a.array_record"
    writer = writer_module.ArrayRecordWriter(str(path), "group_size:1")
    for i in range(9):
        writer.write(np.array([i, i + 1], np.float32).tobytes())
    writer.close()
    source = grain.sources.ArrayRecordDataSource(str(path))

    def parse(data: bytes) -> tuple[np.ndarray, np.ndarray]:
        values = np.frombuffer(data, np.float32)
        return values[:1], values[1]

    made = Records(grain.MapDataset.source(source).map(parse))
    read = load(made, np.array([8, 0]))
    assert read.inputs.tolist() == [[8.0], [0.0]]
    assert read.labels.tolist() == [9.0, 1.0]
