"""The result of a run: the trained network and its history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import jax

from jaxnet import numerics
from jaxnet.errors import InputError
from jaxnet.inference import Predictor
from jaxnet.training.evaluation import Data
from jaxnet.training.halting import Halt
from jaxnet.training.history import History
from jaxnet.training.task import Inference, Steps
from jaxnet.training.techniques.norms import layer_order

PyTree = Any


class Trains(Protocol):
    """The part of `Trainer` that a trained network uses."""

    @property
    def task(self) -> Steps[Any]:
        """The trained task."""
        ...

    @property
    def programs(self) -> Any:
        """The compiled task, `Programs`."""
        ...

    @property
    def inference_of(self) -> Callable[[PyTree], Inference] | None:
        """Maps a state to the model that predicts; None if the task has none."""
        ...

    def predictor(self, state: PyTree) -> Predictor:
        """A predictor for a state."""
        ...

    def evaluate(self, state: PyTree, data: Data) -> dict[str, Any]:
        """The metrics on labelled data."""
        ...


@dataclass(frozen=True)
class Trained:
    """A trained network, ready for use.

    Attributes:
        trainer: the `Trainer` that trained it.
        state: the best state.
        inputs: shape and dtype of an example's inputs in prediction, a dict or tuple of them if
            there are several.
        matmul_precision: the precision of matrix products in training; None if unknown.
    """

    trainer: Trains
    state: PyTree
    inputs: PyTree
    matmul_precision: numerics.MatmulPrecision | None = None

    def predict(self, inputs: Any) -> Any:
        """The outputs for `inputs`, (n, ...) or a dataset of n examples, as numpy arrays."""
        return self._predictor(inputs)

    @cached_property
    def _predictor(self) -> Predictor:
        return self.trainer.predictor(self.state)

    def evaluate(self, data: Data) -> dict[str, Any]:
        """The metrics on labelled data."""
        return self.trainer.evaluate(self.state, data)

    def inference(self) -> Inference:
        """The network, its preprocessing, and the weights that evaluation uses.

        Raises:
            InputError: the task doesn't define `inference`.
        """
        inference = self.trainer.inference_of
        if inference is None:
            raise InputError(
                f"{type(self.trainer.task).__name__} has no method inference(state), so there is "
                "no network to bundle. Give it that method, or create the Bundle yourself."
            )
        return inference(self.state)

    def layers(self) -> list[str]:
        """The paths of the network's layers in the order in which they run."""
        network, preprocess, variables = self.inference()
        batch = jax.tree.map(
            lambda part: jax.ShapeDtypeStruct((1, *part.shape), part.dtype), self.inputs
        )
        return layer_order(network, variables, jax.eval_shape(preprocess, batch))


@dataclass(frozen=True)
class FitResult:
    """The result of `Trainer.fit`.

    Attributes:
        state: the state of the best step.
        model: the trained network with that state.
        history: the metrics of each epoch.
        stop_reason: `"epochs"`, `"steps"`, `"early_stopping"`, `"diverged"`, `"nonfinite_metric"`,
            `"nonfinite"`, `"preempted"`, or what a callback returned.
        best_step: the step of `state`.
        best: the value of the monitored metric at that step.
        last_step: the last step of the run.
        halt: the step that halted training, with its batch, if one did.
        seconds: the time spent, over all resumes.
        samples_per_second: training examples per second in this process, without compiling.
        data_wait_share: the fraction of the training time spent waiting for data.
        seconds_to_first_step: from the call of `fit` to the end of the first chunk of steps.
        fingerprints: of the run (`jaxnet.training.fingerprints`); empty without checkpoints.
    """

    state: PyTree
    model: Trained
    history: History
    stop_reason: str
    best_step: int
    best: float | None
    last_step: int
    halt: Halt | None
    seconds: float
    samples_per_second: float
    data_wait_share: float
    seconds_to_first_step: float
    fingerprints: Mapping[str, str] = field(default_factory=dict)
