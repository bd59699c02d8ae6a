"""A run goes on only with its own data, mappings and task, and the message says what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics, optimizers
from jaxnet.data import Arrays, Records, fit_standard, fit_table, fit_texts, read_table
from jaxnet.data.fingerprints import data_fingerprints
from jaxnet.data.pipeline.device_batches import Chunk, Streamed
from jaxnet.errors import UsageError
from jaxnet.training import (
    Checkpoints,
    ReduceOnPlateau,
    Supervised,
    Trainer,
    accumulate,
    clip,
    reduce_on_plateau,
)
from jaxnet.training.fingerprints import of_mappings, other_data
from tests.training.helpers import MLP, saved_steps, table

TRAIN = Arrays(*table(24), class_names=("a", "b", "c"))
VALID = Arrays(*table(12, seed=1), class_names=("a", "b", "c"))
ENCODER = fit_texts(["to be or", "not to be"], length=4)


class Net(nn.Module):
    """A network with what is done in training alone."""

    activation: Callable[[jax.Array], jax.Array] = nn.tanh
    dropout: float = 0.5
    initial: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        hidden = self.activation(nn.Dense(8, kernel_init=self.initial)(inputs))
        return nn.Dense(3)(nn.Dropout(self.dropout, deterministic=not train)(hidden))


def task(
    model: Any = None, loss: Any = losses.cross_entropy, optimizer: Any = None, **options: Any
):
    """A task; made anew each time, so that it shares no trace with another one."""
    optimizer = optimizer or optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)
    return Supervised(model or Net(), loss, optimizer, **options)


def fit(folder: Path, made: Any, train: Any = TRAIN, valid: Any = VALID, **options: Any):
    trainer = Trainer(made, checkpoints=Checkpoints(folder))
    return trainer.fit(train, valid, **{"epochs": 1, "mappings": {"encoder": ENCODER}, **options})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; what is refused leaves it as it is."""
    folder = tmp_path_factory.mktemp("begun")
    fit(folder, task())
    return folder


def refused(folder: Path, *arguments: Any, **options: Any) -> str:
    """What is said against going on, for which nothing is compiled and nothing written."""
    before = saved_steps(folder)
    with pytest.raises(UsageError) as raised:
        fit(folder, *arguments, epochs=2, **options)
    assert saved_steps(folder) == before
    assert str(raised.value).startswith(f"{folder}: this run was started with")
    assert "--no-resume" in str(raised.value)
    return str(raised.value)


NETWORK, LOSS, UPDATE = "the network, or the preprocessing", "the loss", "the optimizer: its kind"
INITIAL = "the initial parameters"
IN_TRAINING = "something used in training only"
TASKS = {
    "activation": (lambda: task(Net(nn.relu)), NETWORK),
    "preprocessing": (lambda: task(preprocess=fit_standard(TRAIN)), NETWORK),
    "dropout": (lambda: task(Net(dropout=0.4)), IN_TRAINING),
    "initialisation": (
        lambda: task(Net(initial=nn.initializers.he_normal())),
        INITIAL,
    ),
    "label smoothing": (
        lambda: task(loss=lambda o, y: losses.cross_entropy(o, y, label_smoothing=0.1)),
        LOSS,
    ),
    "class weights": (
        lambda: task(loss=losses.with_class_weights(losses.cross_entropy, [1.0, 1.0, 2.0])),
        LOSS,
    ),
    "learning rate in the state": (
        lambda: task(optimizer=optax.inject_hyperparams(optax.sgd)(0.2, momentum=0.9)),
        UPDATE,
    ),
    "momentum": (
        lambda: task(optimizer=optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.8)),
        UPDATE,
    ),
    "nesterov": (
        lambda: task(
            optimizer=optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9, nesterov=True)
        ),
        UPDATE,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_another_task_is_told_by_what_differs(name, begun):
    make, said = TASKS[name]
    message = refused(begun, make())
    assert "another task. What differs is:" in message and said in message
    others = {NETWORK, LOSS, UPDATE, INITIAL, IN_TRAINING} - {said}
    assert not [other for other in others if f"\n  {other}" in message]


@pytest.mark.slow
def test_numbers_within_the_step_count(tmp_path):
    """A rate, a schedule and its length, and a threshold: constants of the step."""

    def made(rate: float = 0.1, steps: int = 8, norm: float = 1.0):
        cosine = optimizers.schedule("cosine", rate, steps)
        return clip(task(MLP(), optimizer=optimizers.by_name("momentum", cosine)), norm)

    fit(tmp_path, made())
    for change in ({"rate": 0.2}, {"steps": 16}, {"norm": 2.0}):
        assert f"\n  {UPDATE}" in refused(tmp_path, made(**change))
    assert fit(tmp_path, made(), epochs=2).history["epoch"] == [1, 2]


@pytest.mark.slow
def test_the_rule_that_follows_an_evaluation_counts(tmp_path):
    def made(**rule: Any):
        return reduce_on_plateau(task(MLP()), ReduceOnPlateau(**rule))

    fit(tmp_path, made(factor=0.5))
    for rule in ({"factor": 0.1}, {"factor": 0.5, "monitor": "loss"}):
        assert "the rule of reduce_on_plateau" in refused(tmp_path, made(**rule))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: accumulate(one, 2)])
def test_what_only_measures_may_change(wrap, tmp_path):
    fit(tmp_path, wrap(task(MLP())))
    more = {
        "metrics": {"accuracy": metrics.accuracy},
        "eval_metrics": {"f1": metrics.METRICS["f1"]},
    }
    history = fit(tmp_path, wrap(task(MLP(), **more)), epochs=2).history
    assert history["epoch"] == [1, 2] and not np.isnan(history["val_f1"][1])


def _with(array: np.ndarray, *place: int) -> np.ndarray:
    changed = array.copy()
    changed[place] = (changed[place] + 1) % 3
    return changed


DATA = {
    "a label": (
        Arrays(TRAIN.inputs, _with(TRAIN.labels, 17), class_names=TRAIN.class_names),
        "labels",
    ),
    "labels turned round": (replace(TRAIN, labels=2 - TRAIN.labels), "labels"),
    "class names": (replace(TRAIN, class_names=("a", "c", "b")), "class names"),
    "an input": (replace(TRAIN, inputs=_with(TRAIN.inputs, 5, 2)), "inputs"),
    "columns": (replace(TRAIN, inputs=TRAIN.inputs[:, ::-1]), "inputs"),
    "weights": (replace(TRAIN, weights=np.linspace(1, 2, 24)), "weights"),
    "rows in another order": (TRAIN.take(np.arange(24)[::-1]), "inputs and labels"),
}


@pytest.mark.parametrize("name", DATA)
def test_other_data_is_told_by_what_differs(name, begun):
    data, part = DATA[name]
    differ = "differ" if part.endswith("s") else "differs"
    line = f"\n  the training data: its {part} {differ}\n"
    assert line in refused(begun, task(), data)


def test_other_validation_data_is_told_too(begun):
    message = refused(begun, task(), TRAIN, VALID.take(np.arange(11)))
    assert "the validation data: its inputs and labels differ" in message


def test_another_encoder_is_told_by_its_part(begun):
    for other, part in (
        (fit_texts(["to bee or", "not to bee"], length=4), "tokenizer differs"),
        (replace(ENCODER, start=True), "start differs"),
    ):
        assert f"\n  the encoder: its {part}\n" in refused(
            begun, task(), mappings={"encoder": other}
        )


def test_a_table_encoder_is_told_by_its_columns():
    def encoder(colours: str, columns: str = "cx"):
        rows = [{"c": c, "x": float(i), "y": i % 2} for i, c in enumerate(colours)]
        rows = [{name: row[name] for name in (*columns, "y")} for row in rows]
        return of_mappings({"encoder": fit_table(read_table(rows, "y"))})

    before = encoder("rgrgbb")
    assert not other_data(before, encoder("rgrgbb"))
    for now, said in (
        (encoder("zgzgbb"), "the encoder: its column 'c' differs"),
        (encoder("rgrgbb", "xc"), "the encoder: its column order differs"),
    ):
        assert other_data(before, now) == [said]


@pytest.mark.slow
def test_ids_count(begun, tmp_path):
    fit(tmp_path, task(MLP()), mappings={"items": ["tea", "milk"]})
    message = refused(tmp_path, task(MLP()), mappings={"items": ["milk", "tea"]})
    assert "\n  the items differ\n" in message


@pytest.mark.slow
def test_of_another_version_it_is_only_a_warning(begun, tmp_path, caplog):
    fit(tmp_path, task(MLP()))
    _edit(tmp_path, lambda known: known | {"version/jax": "0.0.1", "task/update": "other"})
    assert fit(tmp_path, task(MLP()), epochs=2).last_step == 2
    assert "the optimizer: its kind" in caplog.text
    assert f"other versions (jax 0.0.1 -> {jax.__version__})" in caplog.text


def test_of_an_earlier_version_nothing_is_known(tmp_path, caplog):
    fit(tmp_path, task(MLP()))
    _edit(tmp_path, lambda known: {})
    result = fit(tmp_path, task(MLP()), epochs=2)
    assert "started by an earlier version" in caplog.text
    assert result.last_step == 2 and result.fingerprints
    assert "its labels differ" in refused(tmp_path, task(MLP()), DATA["a label"][0])


def _edit(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Change what the checkpoint knows the run by, without its inventory."""
    (step,) = saved_steps(folder)
    file = folder / str(step) / "progress" / "metadata"
    noted = json.loads(file.read_text())
    noted["progress"]["fingerprints"] = change(noted["progress"]["fingerprints"])
    file.write_text(json.dumps(noted))
    inventory = folder / str(step) / "inventory.json"
    values = json.loads(inventory.read_text())
    del values["progress/metadata"]
    inventory.write_text(json.dumps(values))


def test_data_of_all_kinds_has_fingerprints():
    inputs, labels = table(40)
    source = Records(list(zip(inputs, labels, strict=True)), labels=labels)

    @dataclass
    class Own:
        name: str = "own"

        def chunks(self, *_: Any) -> Iterator[Chunk]:
            batch = {"inputs": inputs[:4], "mask": np.ones(4, bool)}
            yield Chunk(Streamed(jax.tree.map(lambda x: jnp.asarray(x[None]), batch)), 1)

    for data in ((inputs, labels), source, Own()):
        before = data_fingerprints(data)
        assert data_fingerprints(data) == before and before["inputs"]
    swapped = replace(source, labels=_with(labels, 3))
    assert data_fingerprints(swapped)["labels"] != data_fingerprints(source)["labels"]


def test_what_is_drawn_anew_is_no_fingerprint_and_is_told(caplog):
    draws = np.random.default_rng(0)

    class Drawn:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, row: int) -> tuple[Any, Any]:
            return draws.normal(size=2).astype(np.float32), np.int32(row)

    assert "inputs" not in data_fingerprints(Records(Drawn()))
    assert "records: its inputs are others whenever they are read" in caplog.text


SCRIPT = """
import json, jax, numpy as np
from tests.training.test_fingerprints import *
from jaxnet.training.programs import Programs
from jaxnet.training import fingerprints, log_norms, with_ema
from jaxnet.data import augmentation
from jaxnet import models
cases = {
    "mlp": (clip(with_ema(task(), 0.9), 1.0), {"inputs": np.zeros((4, 4), np.float32)}),
    "cnn": (
        log_norms(accumulate(task(models.CNN((4,), dense=(4,), num_classes=3)), 2)),
        {"inputs": np.zeros((4, 8, 8, 1), np.float32)},
    ),
    "gpt": (
        task(models.GPT2(5, 4, 8, 2, 2), optimizer=optimizers.by_name("adamw", 0.1)),
        {"inputs": np.zeros((4, 4), np.int32), "labels": np.zeros((4, 4), np.int32)},
    ),
    "lstm": (
        task(models.RecurrentClassifier(5, 3)),
        {"inputs": np.zeros((4, 4), np.int32)},
    ),
}
found = {"data": fingerprints.of_data(TRAIN, VALID), "encoder": of_mappings({"encoder": ENCODER})}
for name, (one, batch) in cases.items():
    batch = {"labels": np.zeros(4, np.int32), "mask": np.ones(4, bool), **batch}
    programs = Programs(one)
    key = jax.random.key(0)
    state = programs.state(key, batch)
    found[name] = fingerprints.of_task(programs.traced(key, state, batch, {}))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_find_the_same():
    """No address, no order of a set, no line of source code gets into a fingerprint."""
    found = []
    for seed, lines in (("1", 0), ("2", 7)):
        done = subprocess.run(
            [sys.executable, "-c", "\n" * lines + SCRIPT],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert len({values["task/step"] for values in found[0].values() if "task/step" in values}) == 4
