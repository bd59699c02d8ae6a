"""What stands around a task hands on all that it doesn't change, in every combination."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.training import (
    ReduceOnPlateau,
    accumulate,
    augment,
    clip,
    clip_values,
    expert_parallel,
    freeze,
    freeze_except,
    guard_nonfinite,
    local_sgd,
    log_norms,
    mixed_precision,
    penalize,
    pipelined,
    reduce_on_plateau,
    remat,
    scale_by_path,
    sequence_parallel,
    with_ema,
)
from jaxnet.training.adapters import as_network
from jaxnet.training.task import MEMBERS
from jaxnet.training.tasks.supervised import Supervised
from jaxnet.training.techniques.guard import WholeStep
from jaxnet.training.techniques.transforms import Technique, chain
from tests.training.helpers import MLP, classifier, make_batch, started

TECHNIQUES = {
    "accumulate": lambda t: accumulate(t, 2),
    "augment": lambda t: augment(t, lambda key, batch: dict(batch)),
    "bf16": lambda t: mixed_precision(t, "bf16"),
    "clip": lambda t: clip(t, 1.0),
    "clip_values": lambda t: clip_values(t, 1.0),
    "expert_parallel": expert_parallel,
    "fp16": lambda t: mixed_precision(t, "fp16"),
    "freeze": lambda t: freeze(t, "**/bias"),
    "freeze_except": lambda t: freeze_except(t, "**/bias"),
    "log_norms": log_norms,
    "penalize": lambda t: penalize(t, l2=0.1),
    "pipelined": lambda t: pipelined(t, 2),
    "reduce_on_plateau": lambda t: reduce_on_plateau(t, ReduceOnPlateau()),
    "remat": remat,
    "scale_by_path": lambda t: scale_by_path(t, {"**": 0.5}),
    "sequence_parallel": sequence_parallel,
    "with_ema": lambda t: with_ema(t, 0.9),
}
WHOLE = {
    "skip": lambda t: guard_nonfinite(t, "skip"),
    "stop": lambda t: guard_nonfinite(t, "stop"),
    "local_sgd": lambda t: local_sgd(t, 2),
}
SGD, NETWORK = optax.sgd(0.5), as_network(MLP(outputs=4))
ONCE = {"fp16", "bf16", "reduce_on_plateau", "with_ema"}
PAIRS = [
    *((a, b) for a, b in itertools.product(TECHNIQUES, TECHNIQUES) if not (a == b and a in ONCE)),
    *itertools.product(TECHNIQUES, WHOLE),
    *(("local_sgd", guard) for guard in ("skip", "stop")),
    *itertools.product(("skip", "stop"), ("skip", "stop")),
]


def wrappers(task: Any) -> list[tuple[type, dict[str, Any]]]:
    """The class and the settings of each technique, from the outermost on."""
    *around, _ = chain(task)
    return [
        (type(one), {f.name: getattr(one, f.name) for f in fields(one) if f.name != "task"})
        for one in around
    ]


@pytest.mark.parametrize("inner", [*TECHNIQUES, "local_sgd", "skip", "stop"])
def test_a_change_of_what_is_within_keeps_all_that_stands_around(inner):
    every = {**TECHNIQUES, **WHOLE}
    for first, second in PAIRS:
        if first != inner:
            continue
        task = every[second](every[first](classifier()))
        changed = task.map_optimizer(lambda _: SGD)
        assert innermost(changed).optimizer is SGD, (first, second)
        assert wrappers(changed) == wrappers(task), (first, second)

        changed = task.map_network(lambda _: NETWORK)
        assert innermost(changed).network is NETWORK, (first, second)
        kept = [(kind, {**own, "plain": None}) for kind, own in wrappers(task)]
        assert [(k, {**own, "plain": None}) for k, own in wrappers(changed)] == kept
        for kind, own in wrappers(changed):  # a pipeline's network as one device runs it
            assert own.get("plain", NETWORK) is NETWORK, (kind, first, second)


def innermost(task: Any) -> Supervised:
    *_, last = chain(task)
    assert isinstance(last, Supervised)
    return last


@dataclass(frozen=True)
class Own(Supervised):
    """A task of one's own that has all that a task may have."""

    prediction_inputs = jax.ShapeDtypeStruct((4,), jnp.float32)

    @property
    def after_evaluation(self):
        return lambda state, row: replace(state, params=jax.tree.map(jnp.zeros_like, state.params))

    def sound(self, before, after):
        return (after.params["Dense_0"]["bias"] < 1).all()


OWN = Own(**{f.name: getattr(classifier(), f.name) for f in fields(Supervised)})


@pytest.mark.parametrize("wrap", [remat, *WHOLE.values()])
def test_what_a_task_may_have_is_there_if_the_task_within_has_it(wrap):
    task, plain = wrap(OWN), wrap(classifier())
    assert task.prediction_inputs is OWN.prediction_inputs
    assert plain.prediction_inputs is None
    state = started(task, make_batch(8))
    emptied = jax.jit(task.after_evaluation)(state, {}).params
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(emptied))
    assert plain.after_evaluation is None
    sound = jax.jit(task.sound)
    assert sound(state, state)
    bad = jax.tree.map(lambda x: np.full(x.shape, 2, x.dtype), state.params)
    assert not sound(state, replace(state, params=bad))


class Bare:
    """The four functions, and nothing else."""

    def init(self, key, batch): ...
    def train_step(self, state, batch): ...
    def eval_step(self, state, batch): ...
    def predict_step(self, state, batch): ...


def test_what_the_task_within_lacks_its_guard_lacks_too():
    guarded = guard_nonfinite(cast(Any, Bare()), "skip")
    for name in MEMBERS:
        assert getattr(guarded, name) is None, name


def test_what_is_the_task_s_own_is_asked_of_the_task():
    for task in (guard_nonfinite(OWN, "skip"), local_sgd(OWN, 2), remat(OWN)):
        assert not hasattr(task, "model")
        assert isinstance(task, WholeStep | Technique)
        assert task.task.model == OWN.model  # pyright: ignore[reportAttributeAccessIssue]


def test_a_task_is_asked_for_what_it_declares_and_never_probed():
    for file in Path(jaxnet.__file__).parent.rglob("*.py"):
        assert not re.findall(r'getattr\([\w.]*task, "', file.read_text()), file


def test_a_technique_has_all_that_a_task_may_have():
    for kind in (WholeStep, Technique):
        assert [name for name in MEMBERS if name not in vars(kind)] == []
