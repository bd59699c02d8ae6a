"""Masked language modelling: hidden tokens, and what stood there as labels."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.augmentation.base import Augmentation, Batch, require
from jaxnet.errors import InputError
from jaxnet.losses import position_counts

IGNORED = -1


def mask_tokens(
    mask: int,
    vocab_size: int,
    special: Sequence[int] = (0,),
    share: float = 0.15,
    masked: float = 0.8,
    random: float = 0.1,
) -> Augmentation:
    """Hide tokens as BERT's pre-training does (Devlin et al. 2019, section 3.1, task 1).

    Each token is chosen with the chance `share`. Of those chosen 80 % become the mask, 10 % a
    random token and 10 % stay. The labels are the tokens that stood there where one was chosen, and
    -1 elsewhere, for `losses.masked` and `metrics.masked`. Sampled again at each step, as in Liu et
    al. (2019), "RoBERTa", section 4.1.

    It takes batches with `inputs` (B, T) and `labels` (B, T), both int32; what the labels were
    doesn't matter.

    Args:
        mask: the token that hides another.
        vocab_size: how many tokens there are.
        special: tokens that are never chosen, and none is turned into: padding, beginning and end.
            The mask is one of them in any case.
        share: the chance of a token to be chosen.
        masked: of those chosen, how many become the mask.
        random: of those chosen, how many become a random token; the others stay.

    Raises:
        UsageError: a share is impossible, a token is outside the vocabulary, or all are special.
        InputError: (when it is compiled) inputs and labels aren't integers of one shape (B, T).

    Example:
        >>> hide = mask_tokens(mask=4, vocab_size=100, special=(0, 1, 2, 3), share=0.5)
        >>> tokens = jnp.array([[2, 31, 32, 33, 34, 35, 3, 0]])
        >>> hidden = jax.jit(hide)(jax.random.key(0), {"inputs": tokens, "labels": tokens})
        >>> hidden["inputs"].tolist()
        [[2, 4, 4, 4, 4, 35, 3, 0]]
        >>> hidden["labels"].tolist()
        [[-1, 31, 32, 33, 34, -1, -1, -1]]
    """
    require(0 < share <= 1, "mask_tokens", "a share in (0, 1]", share)
    require(min(masked, random) >= 0, "mask_tokens", "shares of at least 0", (masked, random))
    require(masked + random <= 1 + 1e-9, "mask_tokens", "shares up to 1", masked + random)
    never = sorted({*special, mask})
    require(never[0] >= 0 and never[-1] < vocab_size, "mask_tokens", "known tokens", never)
    ordinary = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), never)
    require(len(ordinary) > 0, "mask_tokens", "tokens that aren't special", "none")

    def augmentation(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        tokens, labels = batch["inputs"], batch["labels"]
        if tokens.ndim != 2 or tokens.dtype != jnp.int32 or labels.shape != tokens.shape:
            raise InputError(
                "mask_tokens takes tokens (batch, time) and labels of the same shape, int32; got "
                f"{tokens.dtype}{list(tokens.shape)} and {labels.dtype}{list(labels.shape)}"
            )
        choice, fate, other = jax.random.split(key, 3)
        open_ = jnp.isin(tokens, jnp.asarray(never, tokens.dtype), invert=True)
        chosen = (jax.random.uniform(choice, tokens.shape) < share) & open_
        draw = jax.random.uniform(fate, tokens.shape)
        strangers = jnp.asarray(ordinary)[jax.random.randint(other, tokens.shape, 0, len(ordinary))]
        changed = jnp.where(draw < masked, mask, tokens)
        changed = jnp.where((draw >= masked) & (draw < masked + random), strangers, changed)
        return {
            **batch,
            "inputs": jnp.where(chosen, changed, tokens),
            "labels": jnp.where(chosen, tokens, IGNORED).astype(labels.dtype),
        }

    return augmentation


def masked_once(
    tokens: np.ndarray, hide: Augmentation, seed: int = 0, name: str = "text"
) -> Arrays:
    """Tokens hidden once and for all, to evaluate with: always the same ones.

    Examples are weighted by how many tokens of each are hidden, so that each token counts alike.

    Args:
        tokens: (n, T) int32.
        hide: from `mask_tokens`.
        seed: of what is drawn.
        name: what messages call the data.

    Example:
        >>> hide = mask_tokens(mask=4, vocab_size=100)
        >>> tokens = np.arange(20, 40, dtype=np.int32).reshape(2, 10)
        >>> data = masked_once(tokens, hide)
        >>> bool((data.inputs == masked_once(tokens, hide).inputs).all())
        True
    """
    original = jnp.asarray(tokens, jnp.int32)
    hidden = hide(jax.random.key(seed), {"inputs": original, "labels": original})
    labels = np.asarray(hidden["labels"])
    return Arrays(np.asarray(hidden["inputs"]), labels, position_counts(labels), name=name)
