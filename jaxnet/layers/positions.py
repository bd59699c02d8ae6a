"""Where in a sequence a token stands: told by sines, by a learned table, or by turning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxnet.errors import InputError
from jaxnet.layers.dense import add_bias, widened


def token_positions(
    mask: Bool[Array, "batch time"], seen: Int[Array, " batch"] | None = None
) -> Int[Array, "batch time"]:
    """The position of each token, counted without the padding, wherever that stands.

    Args:
        mask: False where a token is padding.
        seen: how many tokens came before, in earlier calls; None for none.

    Returns:
        int32: 0, 1, 2, ... for the real tokens of a row, and -1 for padding.

    Example:
        >>> token_positions(jnp.array([[False, True, True]]), jnp.array([5])).tolist()
        [[-1, 5, 6]]
    """
    counted = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    if seen is not None:
        counted = counted + seen[:, None]
    return jnp.where(mask, counted, -1)


def sinusoidal(
    positions: Int[Array, "*places"], features: int, base: float = 10_000.0
) -> Float[Array, "*places features"]:
    """Sines and cosines of positions (Vaswani et al. 2017, section 3.5).

        y[2 i]     = sin(position / base ^ (2 i / features))
        y[2 i + 1] = cos(position / base ^ (2 i / features))

    Args:
        positions: integers of any shape.
        features: how many, an even number.
        base: the wavelengths grow from 2 pi to this times 2 pi.

    Raises:
        InputError: `features` is odd.

    Example:
        >>> [round(float(wave), 2) for wave in sinusoidal(jnp.array(1), 4)]
        [0.84, 0.54, 0.01, 1.0]
    """
    angles = _angles(positions, features, base)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(*positions.shape, features)


def rotary(
    x: Float[Array, "batch heads time features"],
    positions: Int[Array, "#batch time"],
    base: float = 10_000.0,
) -> Float[Array, "batch heads time features"]:
    """Queries or keys turned by angles that grow with their positions (Su et al. 2021, section 3).

    Feature i and feature i + features / 2 are a point of a plane, which is turned by
    `position / base ^ (2 i / features)`. The product of a query and a key then depends on their
    distance alone. Llama pairs the features like this; the paper pairs neighbours, which is the
    same but for the order of the features.

    Args:
        x: queries or keys.
        positions: those of the tokens, the same for all rows or each row's own.
        base: see `sinusoidal`; Llama 3 has 500,000.

    Raises:
        InputError: the number of features is odd.

    Example:
        >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
        >>> [round(float(y), 2) for y in rotary(x, jnp.array([[1]])).ravel()]
        [0.54, 0.84]
    """
    angles = _angles(positions, x.shape[-1], base)[:, None]
    sin, cos = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _angles(positions: jax.Array, features: int, base: float) -> jax.Array:
    """float32 (..., features / 2)."""
    if features % 2:
        raise InputError(f"positions need an even number of features, got {features}")
    frequencies = base ** (-jnp.arange(0, features, 2, dtype=jnp.float32) / features)
    return positions[..., None].astype(jnp.float32) * _like_last(frequencies, positions.ndim + 1)


def _like_last(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


class LearnedPositions(nn.Module):
    """Adds to every token a vector that is learnt for its position (BERT, GPT-2, ViT).

    Parameters: `embedding` `(length, features)`.

    Args:
        length: how many positions there are: the longest sequence.
        embedding_init: the initializer of the table.

    Example:
        >>> layer, x = LearnedPositions(512), jnp.zeros((2, 10, 16))
        >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
        >>> y.shape, variables["params"]["embedding"].shape
        ((2, 10, 16), (512, 16))
    """

    length: int
    embedding_init: Callable[..., Any] = nn.initializers.normal(0.02)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time features"],
        positions: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time features"]:
        """`x` plus the vectors of its positions.

        Args:
            x: embedded tokens.
            positions: see `token_positions`; None for 0, 1, 2, ... in every row.

        Raises:
            InputError: the sequence is longer than there are positions.
        """
        check_length(x.shape[1], self.length, self.path)
        shape = (self.length, x.shape[-1])
        table = self.param("embedding", self.embedding_init, shape, self.param_dtype)
        table = widened(table.astype(x.dtype))
        rows = table[None, : x.shape[1]] if positions is None else table[jnp.maximum(positions, 0)]
        return add_bias(x, rows)


def check_length(time: int, length: int, path: tuple[str, ...] = ()) -> None:
    """Check that a sequence has no more tokens than there are positions.

    Raises:
        InputError: it has more.
    """
    if time > length:
        where = f"{'/'.join(path)}: " if path else ""
        raise InputError(
            f"{where}a sequence of {time} tokens is longer than the {length} positions that the "
            "network knows: cut the texts, or give the network more positions"
        )
