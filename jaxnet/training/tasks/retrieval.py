"""Two-tower retrieval: find each user's next item in a catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.layers.nearest import log_partition
from jaxnet.metrics import Mean
from jaxnet.training.state import PyTree, TrainState
from jaxnet.training.task import Aux, Batch, Metrics, example_weights
from jaxnet.training.tasks.supervised import Supervised


@dataclass(frozen=True, eq=False)
class Retrieval(Supervised):
    """Learn user and item embeddings from user-item interactions.

    A batch has `inputs` (B, user columns + item columns), the ids of a user and of the chosen item,
    and `labels` (B,), the index of that item in the catalogue. Training uses the other items of the
    batch as negatives (`losses.in_batch_softmax`); evaluation uses the whole catalogue, so its
    `loss` is `-log p(item | user)`, whatever the batch.

    Attributes:
        model: returns user and item embeddings, both (B, width), such as `TwoTower`.
        loss: `losses.in_batch_softmax`, with the items' frequencies. Padding has the label -1.
        catalogue: (items, item columns) integers, the inputs of all items.

    Example:
        >>> import flax.linen as nn, optax
        >>> from jaxnet import losses
        >>> class Towers(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, inputs):
        ...         return nn.Embed(9, 2)(inputs[:, 0]), nn.Embed(3, 2)(inputs[:, 1])
        >>> items = np.arange(3)[:, None]
        >>> task = Retrieval(Towers(), losses.in_batch_softmax, optax.sgd(0.1), catalogue=items)
        >>> batch = {"inputs": jnp.array([[8, 2], [4, 0]]), "labels": jnp.array([2, 0]),
        ...          "mask": jnp.array([True, True])}
        >>> state = jax.jit(task.init)(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(task.train_step)(state, batch)
        >>> int(state.step), sorted(metrics)
        (1, ['loss'])
    """

    catalogue: np.ndarray = field(kw_only=True)

    def objective(
        self, params: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The weighted mean of the in-batch losses."""
        # Padding repeats other rows, which must not count as negatives twice.
        labels = jnp.where(batch["mask"], batch["labels"], -1)
        return super().objective(params, collections, {**batch, "labels": labels}, key)

    def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
        """`loss`: the cross-entropy of the softmax over the whole catalogue."""
        columns = batch["inputs"].shape[1] - self.catalogue.shape[1]
        nobody = np.zeros((len(self.catalogue), columns), batch["inputs"].dtype)
        pairs = np.concatenate([nobody, self.catalogue.astype(batch["inputs"].dtype)], axis=1)
        _, catalogue = self.predict_step(state, {"inputs": jnp.asarray(pairs)})
        users, items = self.predict_step(state, batch)
        losses = log_partition(users, catalogue) - jnp.sum(users * items, axis=1)
        return {"loss": Mean.of(losses, example_weights(batch), "min")}

    def check(self, outputs: PyTree, columns: Any, name: str) -> None:
        """Raise `InputError` if a label is not an index into the catalogue."""
        labels, count = np.asarray(columns["labels"]), len(self.catalogue)
        if labels.ndim != 1 or labels.dtype.kind not in "ui":
            raise InputError(
                f"{name}: expected item numbers (n,), integers, got {labels.dtype}"
                f"{list(labels.shape)}"
            )
        wrong = (labels < 0) | (labels >= count)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{name}: expected item numbers from 0 to {count - 1}, because the catalogue has "
                f"{count} items; got {labels[row]} in row {row}"
            )
