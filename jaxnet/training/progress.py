"""The progress of a run, saved in checkpoints beside the training state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxnet.training.early_stopping import Stopping
from jaxnet.training.history import History, Sums, as_metrics, computed, scalars
from jaxnet.training.programs import Form, without_halts


@dataclass(frozen=True)
class Progress:
    """The state of the training loop, as JSON-compatible values.

    Attributes:
        seed: the seed of the run.
        batch_size: examples per batch; with `examples` and the seed it fixes the order of the data.
        examples: examples per epoch.
        form: how training is compiled (`Programs.form`), so that a resumed run uses the same.
        epoch: the number of finished epochs.
        position: the number of steps done in the current epoch.
        step: the total number of steps done.
        sums: the sums of the metrics over the current epoch, by the paths of their leaves.
        history: the epochs so far.
        stopping: the memory of early stopping.
        seconds: the time spent, over all resumes.
        fingerprints: of data, encoders and task (`jaxnet.training.fingerprints`); empty in
            checkpoints of earlier versions.
    """

    seed: int
    batch_size: int
    examples: int
    form: Form
    epoch: int = 0
    position: int = 0
    step: int = 0
    sums: Sums | None = None
    history: History = History()
    stopping: Stopping = Stopping()
    seconds: float = 0.0
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def means(self, metrics: Any) -> dict[str, float]:
        """The means of the metrics over the epoch so far; empty before its first step.

        Args:
            metrics: a step's metrics, as shapes.
        """
        if self.sums is None:
            return {}
        return scalars(computed(as_metrics(self.sums, without_halts(metrics))))

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible values; floats are exact, NaN and infinity are strings."""
        sums = self.sums and {path: _worded(np.asarray(s)) for path, s in self.sums.items()}
        history = [{name: _word(value) for name, value in row.items()} for row in self.history.rows]
        plain = {"sums": sums, "history": history, "fingerprints": dict(self.fingerprints)}
        return {**self.__dict__, **plain, "stopping": asdict(self.stopping)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Progress:
        """The inverse of `to_json`."""
        sums = values["sums"]
        return Progress(
            **{
                **values,
                "sums": sums and {path: np.asarray(s, np.float64) for path, s in sums.items()},
                "history": History(
                    tuple(
                        {name: _number(value) for name, value in row.items()}
                        for row in values["history"]
                    )
                ),
                "stopping": Stopping(**values["stopping"]),
            }
        )


# JSON has no NaN and infinity, and a resumed run has to restore them.


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _worded(values: np.ndarray) -> Any:
    if np.isfinite(values).all():
        return values.tolist()
    return np.where(np.isfinite(values), values.astype(object), values.astype(str)).tolist()


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
