"""What the devices send each other in a training step, as the compiled program says.

Besides what is counted here, a step adds up its loss and metrics, a few numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import jax
import optax
import pytest

from jaxnet.parallel import Layout
from jaxnet.parallel.model_rules import family_rules
from jaxnet.plan.collectives import Collective, read
from jaxnet.training.programs import Programs
from tests.parallel.equality import collectives
from tests.parallel.helpers import MODELS, ROWS, batches, supervised

NAMES = ["mlp", pytest.param("gpt2", marks=pytest.mark.slow)]
METRICS = 32
# Of the networks in `helpers`.
HIDDEN, OUT = 32, 4
WORDS, TIME, WIDTH, LAYERS = 64, 8, 64, 2
TOKENS = 4 * ROWS * TIME * WIDTH


def exchanged(name: str, **axes: int) -> tuple[list[Collective], Any]:
    """The collectives of a step, and the parameters' shapes with how they lie."""
    programs, state, batch = stepping(name, **axes)
    found = read(programs.step(state, batch).as_text())
    return [c for c in found if c.size > METRICS], state.params


def stepping(name: str, **axes: int) -> tuple[Programs, Any, Any]:
    """The programs, and the shapes of a state and a batch."""
    model = MODELS[name]()
    batch = {
        column: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for column, leaf in batches(name, 1)[0].items()
    }
    layout = replace(Layout(**axes), fsdp_min_size=1, rules=family_rules(model))
    programs = Programs(supervised(model, optax.sgd(0.1)), layout=layout)
    return programs, programs.state(jax.random.key(0), batch), batch


def sizes(collectives: list[Collective], kind: str) -> Counter[int]:
    found: Counter[int] = Counter()
    for collective in collectives:
        if collective.kind == kind:
            found[collective.size] += collective.count
    return found


def total(collectives: list[Collective], kind: str) -> int:
    return sum(size * count for size, count in sizes(collectives, kind).items())


def size(leaf: Any) -> int:
    return 4 * math.prod(leaf.shape)


def by_path(params: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in found]


def gradients(name: str, params: Any) -> int:
    """The bytes of all gradients; a table that is also the last layer has two, added up later."""
    tied = 4 * WORDS * WIDTH if name == "gpt2" else 0
    return sum(map(size, jax.tree.leaves(params))) + tied


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_data_parallel_adds_up_each_gradient_once_and_does_nothing_else(name):
    found, params = exchanged(name, data=8)
    assert {c.kind for c in found} == {"all-reduce"} and {len(c.group) for c in found} == {8}
    wanted = gradients(name, params)
    assert wanted <= total(found, "all-reduce") <= wanted + METRICS


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_fully_sharded_gathers_each_parameter_that_lies_in_pieces(name):
    found, params = exchanged(name, fsdp=8)
    pieces = [p for p in jax.tree.leaves(params) if not p.sharding.is_fully_replicated]
    assert len(pieces) >= 5
    assert sizes(found, "all-gather") == Counter(map(size, pieces))
    # XLA adds up and cuts in one on GPUs and TPUs; on the CPU it adds up the whole, then cuts.
    added = total(found, "all-reduce") + total(found, "reduce-scatter")
    wanted = gradients(name, params)
    assert wanted <= added <= wanted + METRICS


@pytest.mark.slow
def test_tensor_parallel_adds_up_the_outputs_of_the_second_layer_and_gathers_nothing():
    found, _ = exchanged("mlp", tensor=8)
    assert [(c.kind, c.size, c.count) for c in found] == [("all-reduce", 4 * ROWS * HIDDEN, 1)]


@pytest.mark.slow
def test_tensor_parallel_in_a_transformer_gathers_no_parameter():
    found, params = exchanged("gpt2", tensor=8)
    cut = [size(p) for p in jax.tree.leaves(params) if not p.sharding.is_fully_replicated]
    assert len(cut) > 12 * LAYERS / 2
    assert not sizes(found, "all-gather").keys() & set(cut)
    # Forward two a block and one for the table; backward the feed-forward's and one each for
    # queries, keys and values, whose gradients by the inputs are added up after that.
    tokens = total(found, "all-reduce") / TOKENS
    assert math.floor(tokens) == 2 * LAYERS + 1 + 4 * LAYERS + 1


def test_data_and_tensor_parallel_add_up_gradients_among_those_that_hold_the_same():
    found, params = exchanged("mlp", data=4, tensor=2)
    by_group = {c.group: c for c in found}
    held = sum(4 * math.prod(p.sharding.shard_shape(p.shape)) for p in jax.tree.leaves(params))
    assert by_group.keys() == {(0, 1), (0, 2, 4, 6)} and {c.kind for c in found} == {"all-reduce"}
    assert by_group[0, 1].size == 4 * ROWS // 4 * HIDDEN
    assert held <= by_group[0, 2, 4, 6].size <= held + METRICS


@pytest.mark.slow
def test_fully_sharded_and_tensor_parallel_gather_what_a_device_needs_of_each_kernel():
    found, params = exchanged("mlp", fsdp=4, tensor=2)
    kernel = params["Dense_0"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (16, 32)
    # Half of the first kernel, whose other half another device multiplies.
    assert sizes(found, "all-gather")[size(kernel) // 2] == 1
    assert size(kernel) not in sizes(found, "all-gather")


def pieces(params: Any) -> int:
    """The bytes of all that a device holds."""
    return sum(
        4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(params)
    )


@pytest.mark.slow
def test_a_pipeline_hands_micro_batches_on_and_gathers_nothing():
    found, params = exchanged("gpt2", data=4, stage=2, micro_batches=2)
    # 2 examples a micro-batch and device: once in each slot of time forward and backward.
    assert sizes(found, "collective-permute") == {2 * TIME * WIDTH * 4: 2 * (2 + 2 - 1)}
    pairs = {c.group for c in found if c.kind == "collective-permute"}
    assert pairs == {(0, 1), (1, 0)}
    assert {c.kind for c in found} == {"collective-permute", "all-reduce"}
    # Gradients are added up among those that hold the same, and the activations that leave the
    # last stage, or gradients the first one, once among the stages.
    within = [c for c in found if c.kind == "all-reduce" and c.group == (0, 1)]
    outside = sum(size(leaf) for path, leaf in by_path(params) if "blocks" not in path)
    added = sum(c.size * c.count for c in found if c.group == (0, 2, 4, 6))
    assert sum(c.size * c.count for c in within) <= 2 * (TOKENS // 4 + METRICS) + outside
    assert added <= pieces(params) + 4 * WORDS * WIDTH + METRICS


@pytest.mark.slow
def test_a_ring_hands_keys_and_values_around_and_gathers_no_parameter():
    programs, state, batch = stepping("gpt2", data=2, sequence=4)
    found = collectives(programs.step(state, batch).as_text())
    # Keys and values of a quarter of the tokens of a half of the examples, and their gradients.
    block = TOKENS // 2 // 4
    permuted = [size for kind, size in found if kind == "collective-permute" and size > METRICS]
    assert set(permuted) == {block} and len(permuted) >= LAYERS * 2 * 3
    assert "all-to-all" not in {kind for kind, _ in found}
    # Each device knows what its tokens do to the table of positions, and that is put together.
    gathered = {size for kind, size in found if kind == "all-gather" and size > METRICS}
    assert gathered <= {4 * TIME * WIDTH}


@pytest.mark.slow
def test_slots_go_to_their_experts_and_back_and_parameters_stay():
    found, params = exchanged("experts", data=2, expert=4)
    # 2 examples a device; in each 8 experts with 3 slots (1.25 x 2 x 8 / 8) of 16 numbers.
    slots = 2 * 8 * 3 * 16 * 4
    assert sizes(found, "all-to-all") == {slots: 2 * 2}
    assert {c.kind for c in found} == {"all-to-all", "all-reduce"}
    # The gradients by experts are added up over data alone.
    kernel = params["stack"]["blocks_0"]["mlp"]["experts"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] == 2
    own = sum(c.size * c.count for c in found if c.kind == "all-reduce" and len(c.group) == 2)
    experts = params["stack"]["blocks_0"]["mlp"]["experts"]
    assert pieces(experts) <= own <= pieces(experts) + METRICS
