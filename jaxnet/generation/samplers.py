"""What may come next: functions from logits to logits, which `generate` applies in turn.

A token that is ruled out has the logit -inf. The functions are values: equal ones are one compiled
program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnet.errors import UsageError

Filter = Callable[[jax.Array], jax.Array]
"""`(batch, vocab_size)` float32 logits to others of that shape; hashable."""


# A float32 times 1e30 is finite, where it is below 1e8, as all logits are.
_COLDEST = 1e-30
NO_TOKEN = -(2**31)
"""What `draw` gives for a row of logits with a NaN, from which nothing can be drawn."""


def greedy(logits: jax.Array) -> jax.Array:
    """Rule out all but the most probable token, the first one of several.

    Example:
        >>> print(greedy(jnp.array([[1.0, 3.0, 2.0]])))
        [[-inf   3. -inf]]
    """
    best = logits.argmax(axis=-1, keepdims=True)
    return jnp.where(jnp.arange(logits.shape[-1])[None] == best, logits, -jnp.inf)


def temperature(value: float) -> Filter:
    """Divide the logits: below 1 the probable becomes more probable, above 1 less; 0 is `greedy`.

    So is what is so near to 0 that the logits would become infinite, below 1e-30.

    Raises:
        UsageError: the value is negative or not finite.

    Example:
        >>> print(temperature(0.5)(jnp.array([[1.0, 3.0]])))
        [[2. 6.]]
    """
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"expected a temperature of at least 0, got {value}")
    return _Temperature(value) if value >= _COLDEST else greedy


def top_k(k: int) -> Filter:
    """Rule out all but the k most probable tokens (Fan et al. 2018, section 5.4).

    Raises:
        UsageError: k isn't a whole number of at least 1.

    Example:
        >>> print(top_k(2)(jnp.array([[1.0, 3.0, 2.0]])))
        [[-inf   3.   2.]]
    """
    if not isinstance(k, int) or k < 1:
        raise UsageError(f"expected top_k, a whole number of at least 1, got {k}")
    return _TopK(k)


def top_p(p: float) -> Filter:
    """Rule out all but the fewest tokens whose probabilities sum to p or more.

    Nucleus sampling (Holtzman et al. 2020, "The curious case of neural text degeneration", section
    3.1). What stands before it in the list of filters changes the probabilities.

    Raises:
        UsageError: p is outside (0, 1].

    Example:
        >>> print(top_p(0.7)(jnp.log(jnp.array([[0.125, 0.5, 0.25, 0.125]]))).round(2))
        [[ -inf -0.69 -1.39  -inf]]
    """
    if not 0 < p <= 1:
        raise UsageError(f"expected top_p in (0, 1], got {p}")
    return _TopP(p)


def chosen(
    temperature_: float = 1.0, top_k_: int | None = None, top_p_: float | None = None
) -> tuple[Filter, ...]:
    """The filters of a command line, where None leaves one out, in the order of `transformers`.

    Raises:
        UsageError: a value can't be.
    """
    filters = [temperature(temperature_)]
    if top_k_ is not None:
        filters.append(top_k(top_k_))
    if top_p_ is not None:
        filters.append(top_p(top_p_))
    return tuple(filters)


@dataclass(frozen=True)
class _Temperature:
    value: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        return logits / self.value


@dataclass(frozen=True)
class _TopK:
    k: int

    def __call__(self, logits: jax.Array) -> jax.Array:
        if self.k >= logits.shape[-1]:
            return logits
        _, best = jax.lax.top_k(logits, self.k)
        return _only(logits, best, jnp.ones(best.shape, bool))


@dataclass(frozen=True)
class _TopP:
    p: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        if self.p == 1:
            return logits
        order = jnp.argsort(logits, axis=-1, descending=True)
        shares = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares
        return _only(logits, order, before < self.p)


def _only(logits: jax.Array, places: jax.Array, kept: jax.Array) -> jax.Array:
    """The logits at those `places` (batch, n) where `kept` is True."""
    none = jnp.zeros(logits.shape, bool)
    mask = jnp.put_along_axis(none, places, kept, axis=-1, inplace=False)
    return jnp.where(mask, logits, -jnp.inf)


def draw(logits: jax.Array, filters: Sequence[Filter], keys: jax.Array) -> jax.Array:
    """One token (batch,) int32 for each row of logits, drawn with the row's own key (batch,).

    It is `NO_TOKEN` where a logit is NaN.
    """
    logits = logits.astype(jnp.float32)
    unknown = jnp.isnan(logits).any(axis=-1)
    for one in filters:
        logits = one(logits)
    if greedy in filters:  # nothing is left to chance
        tokens = logits.argmax(axis=-1)
    else:
        tokens = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.where(unknown, NO_TOKEN, tokens.astype(jnp.int32))
