"""What all losses share: one shape, one type, one number an example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.errors import InputError


def paired(
    outputs: Shaped[ArrayLike, "*_batch_dims"], labels: Shaped[ArrayLike, "*_batch_dims"]
) -> tuple[Float[Array, " batch *dims"], Float[Array, " batch *dims"]]:
    """Outputs and labels in one shape and one type, float32 at least.

    Outputs (B, 1) against labels (B,) are the same numbers, one an example: left to broadcasting
    they would be compared all with all.

    Raises:
        InputError: the shapes do not fit.
    """
    outputs, labels = widened(outputs), jnp.asarray(labels)
    if outputs.shape == (*labels.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != labels.shape or outputs.ndim == 0:
        raise InputError(
            f"outputs and labels must have one shape (B, ...); got outputs {kind(outputs)} and "
            f"labels {kind(labels)}"
        )
    return outputs, labels.astype(outputs.dtype)


def widened(values: Shaped[ArrayLike, "*dims"]) -> Float[Array, "*dims"]:
    """The values in float64 where they are, in float32 from any other type."""
    values = jnp.asarray(values)
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def per_example(losses: Float[Array, " batch *_dims"]) -> Float[Array, " batch"]:
    """The mean over all axes but the first."""
    return jnp.mean(losses, axis=tuple(range(1, losses.ndim)))


def kind(array: jax.Array) -> str:
    """An array's type and shape, for messages."""
    return f"{array.dtype}{list(array.shape)}"
