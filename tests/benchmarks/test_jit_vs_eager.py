from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import pytest
from flax import linen as nn

from benchmarks import jit_vs_eager
from benchmarks.jit_vs_eager import LAYERS, MODELS, Options, measure
from jaxnet import layers, models

# Why nobody times these by themselves.
ELSEWHERE = {
    layers.AvgPool: "avg_pool with its options in fields",
    layers.MaxPool: "max_pool, likewise",
    layers.MinPool: "min_pool, likewise",
    layers.Flatten: "reshapes",
    layers.Sequential: "is its layers",
    layers.Stack: "is its blocks: GPT2 and other models",
}


def kinds(value: Any) -> set[type]:
    """The classes of modules in a module, or in what makes one."""
    if isinstance(value, partial):
        return {value.func}
    if not isinstance(value, nn.Module):
        return set()
    fields = (getattr(value, field.name) for field in dataclasses.fields(value))
    return {type(value)}.union(*map(kinds, fields))


def test_every_layer_and_model_is_there():
    """Functions are what the layers compute with."""
    covered = set().union(*(kinds(case.module) for case in (LAYERS | MODELS).values()))
    exported = [*vars(layers).values(), *vars(models).values()]
    wanted = {one for one in exported if isinstance(one, type) and issubclass(one, nn.Module)}
    assert wanted - covered == set(ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BatchNorm", "Ranker"])
def test_jit_and_eager_give_the_same_numbers(name, monkeypatch):
    monkeypatch.setattr(jit_vs_eager, "SECONDS", 0.0)
    case = (LAYERS | MODELS)[name]
    case = case._replace(shape=(4, *case.shape[1:]))
    forward, step = measure(name, case, rounds=2)
    assert (forward.what, step.what) == ("forward", "train step")
    assert forward.kind == ("model" if name in MODELS else "layer")
    for result in (forward, step):
        assert len(result.jit) == len(result.eager) == len(result.speedups) == 2
        assert result.speedups[0] == result.eager[0] / result.jit[0]
        # An update by adam is at most the learning rate, 1e-3.
        assert result.difference < 1e-4


def test_the_difference_is_the_largest_of_all_results():
    first = {"a": [1.0, 2.0], "b": 3.0}
    assert jit_vs_eager._difference(first, {"a": [1.0, 2.5], "b": 3.25}) == 0.5


@pytest.mark.slow
def test_a_part_keeps_the_others_of_the_same_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(jit_vs_eager, "SECONDS", 0.0)

    def measured(name: str) -> list[str]:
        jit_vs_eager.main(Options(only=(name,), rounds=1, out=tmp_path))
        report = json.loads((tmp_path / "jit_vs_eager.json").read_text())
        return [row["name"] for row in report["results"]]

    assert measured("Dropout") == 2 * ["Dropout"]
    assert measured("Dense") == [*2 * ["Dense"], *2 * ["Dropout"]]
    assert measured("Dense") == [*2 * ["Dense"], *2 * ["Dropout"]]
    file = tmp_path / "jit_vs_eager.json"
    report = json.loads(file.read_text())
    file.write_text(json.dumps({**report, "versions": {"jax": "0.1"}}))
    assert measured("Dense") == 2 * ["Dense"]
