"""One list of releases that aren't to be used: pyproject.toml, the warning of `fit` and doctor."""

from __future__ import annotations

import itertools
import logging
import tomllib
from importlib import metadata
from pathlib import Path

import flax.linen as nn
import numpy as np
import optax
import pytest

from jaxnet import losses, versions
from jaxnet.training import Supervised, Trainer
from jaxnet.versions import FAULTS, OLDEST, advised, fault, install, release, requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_the_project_requires_what_may_be_used_in_every_extra():
    extras = PROJECT["optional-dependencies"].values()
    required = [*PROJECT["dependencies"], *itertools.chain.from_iterable(extras)]
    of_jax = [each for each in required if each.startswith(("jax>", "jax[", "jax=", "jaxlib"))]
    assert {each.partition(">")[0] for each in of_jax} == {
        *("jax", "jaxlib", "jax[cuda12]", "jax[cuda13]", "jax[tpu]"),
    }
    assert of_jax == [requirement(each.partition(">")[0]) for each in of_jax]


def test_what_is_advised_may_be_used():
    for python in ("3.11.7", "3.12.0", "3.14.0"):
        version = advised(python)
        assert fault(version) is None and release(version, 3) >= release(OLDEST, 3)
    assert install("tpu", "3.11.7") == "pip install 'jax[tpu]==0.10.1' jaxlib==0.10.1"


def test_what_runs_here_may_be_used():
    assert fault(metadata.version("jaxlib")) is None


@pytest.fixture
def faulty(monkeypatch):
    """This process has jaxlib 0.10.2, as far as anybody asks."""
    versions.warn.cache_clear()
    monkeypatch.setattr(versions.metadata, "version", lambda package: FAULTS[0].version)
    yield
    versions.warn.cache_clear()


def test_fit_warns_once_of_a_release_that_is_wrong(faulty, caplog):
    x = np.ones((4, 1), np.float32)
    trainer = Trainer(Supervised(nn.Dense(1), losses.squared_error, optax.sgd(0.1)))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            trainer.fit((x, x), epochs=1, batch_size=4)
    said = [record.getMessage() for record in caplog.records if "jaxlib 0.10.2" in record.message]
    assert len(said) == 1
    assert "wrong numbers" in said[0] and "jax-ml/jax#39103" in said[0] and install() in said[0]


def test_a_fault_of_processors_is_none_of_a_gpu(faulty, caplog):
    versions.warn("gpu")
    assert not caplog.records
