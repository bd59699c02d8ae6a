"""Pictures: they are written, they are not empty, and a reader finds what is what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxnet import metrics
from jaxnet.app import run_folder
from jaxnet.report import attention, embeddings, pictures, plots, predictions
from jaxnet.report.predictions import plot_confusion, plot_precision_recall, plot_roc
from jaxnet.training import History

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


@pytest.mark.slow
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


# --- what a reader finds in them -----------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """The figures, instead of files."""
    figures: list[Any] = []
    for module in (attention, embeddings, pictures, plots, predictions):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


def ticks(axis: Any) -> list[float]:
    low, high = sorted(axis.get_view_interval())
    return [float(tick) for tick in axis.get_majorticklocs() if low <= tick <= high]


def texts(figure: Any) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 40])
def test_epochs_are_whole_numbers(epochs, drawn, tmp_path):
    rows = [{"epoch": e, "step": e, "loss": 1.0, "val_loss": 2.0} for e in range(1, epochs + 1)]
    History(tuple(rows)).plot(tmp_path / "a.png")
    pictures.plot_together(History(tuple(rows)), ("loss", "val_loss"), tmp_path / "b.png", "loss")
    for figure in drawn:
        (axes,) = figure.axes
        shown = ticks(axes.xaxis)
        assert shown and all(tick.is_integer() for tick in shown)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")


def test_curves_say_which_run_they_are_of_and_draw_what_only_validation_measures(drawn, tmp_path):
    rows = [{"epoch": e, "step": e, "loss": 1.0, "val_loss": 2.0, "val_f1": 0.5} for e in (1, 2)]
    History(tuple(rows)).plot(tmp_path / "a.png", 2, title="digits, mlp, seed 0")
    (figure,) = drawn
    assert figure.get_suptitle() == "digits, mlp, seed 0"
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "f1"]
    labels = [[line.get_label() for line in axes.lines] for axes in figure.axes]
    assert labels == [
        ["best (epoch 2)", "training", "validation"],
        ["best (epoch 2)", "validation"],
    ]


def test_one_outlier_does_not_flatten_the_loss(drawn, tmp_path):
    usual = [1 / e for e in range(1, 20)]
    for losses in (usual, [*usual, 1e4], [*(-5 + loss for loss in usual), 1e4]):
        rows = [{"epoch": e, "step": e, "loss": loss} for e, loss in enumerate(losses, 1)]
        History(tuple(rows)).plot(tmp_path / "a.png")
    plain, above_zero, any_sign = (figure.axes[0] for figure in drawn)
    assert (plain.get_yscale(), plain.get_ylabel(), plain.get_title()) == ("linear", "loss", "")
    assert (above_zero.get_yscale(), above_zero.get_ylabel()) == ("log", "loss (logarithmic)")
    assert any_sign.get_yscale() == "linear"
    assert any_sign.get_ylim()[1] < 0
    assert any_sign.get_title() == "1 of 20 values lie beyond"


def test_a_loss_that_is_no_number_is_a_gap(drawn, tmp_path):
    rows = [{"epoch": e, "step": e, "loss": float("nan")} for e in (1, 2)]
    History(tuple(rows)).plot(tmp_path / "a.png")
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_predictions_say_how_good_they_are_and_of_what(drawn, tmp_path):
    from sklearn.metrics import r2_score

    true = np.random.default_rng(0).normal(150, 70, 90)
    predicted = true + np.random.default_rng(1).normal(0, 40, 90)
    predictions.plot_predicted(
        true, predicted, tmp_path / "a.png", "price (EUR)", "homes, mlp, seed 0"
    )
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true price (EUR)", "predicted price (EUR)")
    first, second = axes.get_title().split("\n")
    assert first == "homes, mlp, seed 0"
    assert second.startswith(f"$R^2$ {r2_score(true, predicted):.3f}, RMSE ")
    assert second.endswith("90 examples")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "heads", "n", "m"), [(1, 1, 3, 4), (2, 3, 30, 20), (1, 2, 9, 60)]
)
def test_attention_is_legible_and_says_what_is_what(layers, heads, n, m, drawn, tmp_path):
    weights = np.random.default_rng(0).uniform(size=(layers, heads, n, m))
    written, read = [f"out{i}" for i in range(n)], [f"word{i}" for i in range(m)]
    attention.plot_attention(weights, written, tmp_path / "a.png", read, "multi30k, seed 0")
    (figure,) = drawn
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "multi30k, seed 0"
    said = texts(figure)
    for words in ("token that attends", "token that is attended to", "attention weight"):
        assert words in said
    axes = figure.axes[(layers - 1) * heads]
    assert [label.get_text() for label in axes.get_yticklabels()] == written
    assert [label.get_text() for label in axes.get_xticklabels()] == read
    # At 8 points, and none over its neighbour.
    for labels, side in ((axes.get_yticklabels(), "height"), (axes.get_xticklabels(), "width")):
        assert all(label.get_fontsize() >= 8 for label in labels)
        room = getattr(axes.get_window_extent(), side) / len(labels)
        assert room >= 0.9 * 8 * figure.dpi / 72


def test_names_of_points_do_not_lie_over_each_other(drawn, tmp_path):
    vectors = np.float32([[0, 0], [0.001, 0], [5, 1], [9, -2]])
    names = {row: f"item {row}" for row in range(4)}
    embeddings.plot_plane(vectors, tmp_path / "a.png", np.arange(4), "taken", names)
    assert [t.get_text() for t in drawn[0].axes[0].texts] == ["item 0", "item 2", "item 3"]


@pytest.mark.slow
def test_a_confusion_matrix_and_curves_have_titles_and_axes(drawn, tmp_path):
    predictions.plot_confusion(
        np.array([[30, 2], [4, 20]]), ["no", "yes"], tmp_path / "a.png", "spam"
    )
    axes = drawn[0].axes[0]
    assert axes.get_title() == "spam\naccuracy 0.893 of 56 examples"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    logits = np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32)
    labels = np.arange(100) % 10
    plot_roc(metrics.roc_curves(logits, labels), tmp_path / "b.png", "digits")
    axes = drawn[1].axes[0]
    assert axes.get_title() == "digits"
    # Ten curves: no two look the same, and the legend isn't over them.
    styles = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(set(styles)) == 11
    drawn[1].draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_points_say_what_the_axes_are(drawn, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 3)) * [3, 2, 1]
    embeddings.plot_plane(
        vectors, tmp_path / "a.png", np.ones(20), "how often", {0: "one"}, "items"
    )
    axes = drawn[0].axes[0]
    _, shares = embeddings.principal_plane(vectors)
    assert f"({shares[0]:.0%} of the variance)" in axes.get_xlabel()
    assert f"({shares[1]:.0%})" in axes.get_ylabel()
    names = [str(i) for i in range(10)]
    pictures.plot_labelled_points(
        vectors[:, :2], np.arange(20) % 10, names, tmp_path / "b.png", ("x", "y"), "codes"
    )
    axes = drawn[1].axes[0]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("codes", "x", "y")
    looks = {(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in axes.collections}
    assert len(looks) == 10


def test_a_grid_has_its_title_above_and_the_names_of_its_rows_beside_it(tmp_path):
    from PIL import Image

    images = np.random.default_rng(0).uniform(size=(2, 12, 28, 28, 1))
    for name, options in {"a": {}, "b": {"title": "digits", "rows": ("image", "copy")}}.items():
        pictures.save_grid(images, tmp_path / f"{name}.png", **options)
    bare, named = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("L")) for n in "ab")
    height, width = bare.shape
    assert named.shape[0] > height and named.shape[1] > width
    np.testing.assert_array_equal(named[-height:, -width:], bare)
    assert (named[:-height] < 128).any()
    assert (named[-height:, :-width] < 128).any()


def test_the_title_of_a_run_is_its_data_target_model_and_seed(tmp_path):
    config = (
        'data = "csv"\ndata_dir = "~/my/homes.csv"\ntarget = "price"\nmodel = "mlp"\nseed = 3\n'
    )
    (tmp_path / "config.toml").write_text(config)
    assert run_folder.title(tmp_path) == "homes.csv, price, mlp, seed 3"
    assert run_folder.title(tmp_path / "candidates") == "homes.csv, price, mlp, seed 3"
    (tmp_path / "config.toml").unlink()
    assert run_folder.title(tmp_path / "run-7") == "run-7"
