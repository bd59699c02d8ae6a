"""Evaluation and prediction with a task's compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnet.cluster import activity
from jaxnet.data.arrays import Arrays
from jaxnet.data.batches import Batches
from jaxnet.data.columns import is_input, nested
from jaxnet.data.named_arrays import NamedArrays
from jaxnet.data.pipeline.epochs import (
    RESIDENT_BYTES,
    ArrayPipeline,
    Chunk,
    SourcePipeline,
    pipeline,
)
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.data.sources import Source
from jaxnet.errors import InputError
from jaxnet.inference import Predictor, check_example
from jaxnet.training.history import add_steps, as_metrics, computed
from jaxnet.training.network import takes_all
from jaxnet.training.programs import Programs, Use

PyTree = Any
# What `fit` and `evaluate` take; see `jaxnet.data.pipeline.accepted.checked`.
Data = (
    Arrays
    | NamedArrays
    | Batches
    | Source
    | Pipeline
    | tuple[Any, Any]
    | Sequence[Any]
    | Iterable[Any]
    | Callable[..., Iterator[Any]]
)
P = TypeVar("P", bound=Pipeline)

# Data is evaluated in stacks of this many batches, so that sets of all sizes share one program.
CAPACITY = 16
# The default batch size. Small networks need it on a GPU, and no network gains from more.
MOST_EXAMPLES = 256
# A batch size that fits into memory wherever training did.
FEW_EXAMPLES = 8
# Larger networks use smaller batches, so that their working memory stays below this, or below this
# part of a training step's. Evaluation must not set the peak memory of a run.
WORKING_BYTES = 512 << 20
TRAINING_PART = 4


@dataclass
class BatchSize:
    """The batch size of evaluation and prediction.

    Any network that could be trained can be evaluated: by default it is `MOST_EXAMPLES` if they
    need little memory, and otherwise what fits into a fraction of a training step's memory.

    Attributes:
        chosen: the user's choice; None for this rule.
        training_bytes: the memory of a training step, called only if needed.
    """

    chosen: int | None = None
    training_bytes: Callable[[], int] = lambda: 0
    _needed: dict[Use, int] = field(default_factory=dict, init=False)

    def examples(self, use: Use, working_bytes: Callable[[], int]) -> int:
        """The number of examples per batch.

        Args:
            use: the program, evaluation or prediction.
            working_bytes: the working memory for `MOST_EXAMPLES`; called once per use.

        Example:
            >>> size = BatchSize(training_bytes=lambda: 8 * WORKING_BYTES)
            >>> size.examples("evaluate", lambda: 10**6)
            256
            >>> size.examples("predict", lambda: 16 * WORKING_BYTES)  # room for an eighth of them
            32
        """
        if self.chosen is not None:
            return self.chosen
        if use not in self._needed:
            self._needed[use] = working_bytes()
        needed = self._needed[use]
        if needed <= WORKING_BYTES:
            return MOST_EXAMPLES
        times = -(-needed // max(WORKING_BYTES, self.training_bytes() // TRAINING_PART))
        # A power of two, the largest for which there is room.
        return max(1, MOST_EXAMPLES >> (times - 1).bit_length())


@dataclass(frozen=True)
class Again:
    """A re-iterable over the chunks of a pipeline, which are produced again each time."""

    data: Pipeline

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.data.chunks(0, 0, 0, lambda _: CAPACITY))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates and predicts with a task's compiled programs.

    Attributes:
        programs: the compiled task.
        batch_size: the rule for the batch size.
        like: shape and dtype of an example of the first data, which all other data must match.
    """

    programs: Programs
    batch_size: BatchSize
    like: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)

    def check(self, data: Pipeline, state: PyTree) -> None:
        """Raise `InputError` if data doesn't match earlier data, or doesn't fit the task.

        Args:
            data: the data to check.
            state: the training state, as arrays or shapes.
        """
        spec = {
            name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            for name, leaf in data.spec().items()
        }
        if missing := {"inputs", "mask"} - nested(spec).keys():
            raise InputError(
                f"{data.name}: expected batches with inputs and mask, got {', '.join(spec)}. "
                f"Add {' and '.join(sorted(missing))}; the mask is False on rows of padding."
            )
        known = {path for path in self.like if is_input(path)}
        if known and known != {path for path in spec if is_input(path)}:
            raise InputError(
                f"{data.name}: expected the inputs of the data before, {_named(self.like)}, got "
                f"{_named(spec)}"
            )
        for name, got in spec.items():
            check_example(name, self.like.get(name, got), got, data.name)
        columns, shapes = nested(_known_columns(data)), nested(data.spec())
        self._check_inputs(columns, data.name)
        check = self.programs.declared.check
        if check and "labels" in columns:
            # For data that isn't in memory, only shapes are checked.
            check(self.programs.outputs(state, shapes), {**shapes, **columns}, data.name)
        self.like.update({**spec, **self.like})

    def _check_inputs(self, columns: Mapping[str, np.ndarray], name: str) -> None:
        check = self.programs.declared.check_inputs
        if check and "inputs" in columns:
            try:
                check(columns["inputs"])
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def hold(self, data: Data, state: PyTree, passes: int | None = 1) -> Iterable[Chunk]:
        """Labelled data as a re-iterable of chunks; kept on the device if it is small.

        Args:
            data: the data.
            state: the training state, as arrays or shapes.
            passes: how often it will be evaluated; None if that isn't known.
        """
        data = pipeline(
            data,
            self._rounded(MOST_EXAMPLES),
            shuffle=False,
            placement="host",
            capacity=CAPACITY,
            places=self.programs.places,
            passes=passes,
            counted=False,
        )
        self.check(data, state)
        data = self._fitted(data, state)
        again = Again(data)
        small = isinstance(data, ArrayPipeline) and data.bytes <= RESIDENT_BYTES
        return list(again) if small else again

    def evaluate(self, state: PyTree, chunks: Iterable[Chunk], prefix: str = "") -> dict[str, Any]:
        """The metrics over all chunks, by their names with `prefix`."""
        total, sums = None, None
        for feed, count in chunks:
            activity.own.beat()
            sums = jax.device_get(self.programs.evaluate(state, feed, count))
            total = add_steps(total, jax.tree.map(lambda leaf: leaf[None], sums))
        return {} if total is None else computed(as_metrics(total, sums), prefix)

    def predictor(self, state: PyTree) -> Predictor:
        """A predictor for a state, with batches as large as memory allows."""
        task = self.programs.declared
        inputs = task.prediction_inputs or nested(self.like).get("inputs")
        check = task.check_inputs or takes_all

        def largest(example: PyTree, examples: int) -> int:
            # For a few examples the memory of a large batch, which takes a trace, doesn't matter.
            if self.batch_size.chosen is None and examples <= FEW_EXAMPLES:
                return FEW_EXAMPLES
            size = self._rounded(MOST_EXAMPLES)
            batch = {
                "inputs": jax.tree.map(
                    lambda part: jax.ShapeDtypeStruct((size, *part.shape), part.dtype), example
                ),
                "mask": jax.ShapeDtypeStruct((size,), np.bool_),
            }
            return self.batch_size.examples(
                "predict", lambda: self.programs.working_bytes("predict", state, batch)
            )

        return Predictor(self.programs, state, inputs, check, largest)

    def _fitted(self, data: P, state: PyTree) -> P:
        """The pipeline with a batch size that fits into memory.

        A user-defined pipeline keeps its own batches.
        """
        if not isinstance(data, ArrayPipeline | SourcePipeline):
            return data
        most = nested(data.spec())
        examples = self.batch_size.examples(
            "evaluate", lambda: self.programs.working_bytes("evaluate", state, most)
        )
        return replace(data, batch_size=self._rounded(examples))

    def _rounded(self, examples: int) -> int:
        """Rounded up to a batch size that can be sharded over all devices."""
        shares = self.programs.shares
        return -(-examples // shares) * shares


def _named(spec: Mapping[str, Any]) -> str:
    return ", ".join(sorted(path for path in spec if is_input(path)))


def _known_columns(data: Pipeline) -> Mapping[str, np.ndarray]:
    """The columns that are in memory before training: all, or for a source its labels if any."""
    if isinstance(data, ArrayPipeline):
        return data.columns
    labels = getattr(data.source, "labels", None) if isinstance(data, SourcePipeline) else None
    return {} if labels is None else {"labels": labels}
