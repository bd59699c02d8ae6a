"""Mixup and cutmix: inputs and labels in the same proportion, padding in neither."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import beta, kstest

from jaxnet.data import augmentation as aug
from jaxnet.data.augmentation.mixing import partners, symmetric_beta
from jaxnet.errors import UsageError
from tests.data.augmentation.helpers import assert_uniform, batch_of, random_images

MIXING = {"mixup": aug.mixup(0.4), "cutmix": aug.cutmix(1.0)}
COMPILED = {name: jax.jit(mixing) for name, mixing in MIXING.items()}
CIRCLES = jax.jit(jax.vmap(partners, in_axes=(0, None)))


def mixed(name: str, batch: dict[str, jax.Array], seed: int = 0) -> dict[str, np.ndarray]:
    out = COMPILED[name](jax.random.key(seed), batch)
    assert set(out) == {*batch, "labels_b", "lam"}
    assert out["inputs"].dtype == batch["inputs"].dtype
    return {key: np.asarray(value) for key, value in out.items()}


@pytest.mark.slow
def test_partners_are_a_random_circle_of_the_unmasked_rows():
    mask = np.array([True, False, True, True, True, False, True])
    drawn = np.asarray(CIRCLES(jax.random.split(jax.random.key(0), 2000), mask))
    real = np.flatnonzero(mask)
    for row in drawn[:50]:
        at, circle = int(real[0]), []
        for _ in real:
            circle.append(at)
            at = int(row[at])
        assert sorted(circle) == real.tolist()
    np.testing.assert_array_equal(drawn[:, [1, 5]], np.tile([1, 5], (2000, 1)))
    counts = np.bincount(drawn[:, 0], minlength=7)
    assert counts[[0, 1, 5]].sum() == 0
    np.testing.assert_allclose(counts[[2, 3, 4, 6]], 500, atol=100)


@pytest.mark.parametrize("count", [0, 1])
def test_who_is_alone_keeps_to_itself(count):
    drawn = CIRCLES(jax.random.split(jax.random.key(0), 2000), np.arange(7) < count)
    np.testing.assert_array_equal(drawn, np.tile(np.arange(7), (2000, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixup_is_the_weighted_mean_of_inputs_and_the_pair_of_labels(dtype):
    images = random_images(40, 3, 4, 2, dtype=dtype)
    out = mixed("mixup", batch_of(images))
    np.testing.assert_array_equal(out["labels"], np.arange(40))
    lam = out["lam"].astype(np.float64)[:, None, None, None]
    expected = lam * images + (1 - lam) * images[out["labels_b"]].astype(np.float64)
    tolerance = 0.501 if dtype == np.uint8 else 1e-6
    np.testing.assert_allclose(out["inputs"], expected, rtol=1e-5, atol=tolerance)


@pytest.mark.slow
def test_mixup_takes_rows_of_a_table_too():
    table = np.eye(8, dtype=np.float32)
    out = mixed("mixup", batch_of(table))
    np.testing.assert_allclose(out["inputs"][np.arange(8), out["labels"]], out["lam"], rtol=1e-6)


@pytest.mark.slow
def test_the_share_of_mixup_is_beta():
    out = mixed("mixup", batch_of(np.zeros((4000, 1), np.float32)))
    assert kstest(out["lam"], beta(0.4, 0.4).cdf).pvalue > 0.01


def test_shares_are_beta_whatever_alpha_is():
    draw = jax.jit(symmetric_beta, static_argnums=2)
    for alpha in (0.3, 1.0, 2.0, 50.0):
        drawn = np.asarray(draw(jax.random.key(0), alpha, (20_000,)), np.float64)
        assert kstest(drawn, beta(alpha, alpha).cdf).pvalue > 0.01, alpha
    # Nearly all of these are 0 or 1 in float32.
    drawn = np.asarray(draw(jax.random.key(0), 1e-3, (20_000,)))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cutmix_pastes_a_rectangle_and_counts_its_area(dtype):
    n, height, width = 200, 9, 12
    images = np.broadcast_to(np.arange(n).reshape(-1, 1, 1, 1), (n, height, width, 1))
    out = mixed("cutmix", batch_of(images.astype(dtype)))
    seen = out["inputs"][..., 0]
    own = seen == out["labels"][:, None, None]
    pasted = seen == out["labels_b"][:, None, None]
    assert (own ^ pasted).all()
    np.testing.assert_allclose(out["lam"], own.mean(axis=(1, 2)), rtol=1e-6)
    for mask in pasted:
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == rows * columns


@pytest.mark.slow
def test_the_sides_of_cutmix_are_the_root_of_the_area():
    # Large and uncut by the border is what has the middle of the image; 1 - lam is uniform.
    n, size = 3000, 100
    images = np.broadcast_to(np.arange(n).reshape(-1, 1, 1, 1), (n, size, size, 1))
    out = mixed("cutmix", batch_of(images.astype(np.float32)))
    pasted = out["inputs"][..., 0] == out["labels_b"][:, None, None]
    inner = ~(pasted[:, [0, -1]].any(axis=(1, 2)) | pasted[:, :, [0, -1]].any(axis=(1, 2)))
    height, width = pasted.any(axis=2).sum(axis=1), pasted.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(height[inner], width[inner])
    # A centre anywhere leaves a square of share `a` uncut with probability (1 - sqrt(a))^2.
    share = np.sort(np.square(height[inner] / size))
    areas = np.linspace(0, 1, 1001)
    cdf = np.cumsum(np.square(1 - np.sqrt(areas)))
    expected = np.interp(share, areas, cdf / cdf[-1])
    gap = np.abs(expected - (np.arange(len(share)) + 0.5) / len(share)).max()
    assert gap < 1.95 / np.sqrt(len(share)) + 0.02
    assert inner.mean() == pytest.approx(np.square(1 - np.sqrt(areas)).mean(), abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXING)
def test_rows_that_merely_pad_mix_with_nothing(name):
    images = random_images(12, 6, 6, 1)
    mask = np.arange(12) % 3 != 1
    images[~mask] = np.nan
    batch = batch_of(images, mask=mask)
    for seed in range(5):
        out = mixed(name, batch, seed)
        assert np.isfinite(out["inputs"][mask]).all()
        assert mask[out["labels_b"][mask]].all()
        np.testing.assert_array_equal(out["inputs"][~mask], images[~mask])
        np.testing.assert_array_equal(out["lam"][~mask], 1.0)
        np.testing.assert_array_equal(out["labels_b"][~mask], np.flatnonzero(~mask))


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXING)
def test_each_label_counts_by_the_weight_of_its_own_example(name):
    weights = np.tile(np.array([0.0, 1.0, 2.0, 5.0, 0.0, 0.5], np.float32), 2)
    images = random_images(12, 6, 6, 1)
    plain = mixed(name, batch_of(images))
    out = mixed(name, batch_of(images, weights=weights))
    np.testing.assert_array_equal(out["inputs"], plain["inputs"])
    other = weights[out["labels_b"]]
    np.testing.assert_allclose(
        out["weights"] * out["lam"], plain["lam"] * weights, rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        out["weights"] * (1 - out["lam"]), (1 - plain["lam"]) * other, rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(out["lam"]).all()


def test_a_batch_is_mixed_once():
    batch = batch_of(random_images(4, 6, 6, 1))
    twice = aug.compose(aug.mixup(), aug.cutmix())
    with pytest.raises(UsageError, match=r"cutmix: this batch is mixed already.*one_of\(mixup"):
        jax.eval_shape(twice, jax.random.key(0), batch)


@pytest.mark.slow
def test_mixup_and_cutmix_take_turns():
    batch = batch_of(np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))]).astype(np.float32))
    turn = jax.jit(jax.vmap(aug.one_of(*MIXING.values()), in_axes=(0, None)))
    seen = np.asarray(turn(jax.random.split(jax.random.key(0), 300), batch)["inputs"])
    between = ((seen > 0) & (seen < 1)).any(axis=(1, 2, 3, 4))
    # Cutmix gives zeros and ones only; mixup rounds to them rarely.
    assert 100 < between.sum() < 180
    assert_uniform(np.arange(300)[between], 0, 299)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_impossible_alphas_are_refused(name, alpha):
    with pytest.raises(UsageError, match=f"{name}: expected an alpha above 0"):
        getattr(aug, name)(alpha)
