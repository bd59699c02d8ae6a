"""What a run comes to: a trained network, ready for use, and how it was trained."""

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
    """What a trained network needs of its `Trainer`."""

    @property
    def task(self) -> Steps[Any]:
        """What was trained."""
        ...

    @property
    def programs(self) -> Any:
        """The compiled task, `Programs`."""
        ...

    @property
    def inference_of(self) -> Callable[[PyTree], Inference] | None:
        """What a state is predicted with; None where the task doesn't say."""
        ...

    def predictor(self, state: PyTree) -> Predictor:
        """What predicts with a state."""
        ...

    def evaluate(self, state: PyTree, data: Data) -> dict[str, Any]:
        """The metrics of labelled data."""
        ...


@dataclass(frozen=True)
class Trained:
    """A trained network, ready for use.

    Attributes:
        trainer: the `Trainer` that trained it.
        state: the best state.
        inputs: shape and type of an example's inputs in prediction, a dict or tuple of them where
            there are several.
        matmul_precision: that of the matrix products in training, as far as it is known.
    """

    trainer: Trains
    state: PyTree
    inputs: PyTree
    matmul_precision: numerics.MatmulPrecision | None = None

    def predict(self, inputs: Any) -> Any:
        """The outputs for `inputs`, (n, ...) or a dataset of n, as numpy arrays with n rows."""
        return self._predictor(inputs)

    @cached_property
    def _predictor(self) -> Predictor:
        return self.trainer.predictor(self.state)

    def evaluate(self, data: Data) -> dict[str, Any]:
        """The metrics of labelled data."""
        return self.trainer.evaluate(self.state, data)

    def inference(self) -> Inference:
        """The network, what goes before it, and the weights that evaluation uses.

        Raises:
            InputError: the task has no one network that predicts.
        """
        inference = self.trainer.inference_of
        if inference is None:
            raise InputError(
                f"{type(self.trainer.task).__name__} doesn't say what it predicts with, so there "
                "is nothing to bundle. Give it a method inference(state), or make the Bundle "
                "yourself."
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
    """What a run came to.

    Attributes:
        state: the state of the best step.
        model: the trained network with that state.
        history: the epochs.
        stop_reason: `"epochs"`, `"steps"`, `"early_stopping"`, `"diverged"`, `"nonfinite_metric"`,
            `"nonfinite"`, `"preempted"`, or what a callback returned.
        best_step: the step whose state this is.
        best: the value of the monitored metric there.
        last_step: the last step that was taken.
        halt: the step that ended training before its time, if one did, with its batch.
        seconds: the time spent, over all resumes.
        samples_per_second: training examples a second in this process, without compiling.
        data_wait_share: the share of the training time spent waiting for data, from 0 to 1.
        seconds_to_first_step: from the call of `fit` to the end of the first chunk of steps.
        fingerprints: what identifies the run (`jaxnet.training.fingerprints`); nothing without
            checkpoints.
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
