"""Everyday jobs in a few lines: they run, and the guide's table is counted from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.same_job import count, jaxnet_jobs
from benchmarks.same_job.data import NAMES, table

ROOT = Path(__file__).parents[2]
DATA, VALID = table(), table(30, seed=1)


def test_the_guide_has_the_table_as_it_is_counted():
    assert count.table() in (ROOT / "jaxnet" / "README.md").read_text(encoding="utf-8")


def test_no_job_takes_more_lines_than_elsewhere():
    # A Linen module has a class and a method where Keras's functional interface has a call.
    more = {"two_outputs": 1}
    for job, numbers in count.counted().items():
        assert numbers["jaxnet"] <= min(numbers.values()) + more.get(job, 0), job


def test_all_jobs_are_in_the_table():
    source = (ROOT / "benchmarks" / "same_job" / "jaxnet_jobs.py").read_text(encoding="utf-8")
    assert count.lines(source).keys() == {part for job in count.JOBS for part in job.split()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "job", ["own_loss", "own_schedule", "own_optimizer", "own_step", "class_weights"]
)
def test_what_is_ones_own_learns(job):
    history = getattr(jaxnet_jobs, job)(DATA).history
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
def test_data_of_all_kinds():
    pandas = pytest.importorskip("pandas")
    torch: Any = pytest.importorskip("torch")
    inputs, labels = DATA
    frame = pandas.DataFrame({"a": inputs[:, 0], "b": inputs[:, 1], "kind": labels})
    dataset = torch.utils.data.TensorDataset(*map(torch.as_tensor, DATA))
    loader = torch.utils.data.DataLoader(dataset, 32, shuffle=True)
    runs = (
        jaxnet_jobs.own_module(DATA),
        jaxnet_jobs.data_frame(frame),
        jaxnet_jobs.torch_dataset(dataset),
        jaxnet_jobs.torch_loader(loader),
        jaxnet_jobs.generator(),
    )
    assert [run.last_step for run in runs] == [4, 4, 4, 4, 8]


@pytest.mark.slow
def test_several_inputs_and_outputs_learn():
    for job in (jaxnet_jobs.two_inputs, jaxnet_jobs.two_outputs):
        history = job(DATA).history
        assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
def test_a_schedule_and_a_metric_are_in_the_history():
    # Four steps in all, of which the second and the fourth are the last of their epochs.
    assert np.allclose(jaxnet_jobs.own_schedule(DATA).history["learning_rate"], [0.1 / 2, 0.1 / 4])
    assert 0 < jaxnet_jobs.own_metric(DATA).history["confident"][0] < 1


@pytest.mark.slow
def test_runs_are_stopped():
    stopped = jaxnet_jobs.callback_that_stops(DATA, VALID)
    assert (stopped.stop_reason, len(stopped.history)) == ("good enough", 1)
    ruled = jaxnet_jobs.stop_rule(DATA, VALID)
    assert ruled.stop_reason == "early_stopping" and len(ruled.history) < 60
    assert ruled.best == max(ruled.history["val_accuracy"])


@pytest.mark.slow
def test_folds_are_scored():
    scores = jaxnet_jobs.cross_validation(DATA)
    assert len(scores) == 3 and all(0 <= score <= 1 for score in scores)


@pytest.mark.slow
def test_predictions_in_a_frame():
    pytest.importorskip("pandas")
    frame = jaxnet_jobs.predictions_in_a_frame(DATA)
    shares = frame[[f"probability_{name}" for name in NAMES]].to_numpy()
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    assert list(frame["class"]) == [NAMES[i] for i in shares.argmax(1)]


@pytest.mark.slow
def test_what_is_saved_is_loaded_in_another_process(tmp_path):
    jaxnet_jobs.save(DATA, str(tmp_path))
    code = (
        "import sys; from benchmarks.same_job import data, jaxnet_jobs\n"
        "print(*jaxnet_jobs.load(sys.argv[1], data.table()[0]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.split() == list(jaxnet_jobs.load(str(tmp_path), DATA[0]))


@pytest.mark.slow
def test_logs_are_written(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    wandb: Any = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, os.fspath(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    jaxnet_jobs.tensorboard(DATA, VALID, str(tmp_path / "board"))
    jaxnet_jobs.wandb(DATA, VALID, str(tmp_path / "runs"))
    wandb.teardown()
    assert len(list((tmp_path / "board").glob("*/events.out.tfevents.*"))) == 2
    assert len(list((tmp_path / "runs").glob("wandb/offline-run-*/*.wandb"))) == 1
