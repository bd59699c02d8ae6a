from __future__ import annotations

import numpy as np
import pytest

from benchmarks import input_pipeline as benchmark

IMAGES = benchmark.random_images(benchmark.BATCH + 5)


def possible(image: np.ndarray) -> np.ndarray:
    """All 162 that an image may become."""
    padded = benchmark.padded(image[None])[0]
    cut = np.lib.stride_tricks.sliding_window_view(padded, image.shape).reshape(-1, *image.shape)
    return np.concatenate([cut, cut[:, :, ::-1]])


@pytest.mark.parametrize("form", ["one_gather", "windows", "mirrored_windows"])
def test_the_forms_by_hand_cut_windows_and_mirror_them(form):
    store = benchmark.padded(IMAGES)
    if form == "mirrored_windows":
        store = np.concatenate([store, store[:, :, ::-1]])
    batches = list(getattr(benchmark, form)(store, 3))
    assert [len(batch) for batch in batches] == [benchmark.BATCH, 5]
    rows = np.concatenate([rows for rows, *_ in benchmark.drawn(len(IMAGES), 3)])
    assert sorted(rows) == list(range(len(IMAGES)))
    for row, image in list(zip(rows, np.concatenate(batches), strict=True))[::10]:
        assert (possible(IMAGES[row]) == image).all(axis=(1, 2, 3)).any()


@pytest.mark.slow
def test_pytorch_cuts_windows_too():
    torch = pytest.importorskip("torch", reason="needs the extra [bench]")
    torch.manual_seed(0)
    item = benchmark.cropped(torch.from_numpy(benchmark.padded(IMAGES)).permute(0, 3, 1, 2))[7]
    assert (possible(IMAGES[7]) == item.permute(1, 2, 0).numpy()).all(axis=(1, 2, 3)).any()


@pytest.mark.slow
def test_a_race_of_two_ways():
    names = ("jaxnet, host", "jaxnet, in the step", "numpy, windows")
    options = benchmark.Options(images=300, rounds=2)
    seconds = benchmark.measure(options, names)
    assert [len(seconds[name]) for name in names] == [2, 2, 2]
    assert min(map(min, seconds.values())) > 0


def test_ratios_are_against_the_best_of_each_kind():
    seconds = {
        "jaxnet, host": [1.0, 2.0],
        "numpy, slow": [9.0, 9.0],
        "numpy, fast": [2.0, 3.0],
        "torch, any": [5.0, 5.0],
    }
    assert benchmark.ratios(seconds) == {"numpy, fast": [2.0, 1.5], "torch, any": [5.0, 2.5]}
