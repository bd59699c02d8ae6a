"""Negative log-likelihoods and divergences, summed over an example: nats an image, not a pixel."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.losses.classification import log_odds_losses
from jaxnet.losses.shapes import paired, widened


def bernoulli(
    logits: Float[ArrayLike, " batch *_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> Float[Array, " batch"]:
    """`-log p` of yes-or-no values, summed over an example's, in nats.

    Unlike `binary_cross_entropy`, which is the mean. Of values between 0 and 1 it is the mean over
    what they are the probabilities of (and so never 0, as no such value has a probability). A value
    outside of 0 to 1 makes the loss NaN.

    Args:
        logits: (B, ...) log-odds of "yes"; a last axis of size 1 more than `labels` has is dropped.
        labels: (B, ...) 0 or 1, or probabilities of "yes".

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> print(bernoulli(jnp.zeros((1, 28, 28)), jnp.ones((1, 28, 28))).round(2))  # 784 log 2
        [543.43]
    """
    losses, known = log_odds_losses(*paired(logits, labels))
    losses = jnp.where(known, losses, jnp.nan)
    return jnp.sum(losses, axis=tuple(range(1, losses.ndim)))


def normal_divergence(
    mean: Float[ArrayLike, "batch latent"], log_variance: Float[ArrayLike, "batch latent"]
) -> Float[Array, " batch"]:
    """How far independent normal distributions are from the standard one: their KL divergence.

    `1/2 sum (mean^2 + variance - log variance - 1)`, in nats (Kingma and Welling 2014, appendix B).

    Args:
        mean: (B, latent).
        log_variance: likewise.

    Example:
        >>> print(normal_divergence(jnp.array([[0.0, 3.0]]), jnp.zeros((1, 2))))
        [4.5]
    """
    mean, log_variance = widened(mean), widened(log_variance)
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(log_variance) - log_variance, axis=1)
