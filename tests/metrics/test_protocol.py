"""What holds for every metric: it is a sum over examples, however they are cut and padded."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics

N, BATCH = 48, 16
RNG = np.random.default_rng(0)
MANY = RNG.normal(size=(N, 5)).astype(np.float32)
ONE = RNG.normal(size=N).astype(np.float32)
CLASSES = RNG.integers(0, 5, N).astype(np.int32)
YES = RNG.integers(0, 2, N).astype(np.int32)
SEVERAL = RNG.integers(0, 2, (N, 5)).astype(np.int32)
TARGETS = (ONE + 0.1 * RNG.normal(size=N)).astype(np.float32)
WEIGHTS = RNG.uniform(0.1, 1, N).astype(np.float32)

REGRESSION = (
    "mean_squared_error",
    "mean_absolute_error",
    "root_mean_squared_error",
    "r2",
    "explained_variance",
)


def form(name: str) -> str:
    if name in REGRESSION:
        return "number"
    return "several" if name.startswith(("multilabel", "exact")) else "class"


DATA = {
    "class": (MANY, CLASSES),
    "yes": (ONE, YES),
    "several": (MANY, SEVERAL),
    "number": (ONE, TARGETS),
}
BINARY = ("precision", "f1", "balanced_accuracy", "cohen_kappa", "roc_auc", "average_precision")
ALL = {
    **{name: (metric, form(name)) for name, metric in metrics.METRICS.items()},
    **{f"{name} of yes": (metrics.METRICS[name], "yes") for name in BINARY},
    "roc_auc of several": (metrics.roc_auc, "several"),
    "f1 of each": (partial(metrics.f1, average=None), "class"),
    "confusion_matrix": (metrics.confusion_matrix(5), "class"),
}


@jax.jit
def measure(data: dict, weights: jax.Array) -> dict:
    return {name: metric(*data[kind], weights) for name, (metric, kind) in ALL.items()}


def cut(rows: slice, data: dict = DATA) -> dict:
    return jax.tree.map(lambda column: column[rows], data)


def values(sums: dict) -> dict:
    return {name: score.compute() for name, score in sums.items()}


def assert_same(got: dict, expected: dict, rtol: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert np.isfinite(expected[name]).all(), name
        np.testing.assert_allclose(value, expected[name], rtol=rtol, err_msg=name)


@pytest.fixture(scope="module")
def parts() -> list[dict]:
    rows = [slice(i, i + BATCH) for i in range(0, N, BATCH)]
    return [measure(cut(r), WEIGHTS[r]) for r in rows]


@pytest.fixture(scope="module")
def total(parts) -> dict:
    return metrics.merge(metrics.merge(parts[0], parts[1]), parts[2])


@pytest.mark.slow
def test_batches_merge_into_the_whole(total):
    assert_same(values(total), values(measure(DATA, WEIGHTS)))


@pytest.mark.parametrize("junk", [np.nan, np.inf, -1e30])
def test_a_batch_of_padding_changes_nothing(total, junk: float):
    def spoilt(column: np.ndarray) -> np.ndarray:
        wrong = junk if column.dtype == np.float32 else -7
        return np.full_like(column[:BATCH], wrong)

    padding = measure(jax.tree.map(spoilt, DATA), np.zeros(BATCH, np.float32))
    merged = metrics.merge(total, padding)
    for got, expected in zip(jax.tree.leaves(merged), jax.tree.leaves(total), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_rows_of_weight_zero_do_not_count_whatever_they_hold(junk: float):
    def spoilt(column: np.ndarray) -> np.ndarray:
        column = column[:BATCH].copy()
        column[5:9] = junk if column.dtype == np.float32 else 99
        return column

    weights = WEIGHTS[:BATCH].copy()
    weights[5:9] = 0
    dirty = measure(jax.tree.map(spoilt, DATA), weights)
    clean = measure(cut(slice(BATCH)), weights)
    for got, expected in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_weights_of_two_are_examples_twice(parts):
    twice = metrics.merge(parts[0], parts[0])
    doubled = measure(cut(slice(BATCH)), 2 * WEIGHTS[:BATCH])
    for got, expected in zip(jax.tree.leaves(twice), jax.tree.leaves(doubled), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_sums_add_up_over_devices(parts, total):
    """As `psum` adds them, here over a mapped axis, and whole: the metrics survive its mapping."""
    shards = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    add = jax.vmap(lambda sums: jax.lax.psum(sums, "devices"), axis_name="devices")
    added = jax.device_get(jax.jit(add)(shards))
    assert_same(values(jax.tree.map(lambda leaf: leaf[1], added)), values(total))


@pytest.mark.slow
def test_half_precision_outputs_are_measured_in_float32():
    def rounded(column: np.ndarray) -> np.ndarray:
        return column.astype(jnp.bfloat16) if column.dtype == np.float32 else column

    halves = {kind: (rounded(outputs), labels) for kind, (outputs, labels) in DATA.items()}
    wide = {kind: (np.asarray(o, np.float32), labels) for kind, (o, labels) in halves.items()}
    sums = measure(halves, WEIGHTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {jnp.dtype(jnp.float32)}
    assert_same(values(sums), values(measure(wide, WEIGHTS)))


@pytest.mark.slow
def test_double_precision_outputs_are_measured_in_float64():
    def doubled(column: np.ndarray) -> np.ndarray:
        return column.astype(np.float64) if column.dtype == np.float32 else column

    expected = values(measure(DATA, WEIGHTS))
    with jax.enable_x64(True):
        sums = measure(jax.tree.map(doubled, DATA), doubled(WEIGHTS))
        means = ("accuracy", "top_5_accuracy", "multilabel_accuracy", "exact_match")
        for name, score in sums.items():
            if name not in means:  # shares of answers are float32
                assert {leaf.dtype for leaf in jax.tree.leaves(score)} == {np.dtype(np.float64)}
        assert_same(values(sums), expected)


@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)], ids=["all", "one"])
def test_an_output_that_is_nan_is_never_right(rows):
    """All outputs NaN gave an accuracy of 0.67 and an F1 of 0.27."""
    outputs = {kind: np.array(made) for kind, (made, _) in DATA.items()}
    for made in outputs.values():
        made[rows] = np.nan
    spoilt = {kind: (outputs[kind], labels) for kind, (_, labels) in DATA.items()}
    for name, score in measure(spoilt, WEIGHTS).items():
        assert np.isnan(score.compute()).any(), name
        if name not in ("confusion_matrix",):
            assert np.isnan(score.compute()).all(), name
