"""Learning to write one text from another."""

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
    """What a decoder reads to write `labels` (batch, time): the same, one place later.

    Example:
        >>> shifted(jnp.array([[7, 8, 3]]), start=2).tolist()
        [[2, 7, 8]]
    """
    first = jnp.full((len(labels), 1), start, labels.dtype)
    return jnp.concatenate([first, labels[:, :-1]], axis=1)


@dataclass(frozen=True)
class TeacherForcing(Supervised):
    """Learn to write a text from another one, each token after the right ones before it.

    Williams and Zipser 1989. The model is called with `(inputs, shifted(labels))`: that is a
    translation model such as `models.Transformer`. In a batch `inputs` (B, source) are the tokens
    to read and `labels` (B, time) those to write, an end token last and then padding, which
    `losses.masked(loss, ignored=0)` leaves out.

    Attributes:
        start: the token that a decoder reads first.
    """

    start: int = 2

    def network_inputs(self, batch: Batch) -> Any:
        """The tokens to read, and those to write as far as they are known at each place."""
        if "labels" not in batch:
            raise UsageError(
                "a model that writes texts gives outputs only beside labels; to write without them "
                "take jaxnet.generation"
            )
        return self.preprocess(batch["inputs"]), shifted(batch["labels"], self.start)

    def check(self, outputs: PyTree, columns: Mapping[str, Any], name: str) -> None:
        """Raise `InputError` where labels aren't tokens, which the decoder reads as well."""
        super().check(outputs, columns, name)
        labels = np.asarray(columns["labels"])
        if labels.min() < 0:
            row = int((labels < 0).any(axis=-1).argmax())
            raise InputError(
                f"{name}: expected tokens from 0 as labels, which the decoder reads too; got "
                f"{labels[row].min()} in row {row}. Fill up with a padding token, such as 0, and "
                "leave that out of the loss: losses.masked(loss, ignored=0)"
            )
