"""What is learnt doesn't depend on the layout: gradients, parameters, statistics, metrics."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from jaxnet.parallel import Layout
from jaxnet.parallel.model_rules import family_rules
from tests.parallel.equality import assert_leaves
from tests.parallel.helpers import MODELS, Recorded, batches, supervised, take_steps

STEPS = 3
CONVOLUTIONS = (
    ("Conv_0/kernel", (None, None, None, "tensor")),
    ("Conv_1/kernel", (None, None, "tensor")),
    ("Dense_0/kernel", (None, "tensor")),
)
LAYOUTS = {
    "data": Layout(data=8),
    "fsdp": Layout(fsdp=8, fsdp_min_size=1),
    "tensor": Layout(tensor=8),
    "data x tensor": Layout(data=4, tensor=2),
    "data x fsdp": Layout(data=2, fsdp=4, fsdp_min_size=1),
    "fsdp x tensor": Layout(fsdp=4, tensor=2, fsdp_min_size=1),
    "data x fsdp x tensor": Layout(data=2, fsdp=2, tensor=2, fsdp_min_size=1),
}
# Where compiling takes seconds: each axis, and all at once, which is each pair too.
FEW = {said: LAYOUTS[said] for said in ("data", "fsdp", "tensor", "data x fsdp x tensor")}
# Axes of transformers, each with others: what one device does needs no axis by itself, and
# test_collectives.py has each alone.
TOKENS = {
    "data x fsdp x stage": Layout(data=2, fsdp=2, stage=2, fsdp_min_size=1),
    "stage x tensor": Layout(stage=2, tensor=4),
    "sequence": Layout(sequence=8),
    "data x sequence": Layout(data=2, sequence=4),
}
EXPERTS = {
    "data x expert": Layout(data=2, expert=4),
    "expert x tensor": Layout(expert=4, tensor=2),
    "expert x sequence": Layout(expert=4, sequence=2),
}
OF_MODEL = {
    "mlp": LAYOUTS,
    "cnn": FEW,
    "gpt2": {"tensor": LAYOUTS["tensor"], "all": LAYOUTS["data x fsdp x tensor"], **TOKENS},
    "experts": EXPERTS,
    "recurrent": {"tensor": Layout(tensor=8)},
    "towers": {"tensor": Layout(tensor=8), "data x tensor": Layout(data=4, tensor=2)},
}
# The rest are slow: each compiles for half a second to three.
QUICK = {("mlp", "fsdp x tensor")}


@cache
def on_one_device(name: str) -> list[Any]:
    task = Recorded(supervised(MODELS[name]()))
    return take_steps(task, batches(name, STEPS), Layout())


def cases() -> list[Any]:
    return [
        pytest.param(name, said, marks=() if (name, said) in QUICK else pytest.mark.slow)
        for name in MODELS
        for said in OF_MODEL[name]
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), cases())
def test_every_leaf_is_that_of_one_device(name, said):
    model = MODELS[name]()
    rules = CONVOLUTIONS if name == "cnn" else family_rules(model)
    layout = replace(OF_MODEL[name][said], rules=rules)
    taken = take_steps(Recorded(supervised(model)), batches(name, STEPS), layout)
    for (state, metrics), (expected, measured) in zip(taken, on_one_device(name), strict=True):
        assert_leaves(state.memory, expected.memory)
        assert_leaves(state.params, expected.params)
        assert_leaves(metrics, measured)
        if name == "cnn":  # batch normalisation: the running statistics are those of the batch
            assert_leaves(state.collections, expected.collections)
            assert state.collections
