"""`python -m train.regress`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from jaxnet import Bundle, Trainer
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.data import fit_standard, k_fold, load_diabetes, split
from train.regress import PROGRAM, Config, build_task, train

QUICK = ["--network.hidden", "16", "--epochs", "15"]


def regress(*arguments: str | Path) -> int:
    """What the command does, in this process."""
    words = ["--no-progress", *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


@pytest.mark.slow
def test_diabetes(tmp_path, capsys):
    assert regress(*QUICK, "--run-dir", tmp_path) == cli.DONE
    printed = capsys.readouterr().out
    for name in ("test_mae", "test_rmse", "test_r2"):
        assert name in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test_r2"] > 0.25
    assert (tmp_path / "predicted.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "confusion.png").exists()
    test = split(load_diabetes(), (0.7, 0.1, 0.2))[2]
    predicted = Bundle.load(tmp_path / "bundle").predict(test.inputs)[:, 0]
    assert summary["test_mae"] == pytest.approx(mean_absolute_error(test.labels, predicted))
    assert summary["test_r2"] == pytest.approx(r2_score(test.labels, predicted))


@pytest.mark.slow
def test_a_table_of_ones_own(tmp_path):
    pd = pytest.importorskip("pandas", reason="needs the extra [tables]")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "kind": rng.choice(["a", "b"], 200)})
    frame["price"] = 1e5 + 2e4 * frame["x"] + 1e4 * (frame["kind"] == "a")
    frame.loc[::9, "kind"] = None
    frame.to_csv(tmp_path / "houses.csv", index=False)
    own = ["--data", "csv", "--data-dir", tmp_path / "houses.csv", "--target", "price"]
    run = tmp_path / "run"
    assert regress(*own, *QUICK, "--run-dir", run) == cli.DONE
    assert json.loads((run / "summary.json").read_text())["test_r2"] > 0.8
    predicted = Bundle.load(run / "bundle").predict(
        [{"x": 1.0, "kind": "a"}, {"x": -1, "kind": None}]
    )
    np.testing.assert_allclose(predicted[:, 0], [1.3e5, 8.5e4], rtol=0.15)


@pytest.mark.slow
def test_folds(tmp_path):
    quick = [*QUICK, "--epochs", "3"]
    assert regress(*quick, "--folds", "2", "--run-dir", tmp_path) == cli.DONE
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["test_r2_folds"]) == 2
    assert summary["test_mae"] == pytest.approx(np.mean(summary["test_mae_folds"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "diabets"], "did you mean 'diabetes'?"),
        (["--model", "cnn"], "unknown model 'cnn'"),
        (["--data", "csv"], "needs --data-dir"),
    ],
)
def test_wrong_use(arguments, message, tmp_path, capsys):
    assert regress("--run-dir", tmp_path / "run", *arguments) == cli.WRONG_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_diabetes_is_predicted_as_well_as_by_scikit_learn():
    """The same network, batches, penalty-free loss and early stopping, on the same folds."""
    ours, theirs = [], []
    config = Config(progress=False)
    for rest, test in k_fold(load_diabetes(), 5, seed=1):
        fit, valid = split(rest, (0.9, 0.1))
        scale = fit_standard(fit, per_feature=True)
        task = build_task(config, fit, scale)
        trainer = Trainer(task, config.early_stopping, progress=False)
        model = trainer.fit(fit, valid, epochs=config.epochs, batch_size=config.batch_size).model
        ours.append(r2_score(test.labels, model.predict(test.inputs)[:, 0]))
        reference = TransformedTargetRegressor(
            MLPRegressor(
                hidden_layer_sizes=config.network.hidden,
                alpha=0,
                batch_size=config.batch_size,
                learning_rate_init=1e-3,
                early_stopping=True,
                n_iter_no_change=10,
                max_iter=200,
                random_state=0,
            ),
            transformer=StandardScaler(),
        )
        reference.fit(scale(rest.inputs), rest.labels)
        theirs.append(r2_score(test.labels, reference.predict(scale(test.inputs))))
    difference = np.subtract(ours, theirs)
    print(f"R2 of jaxnet {np.mean(ours):.3f}, of scikit-learn {np.mean(theirs):.3f}")
    # Two standard errors of the paired difference.
    assert difference.mean() > -2 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert np.mean(ours) > 0.4


@pytest.mark.slow
def test_a_table_is_tested_on_newer_rows_on_other_groups_or_on_another_file(tmp_path, capsys):
    pd = pytest.importorskip("pandas", reason="needs the extra [tables]")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=120), "shop": np.arange(120) // 6 % 10})
    frame["day"] = pd.date_range("2024-01-01", periods=120).astype(str)[::-1]
    frame["price"] = 3 * frame["x"]
    frame.iloc[:100].to_csv(tmp_path / "a.csv", index=False)
    frame.iloc[100:].to_csv(tmp_path / "b.csv", index=False)
    quick = ["--data", "csv", "--data-dir", tmp_path / "a.csv", "--target", "price"]
    quick += ["--network.hidden", "4", "--epochs", "1", "--table.categories", "shop"]
    forms = {
        "time": (["--split-by-time", "day"], [], "rows: 70 training, 10 validation, 20 test"),
        "group": (["--split-by-group", "shop"], ["shop"], "test"),
        "file": (["--test-data", tmp_path / "b.csv"], [], "rows: 88 training, 12 validation, 20"),
    }
    for name, (words, left_out, told) in forms.items():
        run = tmp_path / name
        assert regress(*quick, *words, "--run-dir", run) == cli.DONE
        assert told in capsys.readouterr().out
        columns = {column.name for column in Bundle.load(run / "bundle").encoder.columns}
        assert columns == {"x", "shop", "day"} - set(left_out)
    both = ["--test-data", tmp_path / "b.csv", "--split-by-group", "shop"]
    assert regress(*quick, *both, "--run-dir", tmp_path / "r") == cli.FAILED
    assert "b.csv: shop: expected other groups than in a.csv" in capsys.readouterr().err
    both = ["--split-by-time", "day", "--split-by-group", "shop"]
    assert regress(*quick, *both, "--run-dir", tmp_path / "r") == cli.WRONG_USAGE
    folds = ["--split-by-time", "day", "--folds", "3"]
    assert regress(*quick, *folds, "--run-dir", tmp_path / "r") == cli.WRONG_USAGE
