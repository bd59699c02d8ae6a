"""Run folders: what they are called, and that they know the run that they hold."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxnet import locks
from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.config import from_toml
from jaxnet.app.optimizer_options import Optimizer
from jaxnet.app.run_options import ProseRun, Tabular
from jaxnet.data import Arrays
from jaxnet.errors import InputError, UsageError
from jaxnet.training.early_stopping import EarlyStopping
from train import classify, tag

CONFIG = Tabular(data="csv", data_dir=Path("a b/Wine (red).csv"), target="quality/1", model="mlp")
CONSTANT = Optimizer(schedule="constant")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Default folders and the data are in the folder at hand; locks end with the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "Wine (red).csv").touch()
    yield
    locks.release()


def begin(config: Tabular, folder: Path) -> Path:
    """As if a run had begun to train there."""
    run_folder.open_run(folder, config, resume=True, may_change=run_folder.changeable(config))
    (folder / "metrics.jsonl").touch()
    return folder


def test_the_name_has_data_target_model_and_seed():
    assert run_folder.located(CONFIG, "mlp") == Path("runs/Wine_red-quality_1-mlp-seed0")
    folds = replace(CONFIG, folds=5, seed=3)
    assert run_folder.located(folds, "mlp").name == "Wine_red-quality_1-mlp-5-folds-seed3"
    assert run_folder.located(Tabular(data="digits"), "cnn").name == "digits-cnn-seed0"
    own = ProseRun(data="text", data_dir=Path("shakespeare.txt"))
    with pytest.raises(UsageError, match=r"--data-dir shakespeare\.txt: there is no such file"):
        run_folder.located(own, "lstm")
    Path("shakespeare.txt").touch()
    assert run_folder.located(own, "lstm").name == "shakespeare-lstm-seed0"
    Path("names.conll").touch()
    tagged = tag.Config(data="conll", data_dir=Path("names.conll"))
    assert run_folder.located(tagged, "bert").name == "names-bert-seed0"
    assert run_folder.located(replace(CONFIG, run_dir=Path("here")), "mlp") == Path("here")


def test_another_configuration_goes_to_the_next_number(capsys):
    first = begin(CONFIG, run_folder.located(CONFIG, "mlp"))
    other = replace(CONFIG, learning_rate=0.5)
    second = run_folder.located(other, "mlp")
    assert second == first.with_name(f"{first.name}-2")
    assert f"{first} holds a run with another configuration, so this one goes to {second}:\n" in (
        said := capsys.readouterr().out
    )
    assert "  learning_rate: 0.003 -> 0.5\n" in said
    begin(other, second)
    assert run_folder.located(CONFIG, "mlp") == first
    assert run_folder.located(other, "mlp") == second
    assert run_folder.located(replace(CONFIG, batch_size=8), "mlp").name.endswith("seed0-3")


def test_more_epochs_and_another_early_stopping_go_on_where_that_is_exact(tmp_path):
    config = replace(CONFIG, optimizer=CONSTANT)
    folder = begin(config, run_folder.located(config, "mlp"))
    more = replace(config, epochs=60, early_stopping=EarlyStopping("val_loss", patience=50))
    assert run_folder.located(more, "mlp") == folder
    begin(more, folder)
    for schedule in ("cosine", "warmup_cosine", "one_cycle", "polynomial"):
        config = replace(CONFIG, optimizer=Optimizer(schedule=schedule))
        folder = begin(config, tmp_path / schedule)
        with pytest.raises(UsageError, match=rf"epochs: 40 -> 60\n.*exactly.*\({schedule}\)"):
            begin(replace(config, epochs=60), folder)
        begin(replace(config, early_stopping=EarlyStopping("val_accuracy")), folder)


@pytest.mark.parametrize("schedule", ["constant", "step", "exponential", "piecewise", "plateau"])
def test_the_schedules_of_any_length_are_those_that_say_so(schedule):
    """Their learning rates don't depend on the number of steps, those of the others do."""
    from jaxnet import schedules

    options = {"transition_steps": 2, "decay_rate": 0.5, "boundaries": (2, 4), "warmup_steps": 2}
    optimizer = Optimizer(schedule=schedule)
    assert optimizer.any_length
    if schedule in schedules.SCHEDULES:
        known = schedules.SCHEDULES[schedule].__kwdefaults__ or {}
        names = schedules.SCHEDULES[schedule].__annotations__
        given = {name: value for name, value in options.items() if name in {*known, *names}}
        rates = [
            [float(schedules.schedule(schedule, 0.1, total, **given)(step)) for step in range(6)]
            for total in (10, 20)
        ]
        assert rates[0] == rates[1]


def test_an_edited_config_does_not_rewrite_history(tmp_path):
    folder = begin(replace(CONFIG, run_dir=tmp_path / "run"), tmp_path / "run")
    recorded = (folder / "run.json").read_bytes()
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("batch_size = 32", "batch_size = 64"))
    edited = from_toml(Tabular, folder / "config.toml")
    assert edited.batch_size == 64
    with pytest.raises(UsageError, match="batch_size: 32 -> 64"):
        begin(edited, folder)
    assert (folder / "run.json").read_bytes() == recorded


def test_a_folder_of_an_earlier_version_goes_by_its_config(tmp_path):
    folder = begin(CONFIG, tmp_path)
    (folder / "run.json").unlink()
    begin(CONFIG, folder)
    assert (folder / "run.json").exists()
    (folder / "run.json").unlink()
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        begin(replace(CONFIG, seed=1), folder)


def test_a_damaged_record_is_named(tmp_path):
    folder = begin(CONFIG, tmp_path)
    (folder / "run.json").write_text('{"config": ')
    with pytest.raises(InputError, match=r"run\.json: what the run was begun with .* --no-resume"):
        begin(CONFIG, folder)


def test_leftovers_are_swept_from_runs_alone(tmp_path):
    left = tmp_path / ".curves.png.12420.tmp"
    left.touch()
    begin(CONFIG, tmp_path)
    assert left.exists()  # it was no run folder yet
    begin(CONFIG, tmp_path)
    assert not left.exists()


def test_folds_that_are_done_bind_too(tmp_path):
    config = replace(CONFIG, folds=2, optimizer=CONSTANT)
    run_folder.open_run(tmp_path, config, resume=True)
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "summary.json").write_text("{}")
    for change in ({"epochs": 50}, {"early_stopping": EarlyStopping(patience=3)}):
        with pytest.raises(UsageError, match="another configuration"):
            begin(replace(config, **change), tmp_path)


@pytest.mark.slow
def test_a_folder_in_use_is_refused(tmp_path):
    begin(CONFIG, tmp_path)
    script = (
        "import sys; from pathlib import Path; from jaxnet.app import run_folder; "
        "from jaxnet.app.run_options import Tabular; "
        "run_folder.open_run(Path(sys.argv[1]), Tabular(), resume=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert f"{tmp_path} is in use by process" in done.stderr
    assert "wait until it has ended, or choose another --run-dir" in done.stderr


# --- a table whose values change their meaning --------------------------------------------------

ROWS = [(colour, f"{number % 7}") for number, colour in enumerate(["amber", "blue"] * 40)]


def write(file: Path, names: dict[str, str], labels: tuple[str, str] = ("yes", "no")) -> None:
    """A table in which the colour decides."""
    lines = [f"{names.get(colour, colour)},{x},{labels[colour == 'blue']}" for colour, x in ROWS]
    file.write_text("\n".join(["colour,x,y", *lines]) + "\n")


def classified(file: Path, *words: str) -> int:
    options = ["--data", "csv", "--data-dir", str(file), "--target", "y", "--no-progress"]
    options += ["--epochs", "2", "--network.hidden", "4", *words]
    return cli.run(
        lambda: classify.train(from_command_line(classify.Config, options, classify.PROGRAM))
    )


@pytest.mark.slow
def test_a_bundle_never_gets_a_mapping_that_its_weights_do_not_have(tmp_path, capsys):
    file, folder = tmp_path / "fruit.csv", Path("runs/fruit-y-mlp-seed0")
    write(file, {})
    assert classified(file) == cli.DONE
    kept = {path: path.read_bytes() for path in (folder / "bundle").iterdir()}
    changes = {
        "the encoder: its column 'colour' differs": {"names": {"amber": "zinc"}},
        "the training data: its class names differ": {"names": {}, "labels": ("yep", "no")},
        "the training data: its labels and class names differ": {
            "names": {},
            "labels": ("a", "no"),
        },
    }
    for said, change in changes.items():
        write(file, **change)
        assert classified(file) == cli.WRONG_USAGE
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "bundle").iterdir()} == kept


@pytest.mark.slow
def test_folds_over_other_data_are_refused(tmp_path, capsys):
    file = tmp_path / "fruit.csv"
    write(file, {})
    assert classified(file, "--folds", "2") == cli.DONE
    write(file, {"amber": "zinc"})
    assert classified(file, "--folds", "2") == cli.WRONG_USAGE
    said = capsys.readouterr().err
    assert "holds a run over other data:\n  the training data: its column 'colour' differs" in said


@pytest.mark.slow
def test_each_fold_weighs_classes_by_its_own_rows(tmp_path, monkeypatch):
    """Against scikit-learn's weights; folds that agree share a task."""
    from sklearn.utils.class_weight import compute_class_weight

    from jaxnet.app import cross_validation

    caught = []
    monkeypatch.setattr(cross_validation, "run", lambda *arguments: caught.append(arguments) or 0)
    file = tmp_path / "fruit.csv"
    write(file, {})
    assert classified(file, "--folds", "2", "--balanced", "--class-weights", "yes", "3") == 0
    _, config, problem = caught[0]
    task_for = cross_validation.shared(config, problem)
    tasks = []
    for labels in ([0, 0, 1], [0, 1, 1], [1, 0, 0]):
        labels = np.array(labels, np.int32)
        task = task_for(Arrays(np.ones((3, 2), np.float32), labels, class_names=("no", "yes")))
        loss = task.loss(np.zeros((2, 2), np.float32), np.array([0, 1], np.int32))
        balanced = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
        np.testing.assert_allclose(loss, np.log(2) * balanced * [1, 3], rtol=1e-6)
        tasks.append(task)
    assert tasks[0] is tasks[2] and tasks[0] is not tasks[1]
