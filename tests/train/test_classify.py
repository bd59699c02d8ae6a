"""`python -m train.classify`, as a user runs it: real processes, real data."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli, completed
from jaxnet.app.command_line import from_command_line
from jaxnet.data import load_digits
from jaxnet.models import CIFARResNet
from train.classify import PROGRAM, Config, problem, train

QUICK = ["--model", "mlp", "--network.hidden", "64", "--epochs", "12", "--batch-size", "64"]


def classify(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.classify", "--no-progress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def classify_here(*arguments: str | Path) -> int:
    """The same in this process, which is quicker: the exit code."""
    words = ["--no-progress", *map(str, arguments)]
    try:
        return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))
    except SystemExit as end:  # words that aren't even options, and values that no option takes
        assert isinstance(end.code, int)
        return end.code


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run folder of a short training."""
    folder = tmp_path_factory.mktemp("run")
    done = classify(*QUICK, "--run-dir", folder)
    assert done.returncode == cli.DONE, done.stderr
    assert "test_accuracy" in done.stdout
    assert done.stderr == ""
    return folder


@pytest.mark.slow
def test_the_run_folder_is_complete(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    assert summary["parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    assert summary["stop_reason"] == "epochs"
    assert summary["compiles"] == 5  # initialisation, training, evaluation, two of predictions
    assert summary["test_roc_auc"] > 0.98
    assert abs(summary["test_f1"] - summary["test_accuracy"]) < 0.05
    assert 0 <= summary["data_wait_share"] < 1
    assert summary["matmul_precision"] == "highest"  # as processors compute
    assert summary["deterministic"] is False
    for name in (
        "test_loss",
        "best_step",
        "seconds",
        "samples_per_second",
        "jax_version",
        "device",
    ):
        assert summary[name], name
    for picture in ("curves.png", "confusion.png", "roc.png", "pr.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert len((run / "classes.csv").read_text().splitlines()) == 11
    assert not (run / "augmented.png").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= lines[0].keys()
    assert len((run / "history.csv").read_text().splitlines()) == 13


def test_the_bundle_of_a_run_predicts(run):
    digits = load_digits()
    bundle = Bundle.load(run / "bundle")
    assert bundle.matmul_precision == "highest"
    predicted = bundle.predict(digits.inputs).argmax(axis=1)
    assert (predicted == digits.labels).mean() > 0.9


@pytest.mark.slow
def test_augmentation_by_name_leaves_a_picture_of_what_the_network_sees(tmp_path, capsys):
    names = ["--augment.crop", "1", "--augment.rotate", "10", "--augment.mixup", "0.2"]
    assert classify_here(*QUICK, "--epochs", "2", *names, "--run-dir", tmp_path) == cli.DONE
    assert capsys.readouterr().err == ""
    assert (tmp_path / "augmented.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["compiles"] == 5  # initialisation, training, evaluation, two of predictions
    assert summary["test_accuracy"] > 0.5


@pytest.mark.slow
def test_a_run_can_be_repeated_from_its_config(run, tmp_path):
    assert classify_here("--config", run / "config.toml", "--run-dir", tmp_path) == cli.DONE
    assert (tmp_path / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    weights = "bundle/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (run / weights).read_bytes()


@pytest.mark.slow
def test_a_deep_network_with_the_recipe_of_its_paper(tmp_path, monkeypatch):
    # With one block a stage, which compiles in a third of the time.
    monkeypatch.setattr(
        "train.classify.build", lambda config, data: CIFARResNet(8, data.num_classes)
    )
    pictures = write_stripes(tmp_path / "stripes")
    options = ["--data", "folder", "--data-dir", pictures, "--image-size", "16"]
    options += ["--model", "resnet20", "--optimizer.name", "momentum", "--learning-rate", "0.01"]
    options += ["--optimizer.schedule", "piecewise", "--optimizer.boundaries", "8", "12"]
    options += ["--optimizer.weight-decay", "1e-4", "--augment.flip", "--augment.crop", "1"]
    options += ["--epochs", "4", "--batch-size", "8", "--run-dir", tmp_path / "run"]
    assert classify_here(*options) == cli.DONE
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["compiles"] == 4  # initialisation, training, evaluation, prediction
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["loss"] < rows[0]["loss"]
    bundle = Bundle.load(tmp_path / "run" / "bundle")
    assert bundle.predict(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 2)


def test_heads_that_are_there_for_training_count_in_its_loss(tmp_path):
    """Without training: GoogLeNet compiles for minutes."""
    deep, plain = (
        problem(completed(Config(run_dir=tmp_path, model=model, data="digits"))).task
        for model in ("googlenet", "cnn")
    )
    outputs, labels = jnp.eye(3), jnp.arange(3)
    main, head = plain.loss(outputs, labels), plain.loss(-outputs, labels)
    np.testing.assert_allclose(
        deep.loss((outputs, -outputs, -outputs), labels), main + 0.3 * (head + head), rtol=1e-6
    )


@pytest.mark.slow
def test_plateaus_norms_and_rates_from_the_command_line(tmp_path, caplog):
    options = ["--optimizer.name", "adamw", "--optimizer.schedule", "plateau"]
    options += ["--optimizer.plateau.patience", "1", "--optimizer.plateau.min-delta", "9"]
    options += ["--optimizer.weight-decay", "0.1", "--optimizer.decay", "**/kernel"]
    options += ["--techniques.norms", "--techniques.rates", "Dense_0/**", "0.5"]
    assert classify_here(*QUICK, "--epochs", "4", *options, "--run-dir", tmp_path) == cli.DONE
    chosen = [r.message for r in caplog.records if r.name == "jaxnet.chosen"]
    assert chosen == [
        "weight decay shrinks 2 of 4 parameters: Dense_0/kernel, Dense_1/kernel",
        "the learning rate is 0.5 times as high for 2 of 4 parameters: Dense_0/bias, "
        "Dense_0/kernel",
    ]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # An improvement by 9 there is only after nothing.
    assert [float(row["learning_rate_scale"]) for row in rows] == pytest.approx([1, 1, 0.1, 0.01])
    assert all(float(row["grad_norm/Dense_0"]) > 0 for row in rows)
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")
    # The file says the same again.
    assert classify_here("--config", tmp_path / "config.toml") == cli.DONE


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(run):
    before = (run / "metrics.jsonl").read_text()
    assert classify_here(*QUICK, "--run-dir", run) == cli.DONE
    assert (run / "metrics.jsonl").read_text() == before


def test_another_configuration_in_the_same_folder_is_refused(run, capsys):
    assert classify_here(*QUICK, "--run-dir", run, "--learning-rate", "0.5") == cli.WRONG_USAGE
    said = capsys.readouterr().err
    assert "learning_rate: 0.003 -> 0.5" in said
    assert "--no-resume" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "digts"], cli.WRONG_USAGE, "unknown data 'digts'; did you mean 'digits'?"),
        (["--model", "cn"], cli.WRONG_USAGE, "unknown model 'cn'; did you mean 'cnn'?"),
        (["--optimizer.name", "adm"], cli.WRONG_USAGE, "did you mean 'adam"),
        (["--metrics", "recal"], cli.WRONG_USAGE, "did you mean 'recall'?"),
        (["--data", "folder"], cli.WRONG_USAGE, "needs --data-dir"),
        (["--data", "cifar10", "--data-dir", "absent"], cli.WRONG_USAGE, "absent"),
        (["--folds", "1"], cli.WRONG_USAGE, "folds of at least 2"),
        (["--early-stopping.patience", "-1"], cli.WRONG_USAGE, "expected a patience of 0"),
        (["--early-stopping.monitor", "val_auc"], cli.WRONG_USAGE, "val_accuracy"),
        (["--augment.hue", "2"], cli.WRONG_USAGE, "expected --augment.hue from 0 to 0.5, got 2.0"),
        (["--epochs", "0"], cli.WRONG_USAGE, "epochs"),
        (["--learning-rate", "-1"], cli.WRONG_USAGE, "--learning-rate above 0, got -1"),
        (["--epochs", "many"], cli.WRONG_USAGE, "--epochs"),
        (["--data", "mnist", "--data-dir", "absent"], cli.WRONG_USAGE, "absent"),
        (["--model", "vgg16"], cli.FAILED, "images of 8x8 are too small for its strides"),
        (["--model", "resnet19"], cli.WRONG_USAGE, "unknown model 'resnet19'; did you mean"),
        (["--optimizer.schedule", "piecewise"], cli.WRONG_USAGE, "needs --optimizer.boundaries"),
        (["--run-dir", "/proc/run"], cli.FAILED, "/proc/run"),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, code, message, tmp_path, capsys):
    assert classify_here("--run-dir", tmp_path / "run", *arguments) == code
    assert message in capsys.readouterr().err


def test_a_process_says_so_too(tmp_path):
    done = classify("--run-dir", tmp_path / "run", "--data", "mnist", "--data-dir", "absent")
    assert done.returncode == cli.WRONG_USAGE, done.stderr
    assert "absent" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def fruit(tmp_path_factory) -> Path:
    """A table of mixed columns with gaps, from which the kind of a fruit can be learnt."""
    pd = pytest.importorskip("pandas", reason="needs the extra [tables]")
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame({"size": rng.normal(size=n), "colour": rng.choice(["red", "green"], n)})
    apple = (frame["size"] > 0) == (frame["colour"] == "red")
    frame["kind"] = np.where(apple, "apple", "pear")
    frame.loc[rng.random(n) < 0.05, "size"] = None
    frame.loc[rng.random(n) < 0.05, "colour"] = None
    frame.insert(0, "row", range(n))
    path = tmp_path_factory.mktemp("tables") / "fruit.csv"
    frame.to_csv(path, index=False)
    return path


TABLE = ["--data", "csv", "--target", "kind", "--epochs", "30", "--network.hidden", "32"]


@pytest.mark.slow
def test_a_table_and_its_bundle_that_takes_raw_rows(fruit, tmp_path, caplog):
    assert classify_here(*TABLE, "--data-dir", fruit, "--run-dir", tmp_path) == cli.DONE
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["fruit.csv: row: it numbers the rows; left out"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.85
    bundle = Bundle.load(tmp_path / "bundle")
    rows = [{"size": 1.0, "colour": "red"}, {"size": 1.0, "colour": "green"}]
    assert bundle.predict_class(rows).tolist() == ["apple", "pear"]
    assert bundle.predict_proba([{"size": None, "colour": "blue"}]).sum() == pytest.approx(1)
    assert len(bundle.predict(fruit)) == 300


@pytest.mark.slow
def test_classes_count_as_asked_and_a_rare_one_is_found(tmp_path):
    pd = pytest.importorskip("pandas", reason="needs the extra [tables]")
    rng = np.random.default_rng(0)
    size = rng.normal(size=1500)
    rare = (size > 0.8) & (rng.random(1500) < 0.4)  # never more likely than the other
    frame = pd.DataFrame({"size": size, "kind": np.where(rare, "plum", "other")})
    frame.to_csv(tmp_path / "rare.csv", index=False)
    options = [*TABLE, "--data-dir", tmp_path / "rare.csv", "--metrics", "recall"]
    recall = {}
    for name, weights in {
        "plain": [],
        "balanced": ["--balanced"],
        "named": ["--class-weights", "plum", "10"],
    }.items():
        assert classify_here(*options, *weights, "--run-dir", tmp_path / name) == cli.DONE
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        recall[name] = summary["test_recall"]  # of both classes, the mean
    assert recall["plain"] < 0.6 < 0.8 < min(recall["balanced"], recall["named"])


@pytest.mark.slow
def test_folds_share_their_programs_and_a_finished_one_is_not_trained_again(
    fruit, tmp_path, capsys
):
    folds = [*TABLE, "--data-dir", fruit, "--folds", "3", "--run-dir", tmp_path]
    assert classify_here(*folds) == cli.DONE
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["compiles"] == 3  # initialisation, training, evaluation
    accuracies = summary["test_accuracy_folds"]
    assert len(accuracies) == 3
    assert summary["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert np.sum(summary["confusion"]) == 300
    mean = np.trace(summary["confusion"]) / 300
    assert summary["test_accuracy"] == pytest.approx(mean)
    assert "±" in capsys.readouterr().out
    (tmp_path / "fold-2" / "summary.json").unlink()
    before = (tmp_path / "fold-1" / "summary.json").read_bytes()
    assert classify_here(*folds) == cli.DONE
    assert (tmp_path / "fold-1" / "summary.json").read_bytes() == before
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["test_accuracy_folds"] == accuracies
    assert again["confusion"] == summary["confusion"]


@pytest.mark.slow
def test_folds_of_images(tmp_path):
    folds = [*QUICK, "--folds", "2", "--epochs", "4", "--run-dir", tmp_path]
    assert classify_here(*folds) == cli.DONE
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.8
    assert summary["compiles"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "kinds"], cli.FAILED, "expected a column 'kinds' to predict, got row, size"),
        ([], cli.WRONG_USAGE, "say which column to predict, with --target COLUMN"),
        (["--data", "titanic"], cli.FAILED, "expected a column 'Survived'"),
        (["--target", "kind", "--model", "cnn"], cli.WRONG_USAGE, "--model cnn is for images"),
        (["--target", "kind", "--folds", "200"], cli.FAILED, "fewer than the 200 parts"),
        (
            ["--target", "kind", "--class-weights", "aple", "2"],
            cli.WRONG_USAGE,
            "unknown class 'aple'; did you mean 'apple'?",
        ),
        (["--target", "kind", "--class-weights", "apple", "-1"], cli.WRONG_USAGE, "at least 0"),
        (["--target", "kind", "--table.drop", "sizes"], cli.WRONG_USAGE, "did you mean 'size'?"),
        (["--target", "kind", "--table.numbers", "colour"], cli.FAILED, "colour: expected numbers"),
    ],
)
def test_a_table_used_wrongly(arguments, code, message, fruit, tmp_path, capsys):
    options = ["--data", "csv", "--data-dir", fruit, "--run-dir", tmp_path / "run", *arguments]
    assert classify_here(*options) == code
    assert message in capsys.readouterr().err


def write_stripes(folder: Path) -> Path:
    """Pictures of two kinds and several sizes that are easy to tell apart."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 60, (16 + number % 3, 16, 3), np.uint8)
        pixels[::4] += 150
        kind = "upright" if number % 2 else "flat"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.swapaxes(0, 1) if number % 2 else pixels)
        image.save(folder / kind / f"{number}.jpg", quality=95)
    return folder


@pytest.mark.slow
def test_a_folder_of_images_is_learnt_and_one_of_several_sizes_asks_for_a_size(tmp_path, capsys):
    images = ["--data", "folder", "--data-dir", write_stripes(tmp_path / "stripes")]
    assert classify_here(*images, "--run-dir", tmp_path / "run") == cli.FAILED
    assert "--image-size" in capsys.readouterr().err
    sized = [*images, "--image-size", "16", *QUICK, "--run-dir", tmp_path / "run"]
    assert classify_here(*sized) == cli.DONE
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.8
    assert Bundle.load(tmp_path / "run" / "bundle").class_names == ("flat", "upright")


@pytest.mark.slow
def test_images_larger_than_the_memory_are_learnt_as_those_in_memory(tmp_path, monkeypatch):
    config = Config(
        data="folder",
        data_dir=write_stripes(tmp_path / "stripes"),
        image_size=16,
        model="mlp",
        epochs=3,
        batch_size=16,
        progress=False,
    )
    for place, most in (("memory", 2**30), ("disk", 0)):
        monkeypatch.setattr("jaxnet.data.images.folders.IN_MEMORY_BYTES", most)
        run = dataclasses.replace(config, run_dir=tmp_path / place)
        assert train(run) == cli.DONE
    history = "history.csv"
    assert (tmp_path / "disk" / history).read_bytes() == (
        tmp_path / "memory" / history
    ).read_bytes()


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_ends_as_if_nothing_had_been(tmp_path):
    long = [*QUICK, "--epochs", "60", "--early-stopping.patience", "None"]
    command = [sys.executable, "-m", "train.classify", "--no-progress", *long]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "cut")], env=environment, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    lines = tmp_path / "cut" / "metrics.jsonl"
    while not lines.exists() or len(lines.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == cli.PREEMPTED
    assert b"run the same command again" in out
    for folder in ("cut", "whole"):
        assert classify_here(*long, "--run-dir", tmp_path / folder) == cli.DONE
    for name in ("history.csv", "bundle/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
