"""A training step compiled and op by op: what differs is named, and what agrees is said."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.app import cli
from jaxnet.doctor import command, runs, step
from jaxnet.doctor.step import compare
from jaxnet.errors import InputError, UsageError
from jaxnet.training import Supervised, guard_nonfinite, mixed_precision
from jaxnet.training.network import Precision
from train import regress


class Net(nn.Module):
    """Three layers, of which one computes something else when it is compiled."""

    wrong: float = 0.0

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(8, name="first")(x))
        x = Miscompiled(self.wrong, name="second")(x)
        return nn.Dense(2, name="third")(x)


class Miscompiled(nn.Module):
    wrong: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (8,))
        compiled = isinstance(x, jax.core.Tracer) and not jax.config.jax_disable_jit
        return x * (scale + (self.wrong if compiled else 0.0))[None]


BATCH = {
    "inputs": jnp.asarray(np.random.default_rng(0).standard_normal((8, 4)), jnp.float32),
    "labels": jnp.arange(8) % 2,
    "mask": jnp.ones(8, bool),
}


@functools.cache
def stages(wrong: float = 0.0, precision: Precision = "float32") -> tuple[step.Stage, ...]:
    task = Supervised(Net(wrong), losses.cross_entropy, optax.sgd(1e-2))
    task = guard_nonfinite(mixed_precision(task, precision), "stop")
    return compare(task, task.init(jax.random.key(0), BATCH), BATCH)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_step_that_is_right_agrees(precision):
    found = stages(precision=precision)
    assert not [stage for stage in found if stage.differs]
    names = [stage.name for stage in found]
    assert names[:3] == [f"the layer {name}" for name in ("first", "second", "third")]
    assert {"the gradient of second/scale", "the update of first/kernel"} <= {*names}
    assert any(name.startswith("the metric loss") for name in names)


@pytest.mark.slow
def test_the_first_layer_that_differs_is_named():
    wrong = [stage for stage in stages(0.5) if stage.differs]
    assert wrong[0].name == "the layer second" and wrong[0].apart == pytest.approx(0.5, rel=1e-3)
    assert len(wrong) > 1


def test_a_nan_in_one_of_the_two_differs():
    one, nan = np.ones(3), np.array([1.0, np.nan, 1.0])
    assert step.apart(nan, one) == step.apart(one, nan) == float("inf")
    assert step.apart(nan, nan) == 0 and step.apart(one, np.ones(4)) == float("inf")
    # What is small beside the rest is rounding.
    assert step.apart([one * 1e-9], [one * 2e-9], least=1e-3) < 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder of `train.regress`, as the command leaves it."""
    folder = tmp_path_factory.mktemp("run")
    small = regress.Network(hidden=(8,), dropout=0.1)
    config = regress.Config(run_dir=folder, epochs=1, progress=False, network=small)
    assert regress.train(config) == cli.DONE
    return folder


@pytest.mark.slow
def test_a_run_is_checked_and_left_as_it_was(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert json.loads((run / "run.json").read_text())["program"] == "train.regress"
    assert command.doctor(command.Config(run=run, json=True)) == cli.DONE
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert "train.regress, step 10, a batch of 32" in found["what"]
    assert "op by op agree" in found["what"] and found["level"] == "ok"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_step_that_differs_is_a_problem_that_names_the_layer():
    found = runs.judged("a run", stages(0.5))
    assert found.level == "problem" and "differ first in the layer second, by 5.0e-01" in found.what
    assert "jaxnet doctor" in found.advice
    assert runs.judged("a run", stages()).level == "ok"


def test_a_package_train_of_somebody_else_is_asked_for_its_own_programs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "train.mine", ModuleType("train.mine"))
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InputError, match=r"train\.mine has no function `problem`"):
        runs.check(tmp_path, "train.mine")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        runs.check(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UsageError, match=r"--program train\.classify"):
        runs.check(tmp_path)
    with pytest.raises(InputError, match=r"train\.nothing, which can't be imported"):
        runs.check(tmp_path, "train.nothing")
    with pytest.raises(UsageError, match="with --run FOLDER"):
        command.doctor(command.Config(program="train.regress"))
