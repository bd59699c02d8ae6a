"""Evaluation and prediction: a state and data in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.pipeline import (
    RESIDENT_BYTES,
    ArrayPipeline,
    Pipeline,
    SourcePipeline,
    Stretch,
    pipeline,
)
from jaxnet.data.sources import InputsOnly, Source
from jaxnet.errors import InputError
from jaxnet.training.history import add_steps, as_metrics, computed
from jaxnet.training.programs import Programs

PyTree = Any
Data = Arrays | tuple[Any, Any] | Source | Pipeline

# Data is evaluated in stacks of this many batches, so that sets of all sizes share one program.
CAPACITY = 16


@dataclass(frozen=True)
class Again:
    """The stretches of a pipeline, made anew each time they are asked for."""

    data: Pipeline

    def __iter__(self) -> Iterator[Stretch]:
        return iter(self.data.stretches(0, 0, 0, lambda _: CAPACITY))


@dataclass(frozen=True)
class Evaluator:
    """Measures and predicts with a task's compiled programs.

    Attributes:
        programs: the compiled task.
        batch_size: examples a batch.
        like: what the first data looked like, which all other data has to look like.
    """

    programs: Programs
    batch_size: int
    like: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)

    def check(self, data: Pipeline, state: PyTree) -> None:
        """Raise `InputError` where data isn't like the data before it, or not for the task.

        Args:
            data: what is going to be used.
            state: arrays or their shapes.
        """
        spec = {
            name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            for name, leaf in data.spec().items()
        }
        if missing := {"inputs", "mask"} - set(spec):
            raise InputError(
                f"{data.name}: expected batches with inputs and mask, got {', '.join(spec)}. "
                f"Add {' and '.join(sorted(missing))}; the mask is False on rows of padding."
            )
        for name, got in spec.items():
            expected = self.like.get(name, got)
            if (expected.shape, expected.dtype) != (got.shape, got.dtype):
                raise InputError(
                    f"{data.name}: expected {name} of shape {expected.shape} and type "
                    f"{expected.dtype} for each example, as in the data before, got {got.shape} "
                    f"and {got.dtype}. Prepare all data in the same way."
                )
        columns = _known_columns(data)
        self._check_inputs(columns, data.name)
        check = getattr(self.programs.task, "check", None)
        if check and "labels" in columns:
            # Of what isn't in memory the shapes are known.
            check(self.programs.outputs(state, data.spec()), {**data.spec(), **columns}, data.name)
        self.like.update({**spec, **self.like})

    def _check_inputs(self, columns: Mapping[str, np.ndarray], name: str) -> None:
        check = getattr(self.programs.task, "check_inputs", None)
        if check and "inputs" in columns:
            try:
                check(columns["inputs"])
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def hold(self, data: Data, state: PyTree) -> Iterable[Stretch]:
        """Labelled data in stretches, as often as asked for; kept on the device if it is small."""
        data = pipeline(
            data,
            self._batch_size,
            shuffle=False,
            placement="host",
            capacity=CAPACITY,
            places=self.programs.places,
        )
        self.check(data, state)
        again = Again(data)
        small = isinstance(data, ArrayPipeline) and data.bytes <= RESIDENT_BYTES
        return list(again) if small else again

    def evaluate(
        self, state: PyTree, stretches: Iterable[Stretch], prefix: str = ""
    ) -> dict[str, Any]:
        """The metrics over all stretches, their names with `prefix` before them."""
        total, sums = None, None
        for feed, count in stretches:
            sums = jax.device_get(self.programs.evaluate(state, feed, count))
            total = add_steps(total, jax.tree.map(lambda leaf: leaf[None], sums))
        return {} if total is None else computed(as_metrics(total, sums), prefix)

    def predict(self, state: PyTree, inputs: Any) -> PyTree:
        """The outputs for `inputs`, (n, ...) or a dataset of n, as numpy arrays with n rows."""
        data = self._unlabelled(inputs)
        own = getattr(self.programs.task, "prediction_inputs", None)
        (self if own is None else replace(self, like={"inputs": own})).check(data, state)
        parts = []
        for feed, count in Again(data):
            outputs = jax.device_get(self.programs.predict(state, feed, count))
            taken = slice(count * self._batch_size)
            parts.append(jax.tree.map(partial(_rows, taken), outputs))
        return jax.tree.map(lambda *pieces: np.concatenate(pieces)[: data.examples], *parts)

    def _unlabelled(self, inputs: Any) -> Pipeline:
        if isinstance(inputs, Source):
            return SourcePipeline(
                InputsOnly(inputs), self._batch_size, False, CAPACITY, places=self.programs.places
            )
        if not isinstance(inputs, Arrays):
            rows = np.asarray(inputs)
            # Labels that nobody looks at: the inputs are then checked as all data is.
            labels = np.zeros(len(rows) if rows.ndim else 1, np.int32)
            inputs = Arrays(rows, labels, name="inputs")
        columns = {"inputs": inputs.inputs}
        return ArrayPipeline(
            columns,
            inputs.name,
            self._batch_size,
            shuffle=False,
            resident=False,
            capacity=CAPACITY,
            places=self.programs.places,
        )

    @property
    def _batch_size(self) -> int:
        """Rounded up, so that a batch can be shared out among many devices."""
        shares = self.programs.on_mesh.shares if self.programs.on_mesh else 1
        return -(-self.batch_size // shares) * shares


def _known_columns(data: Pipeline) -> Mapping[str, np.ndarray]:
    """What is in memory before training begins: all of some data, the labels of other data."""
    if isinstance(data, ArrayPipeline):
        return data.columns
    labels = getattr(data.source, "labels", None) if isinstance(data, SourcePipeline) else None
    return {} if labels is None else {"labels": labels}


def _rows(taken: slice, outputs: np.ndarray) -> np.ndarray:
    """(steps, batch, ...) as rows, those that were predicted."""
    return outputs.reshape(-1, *outputs.shape[2:])[taken]
