"""Which examples, classes and positions count, and how much: losses made out of losses.

Four things weigh, each at its own place:

- an example: `Arrays(inputs, labels, weights)`. The mean of a batch divides by the SUM of these
  weights, so doubling all of them changes nothing.
- padding rows, which the pipeline masks: weight 0.
- a class: `with_class_weights`. It multiplies losses and the mean divides by what it did before, as
  Keras's `class_weight` does.
- a position within an example (a token, a pixel): `masked`.

PyTorch's `CrossEntropyLoss(weight=w)` divides by the sum of the weights of the labels at hand. That
is what example weights do: `Arrays(inputs, labels, weights=w[labels])`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet.errors import InputError, UsageError
from jaxnet.losses.labels import Wrong, outside, wrong_labels
from jaxnet.names import lookup

Loss = Callable[..., jax.Array]
"""`(outputs, labels) -> (B,)`; some take options by name."""


def with_class_weights(loss: Loss, weights: Sequence[float] | np.ndarray) -> Loss:
    """`loss`, multiplied by the weight of the label's class.

    Where labels have further axes, each position is weighted by its own label and the loss of an
    example is still the mean over its positions. A mean over examples divides by their number (or
    by the sum of their weights) and not by the sum of class weights; with balanced weights both are
    the same for the whole training set.

    Args:
        loss: takes integer class numbers: `cross_entropy`, `focal`, `multiclass_hinge`, or with
            weights for "no" and "yes" `binary_cross_entropy`, `binary_focal`, `hinge`.
        weights: one for each class, in the order of their numbers, at least 0.

    Returns:
        The loss. Used on labels that are not integers, or on outputs with another number of
        classes, it raises `InputError`.

    Raises:
        UsageError: a weight is negative or not finite, or `loss` is `masked`, which has to be the
            outer one.

    Example:
        >>> from jaxnet.losses import cross_entropy
        >>> loss = with_class_weights(cross_entropy, [1.0, 3.0])
        >>> print(loss(jnp.zeros((2, 2)), jnp.array([0, 1])).round(4))
        [0.6931 2.0794]
    """
    if ignored_label(loss) is not None:
        raise UsageError("put masked outside: masked(with_class_weights(loss, ...))")
    values = tuple(float(weight) for weight in np.asarray(weights).ravel())
    if not values or not all(math.isfinite(weight) and weight >= 0 for weight in values):
        raise UsageError(
            f"with_class_weights: expected a finite number of at least 0 a class, got {values}"
        )
    return _ClassWeighted(loss, values)


def masked(loss: Loss, ignored: int = -1) -> Loss:
    """`loss` over the positions of an example whose label is not `ignored`.

    For labels (B, T) of sequences, or (B, H, W) of images, with gaps: the loss of an example is the
    mean over the positions that count, and 0 where none does. Outputs at the others may hold any
    finite number and get no gradient.

    A mean over examples then lets each example count alike. To let each POSITION count alike, as
    PyTorch's `ignore_index` does, weigh the examples by their positions:
    `Arrays(inputs, labels, weights=position_counts(labels))`.

    Args:
        loss: a loss of integer labels, such as `cross_entropy`.
        ignored: the label that marks what doesn't count; PyTorch's default is -100.

    Example:
        >>> from jaxnet.losses import cross_entropy
        >>> logits = jnp.array([[[0.0, 0.0], [9.0, 0.0], [5.0, 5.0]]])
        >>> print(masked(cross_entropy)(logits, jnp.array([[0, 0, -1]])).round(4))
        [0.3466]
    """
    return _Masked(loss, ignored)


def position_counts(labels: np.ndarray, ignored: int = -1) -> np.ndarray:
    """float32 (n,): how many positions of each example count, as weights of the examples.

    Args:
        labels: (n, ...) integers.
        ignored: the label that marks what doesn't count.

    Example:
        >>> position_counts(np.array([[4, 2, -1], [3, -1, -1]])).tolist()
        [2.0, 1.0]
    """
    labels = np.asarray(labels)
    return (labels != ignored).reshape(len(labels), -1).sum(axis=1).astype(np.float32)


def made_of(loss: Loss) -> Iterator[Loss]:
    """A loss and, one after the other, those that it was made out of.

    What wraps a loss says so by an attribute `loss`, as the wrappers of this library do; those of
    `functools` are known too.

    Example:
        >>> from functools import partial
        >>> from jaxnet.losses import cross_entropy
        >>> loss = masked(partial(cross_entropy, label_smoothing=0.1))
        >>> [type(each).__name__ for each in made_of(loss)][:3]
        ['_Masked', 'partial', 'function']
    """
    inner: Any = loss
    while inner is not None:
        yield inner
        holders = (name for name in ("loss", "func", "__wrapped__") if hasattr(inner, name))
        inner = getattr(inner, next(holders, ""), None)


def ignored_label(loss: Loss) -> int | None:
    """The label that `masked` leaves out, wherever it stands in a loss; None without one.

    Example:
        >>> from jaxnet.losses import cross_entropy
        >>> ignored_label(masked(cross_entropy, ignored=0)), ignored_label(cross_entropy)
        (0, None)
    """
    return next((each.ignored for each in made_of(loss) if isinstance(each, _Masked)), None)


def balanced_class_weights(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """float32 (C,): weights with which all classes count alike, `n / (C * count)`.

    King and Zeng (2001), "Logistic regression in rare events data"; scikit-learn's `"balanced"`.
    They average to 1 over `labels`. For the weights of examples take `weights[labels]`.

    Args:
        labels: integers of any shape, those of the training data.
        num_classes: C; by default the largest label plus one.

    Raises:
        InputError: labels are not integers, are outside [0, C), or lack a class.

    Example:
        >>> print(balanced_class_weights(np.array([0, 0, 0, 1])).round(4))
        [0.6667 2.    ]
    """
    labels = np.asarray(labels).ravel()
    if labels.dtype.kind not in "ui" or not labels.size or labels.min() < 0:
        raise InputError(
            f"balanced_class_weights: expected class numbers from 0, got {labels.size} labels of "
            f"type {labels.dtype}" + (f" from {labels.min()}" if labels.size else "")
        )
    counts = np.bincount(labels, minlength=num_classes or 0)
    if num_classes is not None and len(counts) > num_classes:
        raise InputError(
            f"balanced_class_weights: label {labels.max()} is none of {num_classes} classes"
        )
    if not counts.all():
        raise InputError(
            f"balanced_class_weights: class {int(counts.argmin())} of {len(counts)} has no example"
        )
    return (labels.size / (len(counts) * counts)).astype(np.float32)


def named_class_weights(weights: Mapping[str, float], class_names: Sequence[str]) -> np.ndarray:
    """float32 (C,): the weights of classes given by name, and 1 for the others.

    Args:
        weights: class name -> weight.
        class_names: what class 0, 1, ... is called.

    Raises:
        UsageError: there is no class of that name; the message offers the nearest.

    Example:
        >>> named_class_weights({"yes": 3.0}, ["no", "yes"]).tolist()
        [1.0, 3.0]
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    table = np.ones(len(numbers), np.float32)
    for name, weight in weights.items():
        table[lookup(name, numbers, "class")] = weight
    return table


@dataclass(frozen=True)
class _ClassWeighted:
    loss: Loss
    weights: tuple[float, ...]

    def wrong_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
        """See `jaxnet.losses.labels.ChecksLabels`."""
        where = outside(labels, 0, len(self.weights) - 1)
        if where is None:
            return wrong_labels(self.loss, labels, outputs)
        return Wrong(
            where,
            f"expected labels from 0 to {len(self.weights) - 1}, one for each weight of "
            "with_class_weights",
            "Give a weight for each class, or repair the labels",
        )

    def __call__(self, outputs: ArrayLike, labels: ArrayLike) -> jax.Array:
        labels = _integers(labels, "with_class_weights")
        classes = _classes(jnp.shape(outputs), labels.ndim)
        if len(self.weights) != classes:
            raise InputError(
                f"with_class_weights: expected a weight for each of the {classes} classes of "
                f"outputs {list(jnp.shape(outputs))}, got {len(self.weights)}"
            )
        losses = _each_position(self.loss, outputs, labels)
        # A label that is no class has no weight either: NaN, as in the losses themselves.
        known = (labels >= 0) & (labels < len(self.weights))
        table = jnp.asarray(self.weights, losses.dtype)
        weighted = losses * jnp.where(known, table[jnp.where(known, labels, 0)], jnp.nan)
        return jnp.mean(weighted, axis=tuple(range(1, weighted.ndim)))


@dataclass(frozen=True)
class _Masked:
    loss: Loss
    ignored: int

    def wrong_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> Wrong | None:
        """See `jaxnet.losses.labels.ChecksLabels`."""
        # 1 is a label whatever the loss: that of a class, or "yes".
        return wrong_labels(self.loss, np.where(labels == self.ignored, 1, labels), outputs)

    def __call__(self, outputs: ArrayLike, labels: ArrayLike) -> jax.Array:
        labels = _integers(labels, "masked")
        counts = labels != self.ignored
        losses = _each_position(self.loss, outputs, jnp.where(counts, labels, 0))
        axes = tuple(range(1, losses.ndim))
        total = jnp.sum(losses, axis=axes, where=counts)
        return total / jnp.maximum(counts.sum(axis=axes), 1).astype(total.dtype)


def _classes(shape: tuple[int, ...], label_axes: int) -> int:
    """How many classes outputs of this shape tell apart: 2 where one logit is for "yes"."""
    return shape[-1] if len(shape) > label_axes and shape[-1] > 1 else 2


def _integers(labels: ArrayLike, name: str) -> jax.Array:
    labels = jnp.asarray(labels)
    if labels.ndim == 0 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"{name}: expected integer labels (B, ...), got {labels.dtype}{list(labels.shape)}; "
            "give class numbers, or weigh the examples: Arrays(inputs, labels, weights)"
        )
    return labels.astype(jnp.int32)


def _each_position(loss: Loss, outputs: ArrayLike, labels: jax.Array) -> jax.Array:
    """The loss of each label, in the labels' shape."""
    outputs = jnp.asarray(outputs)
    if outputs.shape[: labels.ndim] != labels.shape:
        raise InputError(
            f"expected outputs (B, ...) or (B, ..., C) for labels {list(labels.shape)}, got "
            f"{list(outputs.shape)}"
        )
    flat = outputs.reshape(labels.size, *outputs.shape[labels.ndim :])
    return loss(flat, labels.reshape(-1)).reshape(labels.shape)
