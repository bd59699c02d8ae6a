"""What is learnt doesn't depend on the layout: gradients, parameters, statistics, metrics."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from jaxnet.parallel import Layout
from jaxnet.parallel.model_rules import family_rules
from tests.networks import quick_starts
from tests.parallel.equality import assert_leaves
from tests.parallel.helpers import MODELS, Recorded, batches, supervised, take_steps

STEPS = 3
CONVOLUTIONS = (
    ("Conv_0/kernel", (None, None, None, "tensor")),
    ("Conv_1/kernel", (None, None, "tensor")),
    ("Dense_0/kernel", (None, "tensor")),
)
ALL = Layout(data=2, fsdp=2, tensor=2, fsdp_min_size=1)
# Each axis alone where a step compiles in a second, and all at once, which is each pair too. Where
# it takes many, axes come together; test_collectives.py has each alone.
OF_MODEL = {
    "mlp": {
        "data": Layout(data=8),
        "fsdp": Layout(fsdp=8, fsdp_min_size=1),
        "tensor": Layout(tensor=8),
        "data x fsdp x tensor": ALL,
    },
    "cnn": {"data x fsdp x tensor": ALL},
    "gpt2": {
        "data x fsdp x tensor": ALL,
        "fsdp x stage x tensor": Layout(fsdp=2, stage=2, tensor=2, fsdp_min_size=1),
        "data x sequence": Layout(data=2, sequence=4),
    },
    "experts": {"expert x sequence x tensor": Layout(expert=2, sequence=2, tensor=2)},
    "recurrent": {"tensor": Layout(tensor=8)},
    "towers": {"data x tensor": Layout(data=4, tensor=2)},
}


@cache
def on_one_device(name: str) -> list[Any]:
    task = Recorded(supervised(MODELS[name]()))
    with quick_starts():  # test_training.py has the initialisation itself on many devices
        return take_steps(task, batches(name, STEPS), Layout())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [(n, said) for n in MODELS for said in OF_MODEL[n]])
def test_every_leaf_is_that_of_one_device(name, said):
    model = MODELS[name]()
    rules = CONVOLUTIONS if name == "cnn" else family_rules(model)
    layout = replace(OF_MODEL[name][said], rules=rules)
    with quick_starts():
        taken = take_steps(Recorded(supervised(model)), batches(name, STEPS), layout)
    for (state, metrics), (expected, measured) in zip(taken, on_one_device(name), strict=True):
        assert_leaves(state.memory, expected.memory)
        assert_leaves(state.params, expected.params)
        assert_leaves(metrics, measured)
        if name == "cnn":  # batch normalisation: the running statistics are those of the batch
            assert_leaves(state.collections, expected.collections)
            assert state.collections
