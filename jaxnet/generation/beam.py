"""Beam search: the most probable sequence, as far as a few candidates at a time let one see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import UsageError
from jaxnet.generation.decoding import (
    Generated,
    PyTree,
    Step,
    as_step,
    generated,
    init_of,
    padded_prompts,
)
from jaxnet.training.programs import compiled


class _Beams(NamedTuple):
    """The sequences at hand after `i` tokens; a place that is free has the score -inf.

    Attributes:
        i: int32.
        live: (batch, beams, new_tokens), those that go on, the best one first.
        live_scores: (batch, beams), the sums of their log-probabilities.
        done: (batch, beams, new_tokens), those that have ended, the best one first.
        done_scores: (batch, beams), as in `Generated`.
        rows: (batch, beams), from which of the earlier beams those in `live` come.
    """

    i: jax.Array
    live: jax.Array
    live_scores: jax.Array
    done: jax.Array
    done_scores: jax.Array
    rows: jax.Array


def beam_search(
    model: nn.Module | Step,
    variables: PyTree,
    prompts: Sequence[Sequence[int] | np.ndarray] | np.ndarray,
    new_tokens: int,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    end: int | None = None,
    cache: PyTree = None,
    pad: int = 0,
) -> Generated:
    """Go on with prompts by the most probable sequence that a beam search finds.

    A sequence's score is the sum of its tokens' log-probabilities over `length ** length_penalty`,
    its length counted without the prompt. Sequences that reach `new_tokens` count as ended. A row
    is done when no living sequence can still become better than the worst of `beams` ended ones
    (the `early_stopping="never"` of `transformers`).

    Args:
        model: as in `generate`, and so are those that are not named here.
        variables: see `generate`.
        prompts: see `generate`.
        new_tokens: see `generate`.
        beams: how many sequences are followed at a time; 1 is the greedy choice.
        length_penalty: above 0 long sequences are favoured, 0 is the plain probability.
        end: see `generate`.
        cache: see `generate`.
        pad: see `generate`.

    Raises:
        InputError: see `generate`.
        UsageError: `beams` or `new_tokens` is below 1.
    """
    if beams < 1:
        raise UsageError(f"expected beams of at least 1, got {beams}")
    tokens, mask = padded_prompts(model, prompts, new_tokens, cache, pad)
    init = init_of(model, cache)
    program = _program(as_step(model), init, new_tokens, beams, float(length_penalty), end, pad)
    best, scores = program(variables, tokens, mask, cache)
    return generated(np.asarray(best), end, np.asarray(scores))


@lru_cache(maxsize=64)
def _program(
    step: Step,
    init: Callable[[int, int], PyTree] | None,
    new_tokens: int,
    beams: int,
    penalty: float,
    end: int | None,
    pad: int,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`(variables, prompts, mask, cache) -> (tokens, scores)` of each row's best sequence."""

    def select(state: _Beams, logits: jax.Array) -> _Beams:
        """The state with one more token on each beam; logits (batch, beams, vocab_size)."""
        vocab_size, at = logits.shape[-1], state.i
        scores = jax.nn.log_softmax(logits.astype(jnp.float32)) + state.live_scores[..., None]
        # Twice as many as there are beams: were half of them to end, there still are enough.
        count = min(2 * beams, beams * vocab_size)
        scores, places = jax.lax.top_k(scores.reshape(len(scores), -1), count)
        tokens, rows = (places % vocab_size).astype(jnp.int32), places // vocab_size
        grown = _rows(state.live, rows).at[:, :, at].set(tokens)
        ended = jnp.full(tokens.shape, at == new_tokens - 1)
        if end is not None:
            ended = ended | (tokens == end)
        # Only the best ones may end: the others are there to go on with.
        ending = ended & (jnp.arange(count)[None] < beams)
        worth = jnp.where(ending, scores / (at + 1).astype(jnp.float32) ** penalty, -jnp.inf)
        done_scores, best = jax.lax.top_k(
            jnp.concatenate([state.done_scores, worth], axis=1), beams
        )
        done = _rows(jnp.concatenate([state.done, grown], axis=1), best)
        live_scores, best = jax.lax.top_k(jnp.where(ended, -jnp.inf, scores), beams)
        return _Beams(at + 1, _rows(grown, best), live_scores, done, done_scores, _rows(rows, best))

    def go_on(carry: tuple[_Beams, PyTree]) -> jax.Array:
        state, _ = carry
        length = new_tokens if penalty > 0 else state.i
        bound = state.live_scores[:, 0] / jnp.asarray(length, jnp.float32) ** penalty
        return (state.i < new_tokens) & (bound > state.done_scores[:, -1]).any()

    def run(
        variables: PyTree, prompts: jax.Array, mask: jax.Array | None, cache: PyTree
    ) -> tuple[jax.Array, jax.Array]:
        batch, length = prompts.shape

        def body(carry: tuple[_Beams, PyTree]) -> tuple[_Beams, PyTree]:
            state, cache = carry
            from_rows = (jnp.arange(batch)[:, None] * beams + state.rows).reshape(-1)
            cache = jax.tree.map(lambda leaf: leaf[from_rows], cache)
            last = jax.lax.dynamic_index_in_dim(state.live, state.i - 1, axis=2, keepdims=False)
            logits, cache = step(variables, last.reshape(-1, 1), None, cache)
            return select(state, logits.reshape(batch, beams, -1)), cache

        cache = cache if init is None else init(batch, length + new_tokens)
        logits, cache = step(variables, prompts, mask, cache)
        # The prompts are read once for all beams, of which at first there is one.
        cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache)
        none = jnp.full((batch, beams), -jnp.inf)
        empty = jnp.full((batch, beams, new_tokens), pad, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        rows = jnp.zeros((batch, beams), jnp.int32)
        state = _Beams(zero, empty, none.at[:, 0].set(0.0), empty, none, rows)
        logits = jnp.repeat(logits[:, -1:], beams, axis=1)
        state, _ = jax.lax.while_loop(go_on, body, (select(state, logits), cache))
        return state.done[:, 0], state.done_scores[:, 0]

    return compiled(run)


def _rows(array: Any, places: jax.Array) -> jax.Array:
    """The entries of (batch, n, ...) at `places` (batch, m), row by row."""
    return jax.vmap(lambda one, at: one[at])(array, places)
