"""Pictures: they are written, and they are not empty."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet import metrics
from jaxnet.training import History
from jaxnet.training.plots import plot_confusion, plot_precision_recall, plot_roc

ROWS = tuple(
    {"epoch": e, "step": 4 * e, "loss": 1 / e, "accuracy": 1 - 1 / e, "val_loss": 2 / e}
    for e in range(1, 6)
)


def is_a_picture(path) -> bool:
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    return pixels.ndim == 3 and min(pixels.shape[:2]) > 100 and pixels[..., :3].std() > 0.01


def test_learning_curves_are_drawn(tmp_path):
    History(ROWS).plot(tmp_path / "curves.png", best_step=12)
    assert is_a_picture(tmp_path / "curves.png")
    History(ROWS).plot(tmp_path / "plain.png")
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_a_run_that_measured_nothing_has_a_picture_too(tmp_path):
    History().plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_confusion_matrices_are_drawn(tmp_path, classes):
    counts = np.eye(classes) * 5 + np.arange(classes)[None]
    names = [f"class {i}" for i in range(classes)]
    plot_confusion(counts, names, tmp_path / "confusion.png")
    assert is_a_picture(tmp_path / "confusion.png")


def test_a_class_without_examples_is_no_division_by_zero(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["yes", "no"], tmp_path / "confusion.png")
    assert is_a_picture(tmp_path / "confusion.png")


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_roc_and_precision_recall_curves_are_drawn(tmp_path, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(classes, 2), 300)
    right = labels[:, None] == (np.arange(classes) if classes > 1 else 1)
    logits = (rng.normal(size=(300, classes)) + 2 * right).astype(np.float32)
    plot_roc(metrics.roc_curves(logits, labels), tmp_path / "roc.png")
    plot_precision_recall(metrics.precision_recall_curves(logits, labels), tmp_path / "pr.png")
    assert is_a_picture(tmp_path / "roc.png")
    assert is_a_picture(tmp_path / "pr.png")
    assert (tmp_path / "roc.png").read_bytes() != (tmp_path / "pr.png").read_bytes()


def test_classes_without_a_curve_are_drawn_as_nothing(tmp_path):
    logits, labels = np.array([1.0, 2.0], np.float32), np.zeros(2, int)
    plot_roc(metrics.roc_curves(logits, labels), tmp_path / "roc.png")
    plot_precision_recall(metrics.precision_recall_curves(logits, labels), tmp_path / "pr.png")
    assert is_a_picture(tmp_path / "roc.png")
    assert is_a_picture(tmp_path / "pr.png")
