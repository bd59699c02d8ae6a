from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data.augmentation import mask_tokens, masked_once
from jaxnet.errors import InputError, UsageError

V, SPECIAL, MASK = 50, (0, 1, 2, 3), 4
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(5, V, (2000, 32)).astype(np.int32)
TOKENS[:, 0], TOKENS[:, 20], TOKENS[:, 21:] = 2, 3, 0
TOKENS[::7, 5] = 1
ORDINARY = TOKENS > 4
HIDE = mask_tokens(MASK, V, SPECIAL)


compiled = functools.cache(jax.jit)


def hidden(hide=HIDE, seed: int = 0):
    batch = {"inputs": TOKENS, "labels": TOKENS, "mask": np.ones(len(TOKENS), bool)}
    out = compiled(hide)(jax.random.key(seed), batch)
    assert set(out) == {"inputs", "labels", "mask"}
    assert out["inputs"].dtype == out["labels"].dtype == jnp.int32
    return np.asarray(out["inputs"]), np.asarray(out["labels"])


@pytest.mark.slow
def test_special_tokens_are_never_chosen_and_others_stay():
    inputs, labels = hidden()
    chosen = labels != -1
    assert chosen.any() and not chosen[~ORDINARY].any()
    np.testing.assert_array_equal(inputs[~chosen], TOKENS[~chosen])
    np.testing.assert_array_equal(labels[chosen], TOKENS[chosen])
    assert not np.isin(inputs[chosen], SPECIAL).any()


def test_fifteen_percent_of_which_80_10_10():
    """Chi-square of the four fates of an ordinary token; 3 degrees of freedom."""
    inputs, labels = hidden()
    chosen = labels != -1
    masked = chosen & (inputs == MASK)
    stays = chosen & (inputs == TOKENS)
    observed = np.array(
        [(ORDINARY & ~chosen).sum(), masked.sum(), stays.sum(), (chosen & ~masked & ~stays).sum()]
    )
    # A random token is the same one by chance, one time in 45.
    same = 1 / (V - 5)
    chances = np.array([0.85, 0.15 * 0.8, 0.15 * (0.1 + 0.1 * same), 0.15 * 0.1 * (1 - same)])
    expected = chances * ORDINARY.sum()
    assert observed.sum() == ORDINARY.sum()
    assert ((observed - expected) ** 2 / expected).sum() < 16.3  # beyond this once in a thousand


@pytest.mark.slow
def test_random_tokens_are_all_ordinary_ones_alike():
    inputs, labels = hidden(mask_tokens(MASK, V, SPECIAL, share=1.0, masked=0.0, random=1.0))
    counts = np.bincount(inputs[labels != -1], minlength=V)
    assert not counts[:5].any()
    expected = counts.sum() / (V - 5)
    assert ((counts[5:] - expected) ** 2 / expected).sum() < 78.7  # 44 degrees, once in a thousand


def test_each_key_hides_others():
    first, second = hidden(seed=0)[1] != -1, hidden(seed=1)[1] != -1
    both = (first & second)[ORDINARY].mean()
    assert both == pytest.approx(0.15**2, rel=0.15)


@pytest.mark.slow
def test_masks_for_evaluation_are_drawn_once():
    data, again = masked_once(TOKENS, HIDE, 3), masked_once(TOKENS, HIDE, 3)
    np.testing.assert_array_equal(data.inputs, again.inputs)
    np.testing.assert_array_equal(data.labels, again.labels)
    assert (masked_once(TOKENS, HIDE, 4).inputs != data.inputs).any()
    # Neither do two rows with the same text have the same tokens hidden.
    twice = masked_once(np.repeat(TOKENS[:1], len(TOKENS), axis=0), HIDE, 3)
    assert (twice.labels[0] != twice.labels[1]).any()
    np.testing.assert_array_equal(data.weights, (data.labels != -1).sum(axis=1))


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0},
        {"masked": 0.9, "random": 0.2},
        {"random": -0.1},
        {"special": (50,)},
        {"special": tuple(range(V))},
    ],
)
def test_impossible_options(options):
    with pytest.raises(UsageError, match="mask_tokens: expected"):
        mask_tokens(MASK, V, **options)


def test_images_are_no_tokens():
    batch = {"inputs": jnp.zeros((2, 4, 4, 1)), "labels": jnp.zeros(2, jnp.int32)}
    with pytest.raises(InputError, match="mask_tokens takes tokens"):
        HIDE(jax.random.key(0), batch)
