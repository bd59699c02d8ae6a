"""How many examples evaluation takes at a time: no more memory than training, the same numbers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Bundle, metrics, training
from jaxnet.app.command_line import from_command_line
from jaxnet.training import Trainer, evaluation
from jaxnet.training.evaluation import BatchSize
from tests.networks import Dense
from tests.training.helpers import classifier, table
from train import classify


def sizes(trainer: Trainer, what: str) -> list[int]:
    """The batch sizes that a program was compiled for."""
    traces = trainer.programs.compiles.traces
    if what == "prediction":
        names = [name.partition(" of ") for name in traces]
        return sorted(int(size) for name, _, size in names if name == what)
    return [int(feed[".stack['mask']"].rpartition(", ")[2].rstrip("]")) for feed in traces[what]]


def test_a_small_network_takes_at_most_256_examples_at_a_time():
    trainer = Trainer(classifier())
    result = trainer.fit(table(40), table(30, 1), epochs=1, batch_size=8)
    trainer.predict(result.state, table(300)[0])
    assert sizes(trainer, "evaluation") == [256]
    assert sizes(trainer, "prediction") == [64, 256]


class Deep(nn.Module):
    """Small layers that are used at many places: activations take far more than parameters."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = jnp.broadcast_to(inputs[:, None], (len(inputs), 100, 4))
        for _ in range(8):
            hidden = nn.tanh(Dense(4)(hidden))
        return Dense(3)(hidden.mean(axis=1))


@pytest.mark.slow
def test_a_large_network_is_evaluated_in_a_part_of_what_training_needs(monkeypatch):
    monkeypatch.setattr(evaluation, "WORKING_BYTES", 1 << 10)
    trainer = Trainer(classifier(Deep()))
    data = table(60)
    result = trainer.fit(data, table(20, 1), epochs=1, batch_size=16)
    trainer.predict(result.state, data[0])
    (size,) = sizes(trainer, "evaluation")
    assert max(sizes(trainer, "prediction")) == size

    def bytes_of(use: Any, rows: int) -> int:
        batch = {"inputs": np.zeros((rows, 4), np.float32), "labels": np.zeros(rows, np.int32)}
        batch["mask"] = np.ones(rows, bool)
        return trainer.programs.working_bytes(use, result.state, batch)

    room = bytes_of("train", 16) // evaluation.TRAINING_PART
    assert bytes_of("evaluate", size) <= room < bytes_of("evaluate", 4 * size)
    assert 1 < size < 256


@pytest.mark.parametrize("needed", [1, 2**29, 2**29 + 1, 2**30, 2**30 + 1, 2**35, 2**60])
def test_a_batch_is_the_largest_power_of_two_with_room(needed):
    size = BatchSize().examples("evaluate", lambda: needed)
    assert size in {2**power for power in range(9)}
    assert size == 1 or needed * size / 256 <= evaluation.WORKING_BYTES
    assert size == 256 or needed * 2 * size / 256 > evaluation.WORKING_BYTES


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_it():
    task = classifier(eval_metrics={"confusion": metrics.confusion_matrix(3)})
    whole = Trainer(task)
    state = whole.fit(table(40), epochs=1).state
    data = table(300, 1)
    expected = whole.evaluate(state, data)
    confusion = expected.pop("confusion")
    for rows in (1, 7):
        got = Trainer(task, eval_batch_size=rows).evaluate(state, data)
        np.testing.assert_array_equal(got.pop("confusion"), confusion)
        assert got == pytest.approx(expected, rel=1e-6)


def test_a_bundle_of_a_large_network_predicts_few_at_a_time(monkeypatch):
    result = Trainer(classifier()).fit(table(40), epochs=1)
    inputs = table(50)[0]
    expected = Bundle.of(result.model).predict(inputs)
    monkeypatch.setattr(evaluation, "WORKING_BYTES", 1 << 10)
    bundle = Bundle.of(result.model)
    np.testing.assert_allclose(bundle.predict(inputs), expected, rtol=1e-5, atol=1e-6)
    assert "prediction of 256" not in bundle._programs.compiles.traces


class Told(Exception):
    pass


@pytest.mark.parametrize("folds", [[], ["--folds", "3"]])
def test_the_option_reaches_the_trainer(folds, tmp_path, monkeypatch):
    def trainer(*_: Any, **options: Any) -> Trainer:
        raise Told(options["eval_batch_size"])

    monkeypatch.setattr(training, "Trainer", trainer)
    words = ["--eval-batch-size", "7", "--run-dir", str(tmp_path), "--model", "mlp", *folds]
    with pytest.raises(Told, match=r"^7$"):
        classify.train(from_command_line(classify.Config, words, classify.PROGRAM))
