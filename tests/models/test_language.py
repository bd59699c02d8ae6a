from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError, UsageError
from jaxnet.models import RecurrentLM
from tests.networks import applied, drawn

TOKENS = np.random.default_rng(0).integers(1, 11, (3, 7)).astype(np.int32)
SLOW = [pytest.param(cell, marks=pytest.mark.slow) for cell in ("lstm", "gru")]
CELLS = ["rnn", *SLOW]


def made(num_layers=2, **options):
    model = RecurrentLM(11, embedding=6, features=6, num_layers=num_layers, **options)
    return model, drawn(model, TOKENS), partial(applied, model)


@pytest.mark.parametrize("cell", CELLS)
def test_a_later_token_never_changes_an_earlier_output(cell):
    model, variables, _ = made(cell=cell, num_layers=1)
    tokens = jnp.asarray(np.arange(7, dtype=np.int32)[None])

    def logits(table):
        params = {**variables["params"], "Embed_0": {"embedding": table}}
        return model.apply({"params": params}, tokens)[0, 4].sum()

    gradient = jax.jit(jax.grad(logits))(variables["params"]["Embed_0"]["embedding"])
    reached = np.flatnonzero(np.abs(gradient).sum(axis=1))
    assert reached.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("cell", "tie"),
    [
        ("lstm", False),
        pytest.param("rnn", True, marks=pytest.mark.slow),
        pytest.param("gru", False, marks=pytest.mark.slow),
    ],
)
def test_in_pieces_as_at_once(cell, tie):
    model, variables, apply = made(cell=cell, tie=tie)
    whole = apply(variables, TOKENS)
    cache = model.init_cache(3, 7)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))
    parts = []
    for piece in np.split(TOKENS, [3, 4], axis=1):
        part, cache = apply(variables, piece, cache=cache)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-6)
    assert cache["seen"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("cell", CELLS)
def test_padding_on_the_left_changes_nothing(cell):
    model, variables, apply = made(cell=cell, num_layers=1)
    lengths = np.array([7, 4, 1])
    mask = np.arange(7)[None] >= 7 - lengths[:, None]
    padded, cache = apply(variables, np.where(mask, TOKENS, 0), mask, model.init_cache(3, 7))
    assert cache["seen"].tolist() == lengths.tolist()
    alone = apply(variables, TOKENS[1:2, -4:])
    np.testing.assert_allclose(np.asarray(padded)[1:2, -4:], alone, rtol=1e-5, atol=1e-6)


def test_tying_leaves_out_the_last_kernel():
    tied, free = (made(1, tie=tie, cell="rnn")[1] for tie in (True, False))
    assert "Dense_0" not in tied["params"]
    assert free["params"]["Dense_0"]["kernel"].shape == (6, 11)
    with pytest.raises(UsageError, match="got 5 and 6 features"):
        RecurrentLM(11, embedding=5, features=6, tie=True).init(jax.random.key(0), TOKENS)


def test_tokens_outside_the_vocabulary():
    with pytest.raises(InputError, match="tokens from 0 to 10"):
        RecurrentLM(11).check_inputs(TOKENS + 5)
