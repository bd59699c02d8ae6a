from __future__ import annotations

import jax
import numpy as np

from jaxnet import Bundle
from jaxnet.models import MLP, TabularMLP
from tests.networks import applied, drawn

GROUPS = ((1, 4), (5, 10), (11, 17))
MODEL = TabularMLP(groups=GROUPS, embedding=4, hidden=(7,), num_classes=3, dropout=0.0)
RNG = np.random.default_rng(0)


def rows(n: int = 6) -> np.ndarray:
    """Numbers at 0, 4, 10 and 17, one-hot categories between them."""
    inputs = RNG.normal(size=(n, 18)).astype(np.float32)
    for start, stop in GROUPS:
        inputs[:, start:stop] = np.eye(stop - start)[RNG.integers(0, stop - start, n)]
    return inputs


def test_embeds_what_has_more_values_than_the_embedding_is_wide():
    inputs = rows()
    variables = drawn(MODEL, inputs)
    tables = {k: v["kernel"].shape for k, v in variables["params"].items() if "embed" in k}
    assert tables == {"embedding_1": (5, 4), "embedding_2": (6, 4)}
    params = variables["params"]
    looked_up = [
        np.asarray(params[f"embedding_{i}"]["kernel"])[inputs[:, a:b].argmax(axis=1)]
        for i, (a, b) in enumerate(GROUPS)
        if i > 0
    ]
    joined = [inputs[:, :5], looked_up[0], inputs[:, 10:11], looked_up[1], inputs[:, 17:]]
    mlp = MLP((7,), 3)
    expected = applied(mlp, {"params": params["mlp"]}, np.concatenate(joined, axis=1))
    np.testing.assert_allclose(applied(MODEL, variables, inputs), expected, rtol=1e-5, atol=1e-6)


def test_a_value_never_seen_has_the_embedding_zero():
    inputs = rows(1)
    inputs[:, 5:10] = 0
    variables = drawn(MODEL, inputs)
    other = jax.tree.map(np.zeros_like, variables["params"]["embedding_1"])
    without = {"params": {**variables["params"], "embedding_1": other}}
    np.testing.assert_array_equal(
        applied(MODEL, variables, inputs), applied(MODEL, without, inputs)
    )


def test_no_categories_leave_the_plain_mlp():
    inputs = rows()
    model = TabularMLP(hidden=(7,), num_classes=3)
    variables = drawn(model, inputs)
    expected = applied(MLP((7,), 3), {"params": variables["params"]["mlp"]}, inputs)
    np.testing.assert_array_equal(applied(model, variables, inputs), expected)


def test_survives_a_bundle(tmp_path):
    inputs = rows()
    variables = drawn(MODEL, inputs)
    like = jax.ShapeDtypeStruct((18,), np.float32)
    Bundle(MODEL, jax.device_get(variables), like).save(tmp_path)
    expected = applied(MODEL, variables, inputs)
    np.testing.assert_allclose(
        Bundle.load(tmp_path).predict(inputs), expected, rtol=1e-5, atol=1e-6
    )
