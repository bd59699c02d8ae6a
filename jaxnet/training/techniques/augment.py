"""Data augmentation as a technique: it runs inside the compiled training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from jaxnet.data.augmentation import Augmentation, compose
from jaxnet.data.columns import flat
from jaxnet.errors import UsageError
from jaxnet.training.state import TrainState, stream
from jaxnet.training.task import Batch, GradientTask
from jaxnet.training.techniques.transforms import Technique, chain, require_gradients

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class _Augment(Technique):
    function: Augmentation
    index: int

    def prepare(self, state, batch):
        return self.task.prepare(state, self._augmented(state, batch))

    def diagnose(self, state, batch):
        return self.task.diagnose(state, self._augmented(state, batch))

    def _augmented(self, state: TrainState, batch: Batch) -> Batch:
        key = jax.random.fold_in(stream(state.key, "augment", state.step), self.index)
        augmented = self.function(key, batch)
        _check_same(batch, augmented)
        return augmented


def augment(task: GradientTask, *functions: Augmentation) -> GradientTask:
    """Apply `functions` to each training batch, in order; evaluation data is not augmented.

    They see the whole batch, before `preprocess`, regardless of where `augment` stands among other
    techniques. Their random numbers depend only on the run's seed and the step, so a resumed run
    sees the same augmented batches as an uninterrupted one.

    Args:
        task: a task that learns by gradient descent.
        functions: `(key, batch) -> batch`; see `jaxnet.data.augmentation`.

    Raises:
        UsageError: the task doesn't learn by gradient descent; or, at compile time, a function
            changes the shape or dtype of an array, or drops one.
        InputError: (at compile time) a function doesn't support this data.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, optax
        >>> from jaxnet import losses
        >>> from jaxnet.data import augmentation as aug
        >>> from jaxnet.training import Supervised
        >>> plain = Supervised(nn.DenseGeneral(3, axis=(-3, -2, -1)), losses.cross_entropy,
        ...                    optax.sgd(0.1))
        >>> task = augment(plain, aug.crop(2), aug.flip_left_right(), aug.mixup(0.2))
        >>> batch = {"inputs": jnp.ones((2, 8, 8, 1)), "labels": jnp.array([0, 2]),
        ...          "mask": jnp.array([True, True])}
        >>> state = jax.jit(task.init)(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(task.train_step)(state, batch)
        >>> int(state.step)
        1
    """
    if not functions:
        return task
    require_gradients(task, "augment")
    # Each call of `augment` uses its own random stream.
    index = sum(isinstance(one, _Augment) for one in chain(task))
    return _Augment(task, compose(*functions), index)


def _check_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise `UsageError` if an array of the batch is missing or changed its shape or dtype."""
    changed = flat(after)
    for name, old in flat(before).items():
        new = changed.get(name)
        if new is None or (new.shape, new.dtype) != (old.shape, old.dtype):
            got = "nothing" if new is None else f"{new.dtype}{list(new.shape)}"
            raise UsageError(
                f"augment: expected {name} to stay {old.dtype}{list(old.shape)}, because training "
                f"and evaluation share one network; got {got}"
            )
