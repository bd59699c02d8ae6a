"""From inputs to outputs: which batches are computed, and what of them is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pytest

from jaxnet.data import Arrays, Records
from jaxnet.data.pipeline.device_batches import ONE_DEVICE
from jaxnet.errors import InputError
from jaxnet.inference import LADDER, Predictor, batch_sizes


@dataclass
class Sums:
    """Stands for a network whose outputs are the sum of an example and the example."""

    shares: int = 1
    places: Any = ONE_DEVICE
    sizes: list[int] = field(default_factory=list)

    def predict(self, state: Any, inputs: np.ndarray, size: int, count: int) -> Any:
        assert len(inputs) == size >= count > 0
        assert np.isfinite(inputs).all()  # padding too
        self.sizes.append(size)
        return {"sum": inputs.sum(axis=1) + state, "same": inputs}


def predictor(program: Any, largest: int = 256, check: Callable[..., None] = lambda _: None) -> Any:
    example = jax.ShapeDtypeStruct((2,), np.float32)
    return Predictor(program, 10.0, example, check, lambda _, examples: largest)


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 9, 63, 65, 300, 3000])  # of 3,000 a source reads stacks
def test_every_example_has_its_output_in_order(n):
    inputs = rows(n)
    for given in (
        inputs,
        inputs.tolist() if n < 10 else inputs.astype(np.float64),
        Arrays(inputs, np.zeros(n, np.int32)),
        Records([{"inputs": row, "labels": 0} for row in inputs]),
    ):
        program = Sums()
        outputs = predictor(program)(given)
        np.testing.assert_array_equal(outputs["same"], inputs)
        np.testing.assert_array_equal(outputs["sum"], inputs.sum(axis=1) + 10.0)
        assert set(program.sizes) <= set(LADDER)


def test_less_than_half_of_any_batch_is_padding():
    for n in range(1, 1100):
        sizes = list(batch_sizes(n, LADDER))
        assert sum(sizes[:-1]) < n <= sum(sizes)
        assert 2 * (n - sum(sizes[:-1])) >= sizes[-1]
        assert sizes == sorted(sizes, reverse=True)


def test_batches_are_multiples_of_what_they_are_sharded_into():
    program = Sums(shares=6)
    inputs = rows(100)
    outputs = predictor(program, largest=20)(inputs)
    np.testing.assert_array_equal(outputs["same"], inputs)
    assert program.sizes == [24, 24, 24, 24, 6]


def test_at_most_two_batches_wait_to_be_fetched():
    waiting = []

    class Output:
        """On the device until it is fetched."""

        def __init__(self, values: np.ndarray) -> None:
            self.values = values
            waiting.append(self)
            assert len(waiting) <= 2

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            waiting.remove(self)
            return self.values

    class Device(Sums):
        def predict(self, state: Any, inputs: np.ndarray, size: int, count: int) -> Any:
            return Output(inputs)

    np.testing.assert_array_equal(predictor(Device())(rows(2000)), rows(2000))
    assert not waiting


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 4), np.float32), r"inputs of shape \(2,\) .* got \(4,\)"),
        (np.zeros((3, 2), np.int32), "type float32 for each example.* got .* int32"),
        (np.zeros((0, 2), np.float32), "inputs: an empty split: expected at least one example"),
        (np.float32(1), "one row per example, got 1.0"),
        ([[1, np.nan]], "nan in row 0, column 1 is not a finite number"),
        ([[1.0, 7.0]], "inputs: no 7 here"),
        (Records([(np.zeros(3), 0)]), r"records: expected inputs of shape \(2,\)"),
    ],
)
def test_inputs_that_the_network_cannot_take_are_refused(inputs, message):
    def check(values: np.ndarray) -> None:
        if 7.0 in values:
            raise InputError("no 7 here")

    program = Sums()
    with pytest.raises(InputError, match=message):
        predictor(program, check=check)(inputs)
    assert not program.sizes
