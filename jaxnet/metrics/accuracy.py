"""What a network answers, and the share of right answers."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from jaxnet import losses
from jaxnet.errors import InputError
from jaxnet.metrics.own import adapted
from jaxnet.metrics.sums import Mean, Metric, Sums


def accuracy(
    outputs: Float[ArrayLike, " batch *_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
) -> Mean:
    """The share of examples whose most likely class is the right one.

    Args:
        outputs: logits (B, ..., C): the answer is the class of the largest, the first of equals.
            With one logit an example, (B,) or (B, 1), the answer is "yes" above 0.
        labels: (B, ...) class numbers; with one logit an example 0 and 1. See the module
            `jaxnet.metrics` for what is left out and what makes it NaN.
        weights: (B,).

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2]])
        >>> accuracy(logits, jnp.array([1, 1]), jnp.ones(2)).compute()
        0.5
    """
    if is_single(outputs):
        right = _right(outputs, labels, 0.5)
        return Mean.of(_share(right), weights, "max")
    outputs, labels = class_labels("accuracy", outputs, labels)
    right = jnp.argmax(outputs, axis=-1).astype(jnp.int32) == labels
    return _class_share(right, outputs, labels, weights)


def top_k_accuracy(k: int) -> Metric:
    """A metric: the share of examples whose label is among the `k` largest logits.

    It takes logits (B, ..., C), integer labels (B, ...) and weights (B,), and raises `InputError`
    where the shapes do not fit or there are fewer than `k` classes.

    Example:
        >>> logits = jnp.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
        >>> top_k_accuracy(2)(logits, jnp.array([1, 0]), jnp.ones(2)).compute()
        0.5
    """
    if k < 1:
        raise InputError(f"top_k_accuracy needs k >= 1; got {k}")

    def metric(
        outputs: Float[ArrayLike, "*_batch_dims_classes"],
        labels: Shaped[ArrayLike, "*_batch_dims"],
        weights: Float[ArrayLike, "*_batch"],
    ) -> Mean:
        outputs, labels = class_labels("top_k_accuracy", outputs, labels)
        if outputs.shape[-1] < k:
            raise InputError(f"top_k_accuracy({k}) needs {k} classes; got {outputs.shape[-1]}")
        _, best = jax.lax.top_k(outputs, k)
        hits = jnp.any(best == labels[..., None], axis=-1)
        return _class_share(hits, outputs, labels, weights)

    return metric


def masked(metric: Metric, ignored: int = -1) -> Metric:
    """`metric` over the positions of an example whose label is not `ignored`, as `losses.masked`.

    For labels (B, T) of sequences, or (B, H, W) of images, with gaps. An example's weight is shared
    among its positions that count. To let each position count alike, weigh the examples by their
    positions: `Arrays(inputs, labels, weights=losses.position_counts(labels))`.

    A label below 0 is left out of metrics of class numbers anyway; this leaves out any other one,
    shares the weight, and serves labels of yes and no, of which -1 isn't a gap by itself.

    Args:
        metric: such as `accuracy`.
        ignored: the label that marks what doesn't count.

    Returns:
        A metric of logits (B, ..., C), integer labels (B, ...) and weights (B,), or of one logit
        for each label, which raises `InputError` where the shapes do not fit.

    Example:
        >>> logits = jnp.array([[[2.0, 0.0], [9.0, 0.0], [0.0, 5.0]]])
        >>> masked(accuracy)(logits, jnp.array([[0, 1, -1]]), jnp.ones(1)).compute()
        0.5
    """
    own = adapted("masked", metric)

    def counted(
        outputs: Float[ArrayLike, " batch *_dims"],
        labels: Shaped[ArrayLike, "*_batch_dims"],
        weights: Float[ArrayLike, "*_batch"],
    ) -> Sums:
        single = jnp.shape(outputs) in (jnp.shape(labels), (*jnp.shape(labels), 1))
        classes = () if single else jnp.shape(outputs)[-1:]
        outputs, labels = (
            losses.paired(outputs, labels) if single else class_labels("masked", outputs, labels)
        )
        counts = (labels != ignored).reshape(len(labels), -1)
        weights = jnp.asarray(weights)
        share = weights / jnp.maximum(counts.sum(axis=1), 1).astype(weights.dtype)
        return own(
            outputs.reshape(-1, *classes),
            jnp.where(counts.ravel(), labels.reshape(-1), 0),
            jnp.where(counts, share[:, None], 0).ravel(),
        )

    return counted


def multilabel_accuracy(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    threshold: float = 0.5,
) -> Mean:
    """The share of labels that are right, where an example has several: 1 less the Hamming loss.

    Args:
        outputs: logits (B, K), each a yes or no of its own.
        labels: (B, K) of 0 and 1.
        weights: (B,).
        threshold: the probability above which the answer is "yes".

    Raises:
        InputError: the shapes do not fit, or the threshold is not inside (0, 1).

    Example:
        >>> logits, labels = jnp.array([[3.0, -2.0], [1.0, 1.0]]), jnp.array([[1, 0], [1, 0]])
        >>> multilabel_accuracy(logits, labels, jnp.ones(2)).compute()
        0.75
    """
    return Mean.of(_share(_right(outputs, labels, threshold)), weights, "max")


def exact_match(
    outputs: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    weights: Float[ArrayLike, "*_batch"],
    *,
    threshold: float = 0.5,
) -> Mean:
    """The share of examples whose labels are ALL right (the subset accuracy).

    Arguments and errors as in `multilabel_accuracy`.

    Example:
        >>> logits, labels = jnp.array([[3.0, -2.0], [1.0, 1.0]]), jnp.array([[1, 0], [1, 0]])
        >>> exact_match(logits, labels, jnp.ones(2)).compute()
        0.5
    """
    right = _right(outputs, labels, threshold)
    # The product, which keeps NaN, in the place of `all`.
    return Mean.of(jnp.prod(right, axis=tuple(range(1, right.ndim))), weights, "max")


class Answers(NamedTuple):
    """Answers and truth, a row for each; where an example has further axes they become rows.

    Attributes:
        truth: (N,) class numbers.
        answers: (N,) class numbers.
        weights: (N,) float; 0 where the label is a gap, NaN where it can't be or the output is NaN.
        classes: how many there are.
        single: whether there was one logit an example, whose classes are no (0) and yes (1).
    """

    truth: jax.Array
    answers: jax.Array
    weights: jax.Array
    classes: int
    single: bool


def answered(
    metric: str,
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    threshold: float | None = None,
) -> Answers:
    """The answer of each example that has ONE: a class, or yes or no.

    Args:
        metric: the name to use in messages.
        outputs: logits (B, ..., C), or one logit an example, (B,) or (B, 1).
        labels: (B, ...) class numbers; with one logit 0 and 1.
        weights: (B,).
        threshold: for one logit: the probability above which the answer is "yes" (None: 0.5).

    Raises:
        InputError: the shapes do not fit, or there is a threshold and more than one logit.
    """
    outputs = losses.widened(outputs)
    single = is_single(outputs)
    if single:
        outputs, labels = losses.paired(outputs, labels)
        wrong = ~is_yes_or_no(labels) | jnp.isnan(outputs)
        truth = (labels > 0.5).astype(jnp.int32)
        answers, classes = (outputs > cut(threshold)).astype(jnp.int32), 2
    elif threshold is not None:
        raise InputError(
            f"{metric} takes a threshold with one logit an example, (B,) or (B, 1); got outputs "
            f"{list(outputs.shape)}. Leave the threshold out to take the largest logit"
        )
    else:
        outputs, truth = class_labels(metric, outputs, labels)
        answers, classes = jnp.argmax(outputs, axis=-1).astype(jnp.int32), outputs.shape[-1]
        wrong = (truth >= classes) | jnp.isnan(outputs).any(axis=-1)
    weights = spread(metric, weights, answers).astype(outputs.dtype)
    truth, wrong = truth.reshape(-1), wrong.reshape(-1)
    weights = unless(wrong, jnp.where(truth >= 0, weights, 0))
    return Answers(truth, answers.reshape(-1), weights, classes, single)


def is_single(outputs: ArrayLike) -> bool:
    """Whether these are one logit an example, (B,) or (B, ..., 1)."""
    return jnp.ndim(outputs) == 1 or jnp.shape(outputs)[-1:] == (1,)


def cut(threshold: float | None) -> float:
    """The logit of a probability; None is 0.5.

    Raises:
        InputError: it is not inside (0, 1).
    """
    threshold = 0.5 if threshold is None else threshold
    if not 0.0 < threshold < 1.0:
        raise InputError(f"a threshold must be a probability inside (0, 1); got {threshold}")
    return math.log(threshold) - math.log1p(-threshold)


def spread(metric: str, weights: ArrayLike, answers: jax.Array) -> Float[Array, " rows"]:
    """Weights (B,) as one for each of the answers (B, ...), in rows.

    Raises:
        InputError: there are not as many weights as examples.
    """
    weights = jnp.asarray(weights)
    if weights.shape != answers.shape[:1]:
        raise InputError(
            f"{metric} expects weights (B,), one an example; got {list(weights.shape)} for "
            f"{answers.shape[0]} examples"
        )
    return jnp.repeat(weights, math.prod(answers.shape[1:]))


def unless(wrong: jax.Array, weights: jax.Array) -> jax.Array:
    """The weights, NaN where something is wrong and counts: so are the sums then."""
    return jnp.where(wrong & (weights != 0), jnp.nan, weights)


def is_yes_or_no(labels: Float[Array, "*dims"]) -> Bool[Array, "*dims"]:
    """Which labels are 0, 1, or a probability between them."""
    return (labels >= 0) & (labels <= 1)


def _right(outputs: ArrayLike, labels: ArrayLike, threshold: float) -> jax.Array:
    """1 where a yes or no is right, else 0; NaN where the output or the label is none."""
    outputs, labels = losses.paired(outputs, labels)
    right = (outputs > cut(threshold)) == (labels > 0.5)
    known = is_yes_or_no(labels) & ~jnp.isnan(outputs)
    return jnp.where(known, right.astype(jnp.float32), jnp.nan)


def _share(right: jax.Array) -> jax.Array:
    return jnp.mean(right, axis=tuple(range(1, right.ndim)), dtype=jnp.float32)


def _class_share(
    right: jax.Array, outputs: jax.Array, labels: jax.Array, weights: ArrayLike
) -> Mean:
    """The share of right answers (B, ...) among the labels of an example that are no gaps."""
    wrong = (labels >= outputs.shape[-1]) | jnp.isnan(outputs).any(axis=-1)
    right = jnp.where(wrong, jnp.nan, right.astype(jnp.float32))
    counts, axes = labels >= 0, tuple(range(1, labels.ndim))
    count = counts.sum(axis=axes)
    shares = jnp.sum(right, axis=axes, where=counts) / jnp.maximum(count, 1).astype(jnp.float32)
    return Mean.of(shares, jnp.where(count > 0, jnp.asarray(weights), 0), "max")


def class_labels(metric: str, outputs: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Logits (B, ..., C) and class numbers (B, ...), the numbers as int32.

    Raises:
        InputError: the shapes do not fit, or the labels are not integers.
    """
    outputs, labels = jnp.asarray(outputs), jnp.asarray(labels)
    if labels.shape != outputs.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"{metric} expects logits (B, ..., C) and integer labels (B, ...); got logits "
            f"{list(outputs.shape)} and labels {labels.dtype}{list(labels.shape)}. "
            f"Turn one-hot labels into class numbers with argmax. Where an example has several "
            f"labels, use multilabel_accuracy or exact_match, or give a rate a threshold"
        )
    # Eight-bit labels must not be compared in eight bits: class 256 would pass for class 0.
    return outputs, labels.astype(jnp.int32)
