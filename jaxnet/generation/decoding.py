"""Sampling: prompts go in at once, then each token that was drawn goes in to draw the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.cache import enable_compilation_cache
from jaxnet.errors import InputError, UsageError
from jaxnet.generation.samplers import NO_TOKEN, Filter, draw, greedy
from jaxnet.training.programs import compiled

PyTree = Any
Step = Callable[[PyTree, jax.Array, jax.Array | None, PyTree], tuple[jax.Array, PyTree]]
"""`(variables, tokens, mask, cache) -> (logits, cache)`, a pure and hashable function.

`tokens` (batch, time) follow what the cache holds, logits are (batch, time, vocab_size). `mask` is
bool (batch, time), False where a prompt is padded on its left; None if nothing is. Every leaf of
the cache has the batch as its leading axis.
"""

# Programs that are kept, each for one model and one way of generating.
_KEPT = 64


class Generated(NamedTuple):
    """What was generated, on the host.

    Attributes:
        tokens: (batch, new_tokens) int32, without the prompt; after the end token there is padding.
        lengths: (batch,) how many tokens were generated, the end token included.
        scores: (batch,) float32, for beam search: the sum of the log-probabilities over
            `length ** length_penalty`; None for samples.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray | None = None

    def texts(self) -> list[np.ndarray]:
        """The tokens of each row, without padding."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths, strict=True)]


@dataclass(frozen=True)
class ModuleStep:
    """The step of a Linen module: a call of it, or of one of its methods.

    Attributes:
        module: takes `(tokens, mask, cache)`, and returns `(logits, cache)`.
        method: the name of the method; None for `__call__`.
    """

    module: nn.Module
    method: str | None = None

    def __call__(
        self, variables: PyTree, tokens: jax.Array, mask: jax.Array | None, cache: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """The logits of `tokens`, and the next cache."""
        return self.module.apply(variables, tokens, mask, cache, method=self.method)


def generate(
    model: nn.Module | Step,
    variables: PyTree,
    prompts: Sequence[Sequence[int] | np.ndarray] | np.ndarray,
    new_tokens: int,
    *,
    filters: Sequence[Filter] = (greedy,),
    end: int | None = None,
    seed: int = 0,
    cache: PyTree = None,
    pad: int = 0,
) -> Generated:
    """Go on with prompts, token by token.

    The whole generation is one compiled program, which is kept: a second call with the same model,
    options and shapes compiles nothing. It ends early when all rows have ended. A row's tokens
    don't depend on what else is in the batch, and with one `seed` a row draws the same again.

    Args:
        model: a Linen module with `init_cache(batch_size, length)` and a call as `ModuleStep` makes
            it, such as `models.RecurrentLM`; or a `Step`, which needs `cache`.
        variables: the weights: `{"params": ...}`.
        prompts: tokens, one sequence or row each. They may differ in length: shorter ones are
            padded on the left and masked.
        new_tokens: how many tokens are generated at most.
        filters: what may come next (`temperature`, `top_k`, `top_p`, `greedy`), applied in this
            order; what they leave is drawn by its probability. `()` draws from the model itself.
        end: the token after which a row is done.
        seed: of the draws.
        cache: what the first step goes on from, where it isn't `model.init_cache`: an encoder's
            outputs, say.
        pad: what fills up rows.

    Raises:
        InputError: a prompt is empty or no integers, holds a token outside of the vocabulary, or
            prompt and new tokens are longer than the model's positions; or the model gives NaN.
        UsageError: `new_tokens` is below 1, or there is no cache.

    Example:
        >>> from jaxnet.models import RecurrentLM
        >>> model = RecurrentLM(20, "rnn", embedding=4, features=4)
        >>> variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
        >>> generated = generate(model, variables, [[5, 6, 7], [8]], 10)
        >>> generated.tokens.shape, generated.lengths.tolist()
        ((2, 10), [10, 10])
    """
    tokens, mask = padded_prompts(model, prompts, new_tokens, cache, pad)
    program = _program(as_step(model), init_of(model, cache), new_tokens, tuple(filters), end, pad)
    made = program(variables, tokens, mask, cache, jax.random.key(seed))
    return generated(np.asarray(made), end)


@lru_cache(maxsize=_KEPT)
def _program(
    step: Step,
    init: Callable[[int, int], PyTree] | None,
    new_tokens: int,
    filters: tuple[Filter, ...],
    end: int | None,
    pad: int,
) -> Callable[..., jax.Array]:
    """`(variables, prompts, mask, cache, key) -> tokens`."""

    def run(
        variables: PyTree, prompts: jax.Array, mask: jax.Array | None, cache: PyTree, key: jax.Array
    ) -> jax.Array:
        batch, length = prompts.shape
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))

        def choose(
            i: jax.Array, logits: jax.Array, made: jax.Array, done: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            """The token at place `i`, all that were made, and whether each row has ended."""
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            token = jnp.where(done, pad, draw(logits[:, -1], filters, now))
            done = done if end is None else done | (token == end)
            return token, made.at[:, i].set(token), done

        def body(carry: Any) -> Any:
            i, token, made, done, cache = carry
            logits, cache = step(variables, token[:, None], None, cache)
            return i + 1, *choose(i, logits, made, done), cache

        def go_on(carry: Any) -> jax.Array:
            i, _, _, done, _ = carry
            return (i < new_tokens) & ~done.all()

        cache = cache if init is None else init(batch, length + new_tokens)
        logits, cache = step(variables, prompts, mask, cache)
        made = jnp.full((batch, new_tokens), pad, jnp.int32)
        first = choose(jnp.zeros((), jnp.int32), logits, made, jnp.zeros(batch, bool))
        start = (jnp.ones((), jnp.int32), *first, cache)
        _, _, made, _, _ = jax.lax.while_loop(go_on, body, start)
        return made

    return compiled(run)


def as_step(model: nn.Module | Step) -> Step:
    """The model's step."""
    return ModuleStep(model) if isinstance(model, nn.Module) else model


def init_of(model: Any, cache: PyTree) -> Callable[[int, int], PyTree] | None:
    """What makes the first cache, if it isn't given; equal models have equal ones."""
    return _Init(model) if cache is None else None


@dataclass(frozen=True)
class _Init:
    model: Any

    def __call__(self, batch_size: int, length: int) -> PyTree:
        return self.model.init_cache(batch_size, length)


def padded_prompts(
    model: nn.Module | Step, prompts: Any, new_tokens: int, cache: PyTree, pad: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The prompts (batch, time) int32 padded on the left, and their mask where it is needed.

    Arguments and errors are those of `generate`.
    """
    enable_compilation_cache()
    if new_tokens < 1:
        raise UsageError(f"expected new_tokens of at least 1, got {new_tokens}")
    rows = [np.asarray(prompt) for prompt in prompts]
    if not rows:
        raise InputError("expected at least one prompt, got none")
    for number, row in enumerate(rows):
        if row.ndim != 1 or not len(row) or row.dtype.kind not in "ui":
            got = "an empty one" if row.size == 0 else f"{row.dtype} {row.shape}"
            raise InputError(f"prompt {number}: expected integer tokens (n,), got {got}")
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), lengths.max()), pad, np.int32)
    for row, prompt in zip(tokens, rows, strict=True):
        row[len(row) - len(prompt) :] = prompt
    check = getattr(model, "check_inputs", None)
    if check is not None:
        check(tokens)
    if cache is None:
        init = getattr(model, "init_cache", None)
        if init is None:
            raise UsageError("a step without init_cache needs a cache: generate(..., cache=...)")
        # A model with positions refuses here what is longer than they are.
        jax.eval_shape(lambda: init(len(tokens), tokens.shape[1] + new_tokens))
    if (lengths == lengths[0]).all():
        return tokens, None
    return tokens, np.arange(tokens.shape[1])[None] >= (lengths.max() - lengths)[:, None]


def generated(tokens: np.ndarray, end: int | None, scores: np.ndarray | None = None) -> Generated:
    """The tokens with their lengths.

    Raises:
        InputError: the model's logits were NaN.
    """
    unknown = (tokens == NO_TOKEN).any(axis=1)
    if scores is not None:  # of no sequence that can be, it is the score -inf
        unknown = unknown | ~np.isfinite(scores)
    if unknown.any():
        raise InputError(
            f"the model gives NaN in place of logits for row {int(unknown.argmax())}, from which "
            "no token can be drawn: its weights aren't finite, or what it computes overflows. Look "
            "at the run that trained it"
        )
    lengths = np.full(len(tokens), tokens.shape[1])
    if end is not None:
        ended = tokens == end
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, lengths)
    return Generated(tokens, lengths, scores)
