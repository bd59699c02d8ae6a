"""The loss of two towers that learn to find an item for a user among all items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxnet.errors import InputError
from jaxnet.losses.shapes import kind, widened


def in_batch_softmax(
    outputs: tuple[ArrayLike, ArrayLike],
    labels: Int[ArrayLike, " batch"],
    *,
    log_q: Float[ArrayLike, " items"] | None = None,
) -> Float[Array, " batch"]:
    """Softmax cross-entropy of each user's item against the other items of the batch, in nats.

    A softmax over all items is too much for a step, so the batch's items stand for them. Items
    come into a batch as often as people take them, which would teach to avoid what is popular.
    Yi et al. (2019), "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", section 3, correct for it: an item of frequency `q` has its score lowered by
    `log q`. The batch's sum of exponentials, divided by its size, is then unbiased for that over
    all items, and the scores learn `log p(item | user)`, up to a constant for each user.

    An item that is the user's own, in another row (an accidental hit), is no wrong answer: it is
    left out. So are rows of label -1 (padding), for others; their own loss is 0.

    Args:
        outputs: the users' vectors and the items' vectors, (B, width) both; row i belongs together.
        labels: (B,) the item's number, or -1 for a row that doesn't count.
        log_q: for each item the log of its share of the training examples (`log_frequencies`);
            None corrects nothing, which is right where all items come equally often.

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> users, items = jnp.zeros((4, 2)), jnp.ones((4, 2))
        >>> print(in_batch_softmax((users, items), jnp.array([5, 7, 5, -1])).round(4))
        [0.6931 1.0986 0.6931 0.    ]
    """
    users, items = map(widened, outputs)
    labels = jnp.asarray(labels)
    if users.ndim != 2 or users.shape != items.shape or labels.shape != users.shape[:1]:
        raise InputError(
            "in_batch_softmax expects vectors of users and of items, (B, width) both, and item "
            f"numbers (B,); got {kind(users)}, {kind(items)} and labels {kind(labels)}"
        )
    real, own = labels >= 0, jnp.eye(len(labels), dtype=bool)
    logits = users @ items.T
    if log_q is not None:
        chances = jnp.asarray(log_q, logits.dtype)[jnp.where(real, labels, 0)]
        logits = logits - chances[None, :]
    wrong = (labels[:, None] != labels[None, :]) & real[None, :]
    logits = jnp.where(own | wrong, logits, -jnp.inf)
    losses = jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)
    return jnp.where(real, losses, 0)


def log_frequencies(labels: np.ndarray, items: int) -> np.ndarray:
    """float32 (items,): the log of each item's share of `labels`, at least that of one example.

    Args:
        labels: (n,) item numbers of the training examples.
        items: how many items there are.

    Raises:
        InputError: a number is outside [0, items).

    Example:
        >>> log_frequencies(np.array([0, 0, 0, 2]), 3).round(3).tolist()
        [-0.2879999876022339, -1.3860000371932983, -1.3860000371932983]
    """
    labels = np.asarray(labels)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= items:
        got = f"{labels.min()} to {labels.max()}" if labels.size else "none"
        raise InputError(f"expected item numbers from 0 to {items - 1}, got {got}")
    counts = np.bincount(labels, minlength=items)
    return np.log(np.maximum(counts, 1) / labels.size).astype(np.float32)
