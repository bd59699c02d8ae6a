"""What version 0.1.0 of 2026-12 wrote is read: a run folder, a checkpoint and a bundle.

`fixtures/0.1.0` was written by that version; the figures here are its own.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import optax
import pytest
from jaxnet.models.mlp import MLP

from jaxnet import Bundle, losses
from jaxnet.data import Arrays
from jaxnet.training import Checkpoints, Supervised, Trainer, with_ema
from tests.train.test_classify import classify_here

WRITTEN = Path(__file__).parent / "fixtures" / "0.1.0"


def rows(history: Path) -> list[dict[str, float]]:
    with history.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on_in_its_folder(tmp_path):
    folder = shutil.copytree(WRITTEN / "run", tmp_path / "run")
    words = "--model mlp --network.hidden 8 --epochs 4 --seed 3 --optimizer.schedule constant"
    more = "--early-stopping.patience 500 --checkpoints.min-seconds 0 --checkpoints.keep 1"
    assert classify_here(*words.split(), *more.split(), "--run-dir", folder) == 0
    expected = rows(WRITTEN / "history.csv")
    found = rows(folder / "history.csv")
    assert len(found) == len(expected) == 4
    assert found[:2] == expected[:2]  # as they stood there
    for mine, its in zip(found, expected, strict=True):
        assert mine == pytest.approx(its, rel=1e-4)


def test_a_checkpoint_is_gone_on_from(tmp_path):
    folder = shutil.copytree(WRITTEN / "checkpoints", tmp_path / "checkpoints")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(48, 4)).astype(np.float32)
    labels = (inputs.sum(axis=1) > 0).astype(np.int32)
    model = MLP(hidden=(6,), num_classes=2, dropout=0.2)
    task = with_ema(Supervised(model, losses.cross_entropy, optax.adam(0.01)), 0.9)
    saving = Checkpoints(folder, keep=1, min_seconds=0.0)
    trainer = Trainer(task, checkpoints=saving, progress=False)
    result = trainer.fit(Arrays(inputs, labels), epochs=4, batch_size=8, seed=1)
    assert result.history["loss"] == pytest.approx([0.87563, 0.64633, 0.59515, 0.46619], rel=1e-4)
    logits = [[0.2045, 0.405], [-0.0565, 0.32321], [1.59995, 0.53423], [4.03628, -0.48421]]
    np.testing.assert_allclose(result.model.predict(inputs[:4]), logits, rtol=1e-3)


def test_a_bundle_of_a_table_predicts_the_same():
    bundle = Bundle.load(WRITTEN / "bundle")
    rows = [
        {"rooms": 3, "area": 71.5, "colour": "blue", "built": "2014-05-12"},
        {"rooms": 5, "area": None, "colour": "red", "built": "2022-01-10"},
    ]
    np.testing.assert_allclose(bundle.predict(rows), [[130648.8], [117398.82]], rtol=1e-5)
