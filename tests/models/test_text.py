from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxnet.models.text import _max, _mean

from jaxnet import Bundle
from jaxnet.errors import InputError, UsageError
from jaxnet.models import RecurrentClassifier
from tests.networks import applied, drawn

TOKENS = np.array([[5, 2, 9, 4, 1], [7, 3, 0, 0, 0], [6, 0, 0, 0, 0]], np.int32)


def made(**options):
    model = RecurrentClassifier(12, 3, embedding=5, features=4, **options)
    return model, drawn(model, TOKENS), partial(applied, model)


@pytest.mark.parametrize(
    ("cell", "pool"),
    [
        ("rnn", "max"),
        pytest.param("lstm", "last", marks=pytest.mark.slow),
        pytest.param("lstm", "max", marks=pytest.mark.slow),
        pytest.param("gru", "mean", marks=pytest.mark.slow),
    ],
)
def test_padding_changes_nothing(cell, pool):
    _, variables, apply = made(cell=cell, pool=pool, bidirectional=True)
    together = apply(variables, TOKENS)
    assert together.shape == (3, 3)
    alone = apply(variables, TOKENS[1:2, :2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [_max, _mean])
def test_pooling_sees_real_steps_alone(pool):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 4, 2)) - 3).astype(np.float32)
    mask = np.asarray([[True] * 4, [True, True, False, False], [False] * 4])[..., None]

    @jax.jit
    def both(x):
        return pool(x, mask), jax.grad(lambda x: pool(x, mask).sum())(x)

    pooled, gradient = jax.device_get(both(x))
    reduced = np.max if pool is _max else np.mean
    np.testing.assert_allclose(pooled[0], reduced(x[0], axis=0), rtol=1e-6)
    np.testing.assert_allclose(pooled[1], reduced(x[1, :2], axis=0), rtol=1e-6)
    np.testing.assert_array_equal(pooled[2], 0)  # a text without a token
    assert np.isfinite(gradient).all() and not gradient[1, 2:].any()


@pytest.mark.slow
def test_a_mask_may_be_given():
    _, variables, apply = made(cell="rnn", pool="max")
    mask = TOKENS != 0
    other = apply(variables, np.where(mask, TOKENS, 8), mask)
    np.testing.assert_allclose(apply(variables, TOKENS), other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    _, variables, apply = made(bidirectional=True)
    params = variables["params"]
    lstm = torch.nn.LSTM(5, 4, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for suffix, name in (("", "forward_0"), ("_reverse", "backward_0")):
            one = params["LSTM_0"][name]
            getattr(lstm, f"weight_ih_l0{suffix}").copy_(_tensor(torch, one["kernel"].T))
            getattr(lstm, f"weight_hh_l0{suffix}").copy_(_tensor(torch, one["recurrent_kernel"].T))
            getattr(lstm, f"bias_ih_l0{suffix}").copy_(_tensor(torch, one["bias"]))
            getattr(lstm, f"bias_hh_l0{suffix}").zero_()
        table = _tensor(torch, params["Embed_0"]["embedding"])
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            table[torch.from_numpy(TOKENS).long()], [5, 2, 1], batch_first=True
        )
        hidden = lstm(packed)[1][0]
        last = torch.cat([hidden[0], hidden[1]], dim=1)
        dense = params["Dense_0"]
        expected = last @ _tensor(torch, dense["kernel"]) + _tensor(torch, dense["bias"])
    np.testing.assert_allclose(apply(variables, TOKENS), expected.numpy(), rtol=1e-4, atol=1e-5)


def _tensor(torch, array):
    return torch.from_numpy(np.array(array))


@pytest.mark.slow
def test_dropout_acts_in_training_alone():
    model, variables, apply = made(cell="rnn", dropout=0.5, num_layers=2)
    one, other = (
        applied(model, variables, TOKENS, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (1, 2)
    )
    assert not np.allclose(one, other)
    plain = RecurrentClassifier(12, 3, embedding=5, features=4, num_layers=2, cell="rnn")
    expected = applied(plain, variables, TOKENS)
    np.testing.assert_allclose(apply(variables, TOKENS), expected, rtol=1e-6)


def test_survives_a_bundle(tmp_path):
    model, variables, apply = made(cell="rnn", pool="max")
    like = jax.ShapeDtypeStruct((5,), jnp.int32)
    Bundle(model, jax.device_get(variables), like).save(tmp_path)
    bundle = Bundle.load(tmp_path)
    expected = apply(variables, TOKENS)
    np.testing.assert_allclose(bundle.predict(TOKENS), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="tokens from 0 to 11"):
        bundle.predict(TOKENS + 5)


def test_names_that_are_refused():
    with pytest.raises(UsageError, match="unknown cell 'ltsm'; did you mean 'lstm'"):
        made(cell="ltsm")
    with pytest.raises(UsageError, match="unknown pool 'sum'"):
        made(pool="sum")
