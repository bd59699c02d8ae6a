"""Iterables of batches: generators, functions, loaders; in training as the same data as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxnet import Checkpoints, Supervised, Trainer
from jaxnet.data import Batches, Records
from jaxnet.data import batches as rows_of_batches
from jaxnet.data.order import epoch_order
from jaxnet.errors import InputError, UsageError
from tests.training.helpers import table

X, Y = table(50)
TASK = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])


def in_order_of(seed: int) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """The batches of an `ArrayPipeline`, the last one smaller."""

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in rows_of_batches(epoch_order(seed, epoch, len(X), shuffle=True), 16):
            yield X[rows[rows >= 0]].astype(np.float64), Y[rows[rows >= 0]].astype(np.int64)

    return batches


def plain() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(X), 16):
        yield X[start : start + 16], Y[start : start + 16]


def weights_of(result: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.state.params)]


def same(one: Any, other: Any) -> None:
    for mine, theirs in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def fitted(data: Any, task: Supervised = TASK, **options: Any) -> Any:
    return Trainer(task).fit(data, **{"epochs": 2, "batch_size": 16, **options})


class Loader:
    """What a `DataLoader` is: it has a length, and each pass is a new iterator."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return ([x, y] for x, y in plain())  # PyTorch collates a pair as a list

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_batches_train_as_arrays_do():
    """To the bit, with a smaller last batch: padding and mask are the same."""
    streamed = fitted(in_order_of(0), epochs=3)
    arrays = fitted((X, Y), epochs=3)
    same(streamed, arrays)
    assert streamed.history["loss"] == arrays.history["loss"]
    assert len(streamed.model.trainer.programs.compiles.traces) <= len(
        arrays.model.trainer.programs.compiles.traces
    )


def test_loaders_functions_iterators_and_dicts_are_alike():
    loader = Loader()
    expected = fitted(plain)
    same(fitted(loader), expected)
    assert loader.epochs[-2:] == [0, 1]
    same(fitted(lambda: ({"inputs": x, "labels": y} for x, y in plain())), expected)
    named = ({"pixels": x, "digit": y, "id": "?"} for _ in range(2) for x, y in plain())
    same(fitted(Batches(named, 4, inputs="pixels", labels="digit")), expected)

    def for_ever() -> Iterator[Any]:
        while True:
            yield from plain()

    same(fitted(for_ever, epochs=None, steps=8), expected)


def test_torch_loaders_and_datasets_train_as_arrays_do():
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.tensor(X), torch.tensor(Y))
    same(fitted(DataLoader(data, batch_size=16)), fitted(plain))
    same(fitted(data), fitted((X, Y)))
    model = fitted(data).model
    for given in DataLoader(data, batch_size=7), data:
        np.testing.assert_allclose(model.predict(given), model.predict(X), atol=1e-6)


def test_frames_and_columns_of_frames_are_arrays():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    same(fitted((frame, pandas.Series(Y))), fitted((X, Y)))
    with pytest.raises(
        InputError, match=r"inputs: expected columns of numbers, got others in a: .*read_table"
    ):
        fitted((frame.assign(a="text"), pandas.Series(Y)))


@pytest.mark.parametrize("make", [lambda: in_order_of(0), lambda: plain, Loader])
def test_resumed_is_uninterrupted(make, tmp_path):
    """A step in the middle of an epoch, and the end of one."""
    whole = fitted(make(), epochs=3, valid=(X, Y))
    assert whole.best_step == 12
    for steps in (2, 6, 12):
        trainer = Trainer(TASK, checkpoints=Checkpoints(tmp_path))
        data = Batches(make(), steps=4)
        resumed = trainer.fit(data, (X, Y), epochs=3, steps=steps, batch_size=16)
        assert resumed.last_step == steps
    same(resumed, whole)
    with pytest.raises(UsageError, match="started with examples 64"):
        Trainer(TASK, checkpoints=Checkpoints(tmp_path)).fit(
            Batches(make(), steps=3), epochs=4, batch_size=16
        )


def test_what_an_iterator_is_evaluated_and_predicted_on():
    result = fitted(plain, valid=plain)
    assert result.history["val_accuracy"][-1] == result.model.evaluate((X, Y))["accuracy"]
    np.testing.assert_allclose(result.model.predict(plain), result.model.predict(X), atol=1e-6)
    inputs = (x for x, _ in plain())
    np.testing.assert_allclose(result.model.predict(inputs), result.model.predict(X), atol=1e-6)
    with pytest.raises(InputError, match="can be read once"):
        fitted(plain, valid=Batches(plain(), steps=4))


def given(*batches: Any) -> Any:
    return lambda: iter(batches)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (given(), "expected at least one batch, got none"),
        (plain(), r"an iterator \(generator\) can be read once"),
        (Batches(plain, steps=6), "expected 6 batches, got 4. .*steps=4"),
        (
            Batches(plain(), steps=3),
            "iterator ended after 4 batches, which is within an epoch of 3",
        ),
        (given((X, Y), (X[:, :2], Y)), r"inputs of float32 \(50, 4\).*\(50, 2\) in batch 2"),
        (given((X, Y), (X > 0, Y)), r"inputs of float32 .* got bool .* in batch 2"),
        (given((X[:9], Y[:9]), (X, Y)), r"or with fewer rows, got .*\(50, 4\) in batch 2"),
        (given((X, Y), X), "expected inputs, labels in every batch, .* got inputs in batch 2"),
        (given((X, Y[:7])), "expected as many rows in all columns, got inputs 50, labels 7"),
        (given((X, X * np.nan)), "batch 1: labels: nan in row 0"),
        (given((X, Y, Y, Y)), "expected a pair .* got 4 parts"),
        (given({"a": X, "b": Y}), "got a, b. Name the columns"),
        (Batches(given({"a": X}), inputs="b"), "expected columns b as inputs, got a: b isn't"),
        (given(X), "expected batches with labels to learn from"),
        ([X, Y], "a list of 2 arrays, which may be a pair or batches"),
        (X, "expected a pair .* got ndarray"),
        ({"a": X}, "expected a pair .* got dict"),
    ],
)
def test_bad_batches_are_refused_by_name(data, message):
    with pytest.raises(InputError, match=message):
        fitted(data)


def test_several_processes_would_each_read_all_batches():
    from jaxnet.data.pipeline.batch_stream import BatchStream
    from jaxnet.data.pipeline.device_batches import OneDevice

    class Second(OneDevice):
        def rows(self, batch: int) -> slice:
            return slice(batch // 2, batch)

    with pytest.raises(UsageError, match="can't be sharded over processes"):
        BatchStream.of(Batches(plain), 4, Second())


def test_a_dataset_of_dicts_works_by_its_names():
    """As `datasets` of Hugging Face has them."""
    rows: Any = [{"image": x, "age": x[:1], "y": y, "id": "?"} for x, y in zip(X, Y, strict=True)]
    same(fitted(Records(rows, inputs="image", labels="y")), fitted((X, Y)))
    several = Records(rows, inputs=("image", "age"), labels="y")
    assert sorted(several.spec()) == ["inputs/age", "inputs/image", "labels"]
    with pytest.raises(InputError, match="expected columns x as inputs, got image, age, y, id"):
        Records(rows, inputs="x").spec()


def test_an_iterator_trains_once_and_a_long_pass_goes_on_in_the_next_epoch():
    expected = fitted((X, Y), epochs=1, batch_size=50, seed=1)
    assert expected.last_step == 1
    same(fitted(plain(), epochs=1), fitted(plain, epochs=1))
    same(fitted(plain(), epochs=None, steps=4), fitted(plain, epochs=1))
    twice = (batch for _ in range(2) for batch in plain())
    same(fitted(Batches(plain, steps=2), epochs=4), fitted(Batches(twice, steps=2), epochs=4))
    accuracy = expected.model.evaluate(plain())["accuracy"]
    assert accuracy == expected.model.evaluate((X, Y))["accuracy"]
    inner = iter(list(plain()))
    with pytest.raises(InputError, match=r"got none|can't be restarted"):
        fitted(Batches(lambda: inner, steps=3))
