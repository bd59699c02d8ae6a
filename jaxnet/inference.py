"""Batched inference, for one example or a million.

Inputs are processed in batches of a few fixed sizes, so that one example doesn't cost as much as
256, and any number of examples needs only a few compiled programs. The outputs of a batch are
fetched while the next one is computed: the memory in use is that of the outputs and two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxnet.cluster import activity
from jaxnet.data.arrays import Arrays
from jaxnet.data.batches import Batches
from jaxnet.data.columns import flat, nested
from jaxnet.data.named_arrays import NamedArrays, is_named
from jaxnet.data.numeric import as_array, narrowed
from jaxnet.data.pipeline.accepted import inputs_of
from jaxnet.data.pipeline.device_batches import BatchPlacement
from jaxnet.data.pipeline.epochs import SourcePipeline
from jaxnet.data.sources import InputsOnly, Source
from jaxnet.errors import InputError

PyTree = Any

# The batch sizes; larger ones make no network faster.
LADDER = (1, 8, 64, 256)


class Program(Protocol):
    """The interface of a compiled network, such as `jaxnet.training.Programs`."""

    @property
    def places(self) -> BatchPlacement:
        """The placement of batches on devices, and the rows that this process has to load."""
        ...

    @property
    def shares(self) -> int:
        """The number of shards of a batch."""
        ...

    def predict(self, state: PyTree, inputs: PyTree, size: int, count: int) -> PyTree:
        """The outputs (size, ...) for a batch.

        Args:
            state: the state to predict with.
            inputs: the rows of the batch, or those that this process's devices need.
            size: the number of rows of the batch.
            count: the number of rows that are examples; the others are padding.
        """
        ...


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts with a trained network, in batches of a few fixed sizes.

    Attributes:
        program: the compiled network.
        state: the state to predict with, on its devices.
        inputs: shape and dtype of one example's inputs; None accepts any.
        check_inputs: raises `InputError` for values that the network can't accept.
        largest: `(inputs, examples) -> size`, the largest batch size for the shape and dtype of an
            example's inputs and the number of examples.
    """

    program: Program
    state: PyTree
    inputs: PyTree | None
    check_inputs: Callable[[Any], None]
    largest: Callable[[PyTree, int], int]

    def __call__(self, inputs: Any) -> PyTree:
        """The outputs for `inputs`, as numpy arrays with n rows.

        Args:
            inputs: (n, ...), a dict or tuple of them if the network takes several, or a dataset
                of n examples, whose labels are ignored: `Arrays`, a `Source`, a sequence of
                records or an iterable of batches.

        Raises:
            InputError: the inputs have the wrong shape or dtype, or invalid values.
        """
        # Arrays first, because the check for a source takes longer than a small network.
        if not isinstance(inputs, np.ndarray | Arrays | NamedArrays | Batches):
            inputs = inputs_of(inputs)
        if not isinstance(inputs, np.ndarray) and isinstance(inputs, Source):
            example = nested(inputs.spec())["inputs"]
            self._check(example, inputs.name)
            return self._outputs(self._read(inputs, example), len(inputs))
        if isinstance(inputs, Batches):
            parts = [self(nested(columns)["inputs"]) for columns in inputs.read(0)]
            if not parts:
                raise InputError(f"{inputs.name}: expected at least one batch, got none")
            return jax.tree.map(lambda *each: np.concatenate(each), *parts)
        dataset = isinstance(inputs, Arrays | NamedArrays)
        name, given = (inputs.name, inputs.inputs) if dataset else ("inputs", inputs)
        rows = _several(given, name) if is_named(given) else _rows(given, name)
        example, count = one_example(rows), _length(rows)
        self._check(example, name)
        try:
            self.check_inputs(rows)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        return self._outputs(_cut(rows, self._sizes(example, count)), count)

    def _check(self, got: PyTree, name: str) -> None:
        if self.inputs is None:
            return
        expected, given = flat({"inputs": self.inputs}), flat({"inputs": got})
        if expected.keys() != given.keys():
            raise InputError(
                f"{name}: expected {', '.join(sorted(expected))}, as in training, got "
                f"{', '.join(sorted(given))}"
            )
        for path, example in expected.items():
            check_example(path, example, given[path], name)

    def _sizes(self, example: PyTree, examples: int) -> list[int]:
        """The batch sizes for this number of examples, in ascending order."""
        largest = self.largest(example, examples)
        sizes = {size for size in LADDER if size < largest} | {largest}
        shares = self.program.shares
        return sorted({-(-size // shares) * shares for size in sizes})

    def _read(self, source: Source, example: PyTree) -> Iterator[_Batch]:
        """The batches of a source, prefetched by threads."""
        sizes = self._sizes(example, len(source))
        size = next((size for size in sizes if size >= len(source)), sizes[-1])
        host = _OnHost(self.program.places)
        data = SourcePipeline(InputsOnly(source), size, shuffle=False, places=host)
        left = len(source)
        for feed, count in data.chunks(0, 0, 0, lambda _: data.capacity):
            stack = nested(feed.stack)["inputs"]
            for step in range(count):
                inputs = jax.tree.map(lambda part, step=step: part[step], stack)
                yield _Batch(inputs, size, min(size, left))
                left -= size

    def _outputs(self, batches: Iterator[_Batch], examples: int) -> PyTree:
        """The outputs of all batches, each fetched while the next one is computed."""
        computing: tuple[PyTree, int] | None = None
        whole = _Outputs(examples)
        for inputs, size, count in batches:
            activity.own.beat()
            outputs = self.program.predict(self.state, inputs, size, count)
            if computing is not None:
                whole.add(*computing)
            computing = outputs, count
        assert computing is not None
        whole.add(*computing)
        return whole.arrays


class _Batch(NamedTuple):
    """The padded inputs of a batch.

    Attributes:
        inputs: the rows of the batch, or those that this process's devices need.
        size: the number of rows of the batch.
        count: the number of rows that are examples.
    """

    inputs: PyTree
    size: int
    count: int


class _Outputs:
    """The outputs of all examples, filled batch by batch."""

    def __init__(self, examples: int) -> None:
        self.arrays: PyTree = None
        self._examples = examples
        self._filled = 0

    def add(self, outputs: PyTree, count: int) -> None:
        """Fetch the outputs of a batch and keep the first `count` rows."""
        if count == self._examples:  # a single batch: the fast path
            self.arrays = jax.tree.map(lambda part: np.array(np.asarray(part)[:count]), outputs)
            return
        fetched = jax.tree.map(np.asarray, outputs)
        if self.arrays is None:
            self.arrays = jax.tree.map(
                lambda part: np.empty((self._examples, *part.shape[1:]), part.dtype), fetched
            )
        rows = slice(self._filled, self._filled + count)

        def keep(all_: np.ndarray, part: np.ndarray) -> None:
            all_[rows] = part[:count]

        jax.tree.map(keep, self.arrays, fetched)
        self._filled += count


@dataclass(frozen=True)
class _OnHost:
    """A placement that leaves batches on the host, with the rows that `devices` need."""

    devices: BatchPlacement

    def replicate(self, arrays: Any) -> Any:
        return arrays

    def rows(self, batch: int) -> slice:
        return self.devices.rows(batch)

    def shard_batch(self, arrays: Any, batch: int) -> Any:
        return arrays


def check_example(
    what: str, expected: jax.ShapeDtypeStruct, got: jax.ShapeDtypeStruct, name: str
) -> None:
    """Check that a column of some data matches earlier data.

    Raises:
        InputError: shape or dtype of an example differ.
    """
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        raise InputError(
            f"{name}: expected {what} of shape {expected.shape} and type {expected.dtype} for each "
            f"example, as in earlier data, got {got.shape} and {got.dtype}. Preprocess all data in "
            "the same way."
        )


def batch_sizes(examples: int, sizes: Sequence[int]) -> Iterator[int]:
    """The sizes of the batches for a number of examples; less than half of a batch is padding.

    Args:
        examples: the number of examples.
        sizes: the possible batch sizes, in ascending order.

    Example:
        >>> [list(batch_sizes(n, (1, 8, 64, 256))) for n in (1, 7, 20, 300, 513)]
        [[1], [8], [8, 8, 8], [256, 64], [256, 256, 1]]
    """
    while examples > 0:
        enough = next((size for size in sizes if size >= examples), sizes[-1])
        fits = [size for size in sizes if size <= examples]
        size = enough if 2 * examples >= enough or not fits else fits[-1]
        yield size
        examples -= size


def one_example(rows: PyTree) -> PyTree:
    """Shape and dtype of one example, from arrays with the example as leading axis.

    Example:
        >>> one_example({"a": np.zeros((5, 2), np.float32)})
        {'a': ShapeDtypeStruct(shape=(2,), dtype=float32)}
    """
    return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape[1:], part.dtype), rows)


def _rows(given: Any, name: str) -> np.ndarray:
    # Unlike training data, inputs aren't checked for values that float32 can't distinguish.
    rows = narrowed(as_array(given, name), name)
    if rows.ndim == 0:
        raise InputError(f"{name}: expected an array with one row per example, got {rows}")
    if not len(rows):
        raise InputError(f"{name}: an empty split: expected at least one example, got 0")
    return rows


def _several(given: Any, name: str) -> PyTree:
    """Several inputs as arrays with the same number of rows."""
    parts = {path: _rows(part, f"{name}: {path}") for path, part in flat({"inputs": given}).items()}
    if len(set(map(len, parts.values()))) > 1:
        lengths = ", ".join(f"{path} {len(part)}" for path, part in parts.items())
        raise InputError(f"{name}: expected equally many examples in all inputs, got {lengths}")
    return nested(parts)["inputs"]


def _length(rows: PyTree) -> int:
    return len(rows if isinstance(rows, np.ndarray) else jax.tree.leaves(rows)[0])


def _cut(rows: PyTree, sizes: Sequence[int]) -> Iterator[_Batch]:
    begin, examples = 0, _length(rows)
    for size in batch_sizes(examples, sizes):
        count = min(size, examples - begin)
        yield _Batch(jax.tree.map(partial(_padded, begin, size), rows), size, count)
        begin += size


def _padded(begin: int, size: int, rows: np.ndarray) -> np.ndarray:
    """The rows of a batch; padding repeats its first example, so that its values are valid."""
    part = rows[begin : begin + size]
    missing = size - len(part)
    if not missing:
        return part
    return np.concatenate([part, np.broadcast_to(part[:1], (missing, *part.shape[1:]))])
