"""Losses of classifiers, from logits (unnormalised log-probabilities) or scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxnet.errors import InputError
from jaxnet.losses.shapes import kind, paired, per_example, widened

# How far probabilities may be from [0, 1], and their sum from 1: half precision, and a scale that
# was fitted on other data. What is no probability is further off.
SLACK = 0.01


def cross_entropy(
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Softmax cross-entropy against class numbers (sparse categorical cross-entropy), in nats.

    A label outside `0 ... C-1` makes the loss of its example NaN, so that a wrong label cannot
    pass for another class; its gradient is finite, so a padding row may carry one.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ...) integers.
        label_smoothing: the share of the probability that is spread evenly over all classes, in
            [0, 1) (Szegedy et al. 2016, section 7).

    Raises:
        InputError: the shapes do not fit, or the labels are not integers.

    Example:
        >>> print(cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7])).round(4))
        [2.3026 2.3026]
    """
    _check_smoothing(label_smoothing)
    logits, labels, known = _class_numbers("cross_entropy", logits, labels)
    losses = _negative_log_share(logits, labels)
    if label_smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * even
    return per_example(jnp.where(known, losses, jnp.nan))


def categorical_cross_entropy(
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims_classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Softmax cross-entropy against one-hot labels or class probabilities, in nats.

    A row of labels that doesn't sum to 1, or has a negative one, makes the loss NaN.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ..., C) probabilities.
        label_smoothing: see `cross_entropy`.

    Raises:
        InputError: the shapes differ, or there is one class.

    Example:
        >>> labels = jnp.array([[0.0, 1.0], [0.5, 0.5]])
        >>> print(categorical_cross_entropy(jnp.zeros((2, 2)), labels).round(4))
        [0.6931 0.6931]
    """
    _check_smoothing(label_smoothing)
    logits, labels, known = _class_shares("categorical_cross_entropy", logits, labels)
    if label_smoothing:
        labels = optax.losses.smooth_labels(labels, label_smoothing)
    losses = optax.losses.safe_softmax_cross_entropy(logits, labels)
    return per_example(jnp.where(known, losses, jnp.nan))


def binary_cross_entropy(
    logits: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """Sigmoid cross-entropy of yes-or-no labels, in nats; several labels an example are averaged.

    A label outside of 0 to 1 makes the loss of its example NaN.

    Args:
        logits: (B, ...) log-odds of "yes"; a last axis of size 1 more than `labels` has is dropped.
        labels: (B, ...) 0 or 1, or probabilities of "yes".

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> print(binary_cross_entropy(jnp.zeros((2, 1)), jnp.array([0, 1])).round(4))
        [0.6931 0.6931]
    """
    losses, known = log_odds_losses(*paired(logits, labels))
    return per_example(jnp.where(known, losses, jnp.nan))


def kl_divergence(
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims_classes"],
) -> Float[Array, " batch"]:
    """How far the predicted distribution is from `labels`, `sum_c p_c log(p_c / q_c)`, in nats.

    Kullback and Leibler (1951). `q` is the softmax of the logits; a class of probability 0 adds
    nothing. It is `categorical_cross_entropy` less the entropy of the labels, so both have the same
    gradient, and this one is 0 where the prediction is right. Distillation trains with it.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ..., C) probabilities.

    Raises:
        InputError: the shapes differ.

    Example:
        >>> labels = jnp.array([[0.5, 0.5], [0.0, 1.0]])
        >>> print(kl_divergence(jnp.zeros((2, 2)), labels).round(4))
        [0.     0.6931]
    """
    logits, labels, known = _class_shares("kl_divergence", logits, labels)
    entropy = jax.scipy.special.entr(labels).sum(axis=-1)
    losses = optax.losses.safe_softmax_cross_entropy(logits, labels) - entropy
    return per_example(jnp.where(known, losses, jnp.nan))


def focal(
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    *,
    gamma: float = 2.0,
) -> Float[Array, " batch"]:
    """Cross-entropy in which easy examples count less: `-(1 - p)^gamma log p` of the right class.

    Lin et al. (2017), "Focal loss for dense object detection", equation 4. Their `alpha` is a class
    weight: `with_class_weights(focal, ...)`. A label that is no class makes the loss NaN.

    Args:
        logits: (B, ..., C) unnormalised log-probabilities.
        labels: (B, ...) integers.
        gamma: how much less, at least 0; 0 is `cross_entropy`.

    Raises:
        InputError: the shapes do not fit, or the labels are not integers.

    Example:
        >>> print(focal(jnp.zeros((1, 2)), jnp.array([1])).round(4))  # 0.5^2 log 2
        [0.1733]
    """
    _check_gamma(gamma)
    logits, labels, known = _class_numbers("focal", logits, labels)
    # log(1 - p) from the other classes' logits: 1 - p itself would round to 0.
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(is_label, -jnp.inf, logits)
    # Where all others are ruled out, p is 1 and the sum of their exponentials has no gradient.
    certain = jnp.max(others, axis=-1) == -jnp.inf
    others = jax.nn.logsumexp(jnp.where(certain[..., None], 0, others), axis=-1)
    wrong = jnp.where(certain, 0, others - jax.nn.logsumexp(logits, axis=-1))
    factor = jnp.where(certain, 0.0**gamma, jnp.exp(gamma * wrong))
    return per_example(jnp.where(known, factor * _negative_log_share(logits, labels), jnp.nan))


def binary_focal(
    logits: Float[ArrayLike, " batch *_dims"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
    *,
    gamma: float = 2.0,
) -> Float[Array, " batch"]:
    """`focal` for yes-or-no labels; shapes and errors as in `binary_cross_entropy`.

    Example:
        >>> print(binary_focal(jnp.zeros((2, 1)), jnp.array([0, 1])).round(4))
        [0.1733 0.1733]
    """
    _check_gamma(gamma)
    logits, labels = paired(logits, labels)
    wrong = labels * jax.nn.sigmoid(-logits) + (1 - labels) * jax.nn.sigmoid(logits)
    # A power below 1 has an infinite slope at 0.
    certain = wrong <= 0
    factor = jnp.where(certain, 0.0**gamma, jnp.where(certain, 1, wrong) ** gamma)
    losses, known = log_odds_losses(logits, labels)
    return per_example(jnp.where(known, factor * losses, jnp.nan))


def hinge(
    scores: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """`max(0, 1 - y s)`, the loss of support vector machines (Cortes and Vapnik 1995).

    Args:
        scores: (B, ...) above 0 for "yes"; a last axis of size 1 more than `labels` has is dropped.
        labels: (B, ...) 1 for "yes", and 0 or -1 for "no"; another one makes the loss NaN.

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> print(hinge(jnp.array([0.3, 0.3, 2.0]), jnp.array([1, 0, 1])))
        [0.7 1.3 0. ]
    """
    return per_example(_hinges(scores, labels))


def squared_hinge(
    scores: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """The square of `hinge`, whose gradient has no jump; shapes and errors as there.

    Example:
        >>> print(squared_hinge(jnp.array([0.5, 3.0]), jnp.array([1, 0])))
        [ 0.25 16.  ]
    """
    return per_example(jnp.square(_hinges(scores, labels)))


def multiclass_hinge(
    scores: Float[ArrayLike, "*_batch_dims_classes"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """By how much the right class fails to lead the best other one by 1.

    Crammer and Singer (2001), equation 4: `max(0, 1 + max_{c != y} s_c - s_y)`, as scikit-learn's
    `hinge_loss` has it. A label that is no class makes the loss NaN.

    Args:
        scores: (B, ..., C).
        labels: (B, ...) integers.

    Raises:
        InputError: the shapes do not fit, or the labels are not integers.

    Example:
        >>> print(multiclass_hinge(jnp.array([[2.0, 1.5, 0.0]]), jnp.array([0])))
        [0.5]
    """
    scores, labels, known = _class_numbers("multiclass_hinge", scores, labels)
    is_label = jax.nn.one_hot(labels, scores.shape[-1], dtype=bool)
    right = jnp.where(is_label, scores, 0).sum(axis=-1)
    wrong = jnp.where(is_label, -jnp.inf, scores).max(axis=-1)
    return per_example(jnp.where(known, jnp.maximum(0, 1 + wrong - right), jnp.nan))


def categorical_hinge(
    scores: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims_classes"],
) -> Float[Array, " batch"]:
    """Keras's `CategoricalHinge`: `multiclass_hinge` with one-hot labels and scores from 0 on.

    `max(0, 1 + max_c (1 - y_c) s_c - sum_c y_c s_c)`: the right class stands in the maximum with 0,
    so it has to reach 1 however low the others are. A row of labels that doesn't sum to 1 makes the
    loss NaN.

    Raises:
        InputError: the shapes differ, or there is one class.

    Example:
        >>> print(categorical_hinge(jnp.array([[-1.0, -3.0]]), jnp.array([[1, 0]])))
        [2.]
    """
    scores, labels, known = _class_shares("categorical_hinge", scores, labels)
    # A score of -inf, which rules a class out, times 0 would be NaN.
    right = jnp.sum(jnp.where(labels == 0, 0, labels * scores), axis=-1)
    wrong = jnp.max(jnp.where(labels == 1, 0, (1 - labels) * scores), axis=-1)
    return per_example(jnp.where(known, jnp.maximum(0, 1 + wrong - right), jnp.nan))


def log_odds_losses(
    logits: Float[Array, "*dims"], labels: Float[Array, "*dims"]
) -> tuple[Float[Array, "*dims"], Bool[Array, "*dims"]]:
    """`-log p` of each label, 0 or 1 or a probability of "yes", and which labels are any.

    Logits may be infinite: what is certain and right costs 0, and not 0 times infinity.
    """
    yes = jnp.where(labels == 0, 0, labels * jax.nn.softplus(-logits))
    no = jnp.where(labels == 1, 0, (1 - labels) * jax.nn.softplus(logits))
    return yes + no, (labels >= -SLACK) & (labels <= 1 + SLACK)


@jax.custom_jvp
def _negative_log_share(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`-log softmax(logits)[label]`, (...) of logits (..., C).

    Left to itself, JAX scatters the gradient of picking the label's logit into an array of zeros as
    large as the logits, and adds that: with 10,000 classes two passes over memory more. The rule
    below is one: `softmax - one_hot`.
    """
    return _share(logits, labels)[0]


def _share(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss, and the logarithm of what the logits' exponentials sum to."""
    total = jax.nn.logsumexp(logits, axis=-1)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")[..., 0]
    return total - own, total


@_negative_log_share.defjvp
def _negative_log_share_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    logits, labels = primals
    losses, total = _share(logits, labels)
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    own = (classes == labels[..., None]).astype(logits.dtype)
    slope = jnp.exp(logits - total[..., None]) - own
    return losses, jnp.sum(slope * tangents[0], axis=-1)


def _class_numbers(
    name: str,
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims"],
) -> tuple[
    Float[Array, "*batch_dims classes"], Int[Array, "*batch_dims"], Bool[Array, "*batch_dims"]
]:
    """Logits widened, labels as int32, and which of those are classes."""
    logits, labels = widened(logits), jnp.asarray(labels)
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    if logits.ndim < 2 or labels.shape != logits.shape[:-1] or not integers:
        raise InputError(
            f"{name} expects logits (B, ..., C) and integer labels (B, ...); got logits "
            f"{kind(logits)} and labels {kind(labels)}. For one-hot labels or probabilities "
            f"use categorical_cross_entropy, for one logit an example binary_cross_entropy"
        )
    _check_several(name, logits)
    # Eight-bit labels, as image sets have them, cannot hold an index beyond 255.
    labels = labels.astype(jnp.int32)
    return logits, labels, (labels >= 0) & (labels < logits.shape[-1])


def _class_shares(
    name: str,
    logits: Float[ArrayLike, "*_batch_dims_classes"],
    labels: Shaped[ArrayLike, "*_batch_dims_classes"],
) -> tuple[
    Float[Array, "*batch_dims classes"],
    Float[Array, "*batch_dims classes"],
    Bool[Array, "*batch_dims"],
]:
    """Logits widened, the classes' probabilities in their type, and which rows of those are any."""
    logits, labels = widened(logits), jnp.asarray(labels)
    if logits.ndim < 2 or labels.shape != logits.shape:
        raise InputError(
            f"{name} expects logits and labels of one shape (B, ..., C); got logits "
            f"{kind(logits)} and labels {kind(labels)}. For class numbers use cross_entropy"
        )
    _check_several(name, logits)
    labels = labels.astype(logits.dtype)
    known = (labels >= -SLACK).all(axis=-1) & (jnp.abs(labels.sum(axis=-1) - 1) <= SLACK)
    return logits, labels, known


def _check_several(name: str, logits: jax.Array) -> None:
    if logits.shape[-1] == 1:
        raise InputError(
            f"{name} compares the logits of several classes, and there is one an example: outputs "
            f"{kind(logits)}. Give the model an output for each class, or use "
            "binary_cross_entropy, which takes one logit for yes or no"
        )


def _hinges(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    scores, labels = paired(scores, labels)
    known = (labels == 1) | (labels == 0) | (labels == -1)
    hinges = jnp.maximum(0, 1 - jnp.where(labels > 0, scores, -scores))
    return jnp.where(known, hinges, jnp.nan)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"label_smoothing must be in [0, 1); got {label_smoothing}")


def _check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise InputError(f"gamma must be at least 0; got {gamma}")
