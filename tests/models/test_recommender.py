from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.errors import InputError
from jaxnet.models import Ranker, TwoTower
from tests.networks import applied, drawn

RNG = np.random.default_rng(0)
MODEL = TwoTower((7, 3), (5,), embedding=4, hidden=(6,), width=2)


def rows(n: int = 6) -> np.ndarray:
    return np.stack([RNG.integers(0, size, n) for size in (7, 3, 5)], axis=1).astype(np.int32)


INPUTS = rows()
VARIABLES = jax.tree.map(
    lambda leaf: RNG.standard_normal(leaf.shape).astype(np.float32),
    jax.eval_shape(MODEL.init, jax.random.key(0), INPUTS),
)
APPLY = jax.jit(MODEL.apply)


def test_towers_by_hand():
    inputs, variables = INPUTS, VARIABLES
    users, items = APPLY(variables, inputs)
    for ours, name, columns in ((users, "users", [0, 1]), (items, "items", [2])):
        tower = variables["params"][name]
        x = np.concatenate(
            [
                tower["embeddings"][f"column_{place}"]["embedding"][inputs[:, column]]
                for place, column in enumerate(columns)
            ],
            axis=1,
        )
        first, last = tower["mlp"]["Dense_0"], tower["mlp"]["Dense_1"]
        x = np.maximum(x @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
        np.testing.assert_allclose(ours, x, rtol=1e-5, atol=1e-6)


def test_towers_do_not_see_each_other():
    inputs, variables = INPUTS, VARIABLES
    other = inputs.copy()
    other[:, 2] = (inputs[:, 2] + 1) % 5
    before, after = APPLY(variables, inputs), APPLY(variables, other)
    np.testing.assert_array_equal(before[0], after[0])
    assert (np.asarray(before[1]) != np.asarray(after[1])).any(axis=1).all()


def test_normalized_scores_are_cosines_over_the_temperature():
    inputs = rows()
    model = TwoTower((7, 3), (5,), normalized=True, temperature=0.1)
    users, items = applied(model, drawn(model, inputs), inputs)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 10, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_dropout_in_training_only():
    model, inputs = Ranker((7, 3, 5), dropout=0.5), rows()
    draws = [
        applied(model, drawn(model, inputs), inputs, train=True, rngs={"dropout": key})
        for key in (jax.random.key(1), jax.random.key(2))
    ]
    assert draws[0].shape == (6, 1)
    assert (np.asarray(draws[0]) != np.asarray(draws[1])).any()


@pytest.mark.parametrize("model", [MODEL, Ranker((7, 3, 5))])
def test_ids_outside_the_table(model):
    bad = rows()
    bad[4, 1] = 3
    with pytest.raises(InputError, match="row 4, column 1: expected an id from 0 to 2, got 3"):
        model.check_inputs(bad)
    with pytest.raises(InputError, match="a column for each table"):
        model.check_inputs(bad[:, :2])


def test_survives_a_bundle(tmp_path):
    inputs, variables = INPUTS, VARIABLES
    like = jax.ShapeDtypeStruct((3,), np.int32)
    Bundle(MODEL, variables, like).save(tmp_path)
    loaded = Bundle.load(tmp_path)
    for ours, expected in zip(loaded.predict(inputs), APPLY(variables, inputs), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="expected an id"):
        loaded.predict(inputs + 7)
