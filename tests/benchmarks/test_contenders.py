"""The hand-written contenders train the same network, whatever the form of their loop."""

from __future__ import annotations

import gzip
from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks.contenders import jaxnet_fit, raw_jax, raw_resnet
from benchmarks.workloads import WORKLOADS, load_images, synthetic, synthetic_images

IMAGES = synthetic_images(200, 50)
MLP = replace(WORKLOADS["mlp300"], examples=200, batch_size=64)
CNN = replace(WORKLOADS["cnn"], examples=24, batch_size=8)


@pytest.mark.slow
def test_loops_agree():
    step, scan, fori = (
        raw_jax.setup(MLP, IMAGES, options)
        for options in ({"loop": "step"}, {"loop": "scan"}, {"loop": "fori", "data": "uint8"})
    )
    for epoch in range(2):
        expected = step.train(epoch)
        assert scan.train(epoch) == pytest.approx(expected, rel=1e-4)
        assert fori.train(epoch) == pytest.approx(expected, rel=1e-4)
    assert scan.evaluate() == pytest.approx(step.evaluate(), abs=0.021)


@pytest.mark.slow
def test_forms_of_convolution_agree():
    plain, slices, im2col = (
        raw_jax.setup(CNN, IMAGES, {"loop": "step", "form": form}).train(0)
        for form in ("plain", "slices", "im2col")
    )
    assert slices == pytest.approx(plain, rel=1e-4)
    assert im2col == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_residual_networks_learn_alike(monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_DIR", "off")
    # A block whose shortcut is the inputs and one whose shortcut is projected.
    monkeypatch.setattr(raw_resnet, "BLOCKS", [(64, 1), (128, 2)])
    workload = replace(WORKLOADS["resnet18"], examples=32)
    images = synthetic(workload, 32, 32)
    assert images.inputs.shape == (32, 32, 32, 3)
    plain, im2col = (
        raw_resnet.setup(workload, images, {"loop": "step", "form": form})
        for form in ("plain", "im2col")
    )
    # One step each: equal before it; after it the gradients' rounding shows, which Adam's division
    # by their size makes large.
    first = plain.train(0)
    assert im2col.train(0) == pytest.approx(first, rel=1e-4)
    second = plain.train(1)
    assert second < first
    assert im2col.train(1) == pytest.approx(second, abs=0.01 * (first - second))


@pytest.mark.slow
def test_rounds_of_jaxnet_compile_once(monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_DIR", "off")
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: compiled.append(event) if "backend_compile" in event else None
    )
    contestant = jaxnet_fit.setup(MLP, IMAGES, {})
    first = contestant.train(0)
    assert compiled
    compiled.clear()
    assert contestant.train(0) == first
    assert not compiled
    assert contestant.evaluate() > 0.3


def test_images_are_mnist_where_it_is_and_synthetic_elsewhere(tmp_path, monkeypatch):
    assert load_images(tmp_path).source.startswith("synthetic")
    folder = tmp_path / "mnist"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        images = gzip.compress(bytes(16) + pixels.tobytes())
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + b"\1\2\3"))
    found = load_images(tmp_path)
    assert found.source == "MNIST" and found.labels.tolist() == [1, 2, 3]
    shaped = found.shaped(CNN, scale=True)
    assert shaped.inputs.shape == (3, 28, 28, 1)
    np.testing.assert_allclose(shaped.inputs[..., 0] * 255, pixels, atol=1e-4)
