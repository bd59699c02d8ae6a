"""Sequence-to-sequence training with teacher forcing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError, UsageError
from jaxnet.training.state import PyTree
from jaxnet.training.task import Batch
from jaxnet.training.tasks.supervised import Supervised


def shifted(labels: jax.Array, start: int) -> jax.Array:
    """The decoder inputs for `labels` (batch, time): shifted right, with `start` first.

    Example:
        >>> shifted(jnp.array([[7, 8, 3]]), start=2).tolist()
        [[2, 7, 8]]
    """
    first = jnp.full((len(labels), 1), start, labels.dtype)
    return jnp.concatenate([first, labels[:, :-1]], axis=1)


@dataclass(frozen=True)
class TeacherForcing(Supervised):
    """Sequence-to-sequence learning: predict each target token from the true ones before it.

    Williams and Zipser 1989. The model is called with `(inputs, shifted(labels))`, such as the
    encoder-decoder `models.Transformer`. In a batch `inputs` (B, source) are the source tokens and
    `labels` (B, time) the target tokens, ending with an end token and padding, which
    `losses.masked(loss, ignored=0)` excludes.

    Attributes:
        start: the first token of the decoder inputs.
    """

    start: int = 2

    def network_inputs(self, batch: Batch) -> Any:
        """The source tokens and the decoder inputs."""
        if "labels" not in batch:
            raise UsageError(
                "teacher forcing needs labels as decoder inputs; to generate text without them use "
                "jaxnet.generation"
            )
        return self.preprocess(batch["inputs"]), shifted(batch["labels"], self.start)

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` if labels aren't token ids, which the decoder needs as inputs."""
        super().check(outputs, columns, name)
        labels = np.asarray(columns["labels"])
        if labels.min() < 0:
            row = int((labels < 0).any(axis=-1).argmax())
            raise InputError(
                f"{name}: expected token ids from 0 as labels, which are decoder inputs too; got "
                f"{labels[row].min()} in row {row}. Pad with a padding token, such as 0, and "
                "exclude it from the loss: losses.masked(loss, ignored=0)"
            )
