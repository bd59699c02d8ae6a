"""Pipelines against the same layers on one device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxnet.models.gpt2 import GPT2
from jaxnet.models.mlp import MLP

from jaxnet import losses
from jaxnet.errors import UsageError
from jaxnet.parallel import (
    STAGES,
    Layout,
    from_plain,
    gpipe,
    in_stages,
    one_forward_one_backward,
    stage_rules,
    to_plain,
)
from jaxnet.training import Supervised, mixed_precision, pipelined
from tests.networks import applied, drawn, quick_starts
from tests.parallel.equality import assert_equal_steps, assert_leaves, collectives, steps
from tests.parallel.test_experts import task as mixtures
from tests.parallel.test_ring import draw, texts

WIDTH, LAYERS = 4, 8


def layers(params, x, side, key):
    """Layers one after the other; `side` scales their outputs."""

    def layer(x, given):
        kernel, bias = given
        return x + jnp.tanh(x @ kernel + bias[None]) * side[:, None], None

    return jax.lax.scan(layer, x, params)[0]


def loss(head, x, targets):
    return jnp.square(x @ head - targets).sum()


def problem(rows):
    params = draw(LAYERS, WIDTH, WIDTH), draw(LAYERS, WIDTH, seed=1)
    inputs, targets = draw(rows, WIDTH, seed=2), draw(rows, 2, seed=3)
    return params, draw(WIDTH, 2, seed=4), inputs, targets, jnp.abs(draw(rows, seed=5))


@functools.cache
def expected(rows):
    def whole(params, head, inputs, targets, side):
        return loss(head, layers(params, inputs, side, None), targets)

    value, grads = jax.jit(jax.value_and_grad(whole, (0, 1, 2)))(*problem(rows))
    return {"loss": value, "grads": grads}


def lies(mesh, stage, rows, *given):
    """The problem on its devices."""
    params, head, *batch = given
    put = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, P(*axes)))  # noqa: E731
    return put(params, "stage"), put(head), *put(batch, "data")


def through_gpipe(parts, mesh, **options):
    def run(params, head, inputs, targets, side):
        pipe = functools.partial(gpipe, layers, micro_batches=parts, mesh=mesh, **options)
        return loss(head, pipe(params, inputs, side), targets)

    def value_and_grads(*given):
        value, grads = jax.value_and_grad(run, (0, 1, 2))(*given)
        return {"loss": value, "grads": grads}

    return value_and_grads


def through_1f1b(parts, mesh):
    def value_and_grads(params, head, inputs, targets, side):
        value, grads = one_forward_one_backward(
            layers, loss, params, head, inputs, targets, side, micro_batches=parts, mesh=mesh
        )
        return {"loss": value, "grads": tuple(grads)}

    return value_and_grads


SCHEDULES = {"gpipe": through_gpipe, "1f1b": through_1f1b}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("stage", "data", "parts", "rows"),
    [
        (4, 2, 3, 12),
        (8, 1, 1, 4),  # fewer micro-batches than stages
        (4, 1, 6, 12),  # more, and not a multiple
        (2, 4, 4, 16),
        (1, 2, 2, 4),
    ],
)
def test_equals_one_device(schedule, stage, data, parts, rows):
    mesh = Layout(data=data, stage=stage).mesh()
    given = lies(mesh, stage, rows, *problem(rows))
    assert_leaves(jax.jit(SCHEDULES[schedule](parts, mesh))(*given), expected(rows))


@pytest.mark.slow
def test_activations_may_be_kept_instead():
    mesh = Layout(stage=4).mesh()
    got = jax.jit(through_gpipe(4, mesh, remat=False))(*problem(8))
    assert_leaves(got, expected(8))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stages_that_have_no_turn_yet_do_no_harm(schedule):
    """A stage at work on nothing must not meet what a real micro-batch never is, zeros say."""
    mesh = Layout(stage=4).mesh()

    def normed(params, x, side, key):
        def layer(x, kernel):
            return x @ kernel / jnp.linalg.norm(x, axis=-1, keepdims=True), None

        return jax.lax.scan(layer, x, params)[0]

    def whole(params, x):
        if schedule == "gpipe":
            return jnp.sum(gpipe(normed, params, x, micro_batches=2, mesh=mesh))
        return one_forward_one_backward(
            normed, lambda h, x, t: jnp.sum(x), params, (), x, (), micro_batches=2, mesh=mesh
        )

    params, _, x, _, _ = problem(8)
    run = jax.value_and_grad(whole) if schedule == "gpipe" else whole
    _, grads = jax.jit(run)(params[0], x)
    grads = grads if schedule == "gpipe" else grads.params
    wanted = jax.grad(lambda p: normed(p, x, None, None)[0].sum())(params[0])
    assert np.isfinite(grads).all() and wanted.shape == grads.shape


@pytest.mark.slow
def test_only_neighbours_talk_in_1f1b_and_once_a_slot():
    mesh = Layout(stage=4, data=2).mesh()
    given = lies(mesh, 4, 16, *problem(16))
    text = jax.jit(through_1f1b(4, mesh)).lower(*given).compile().as_text()
    found = collectives(text)
    micro_batch = 16 // 2 // 4 * WIDTH * 4
    # One of these two in each slot: the pairs that begin with an even stage, or with an odd one.
    permutes = [size for kind, size in found if kind == "collective-permute"]
    assert permutes == [micro_batch] * 2
    sums = sum(size for kind, size in found if kind == "all-reduce")
    params = LAYERS // 4 * (WIDTH * WIDTH + WIDTH) * 4
    head, inputs = WIDTH * 2 * 4, 16 // 2 * WIDTH * 4
    assert sums == params + 4 + head + inputs
    assert {kind for kind, _ in found} == {"collective-permute", "all-reduce"}


@pytest.mark.slow
def test_gpipe_sends_micro_batches_on_and_sums_gradients_once():
    mesh = Layout(stage=4, data=2).mesh()
    given = lies(mesh, 4, 16, *problem(16))
    text = jax.jit(through_gpipe(4, mesh)).lower(*given).compile().as_text()
    found = collectives(text)
    micro_batch = 16 // 2 // 4 * WIDTH * 4
    permutes = [size for kind, size in found if kind == "collective-permute"]
    assert permutes == [micro_batch] * 2  # in the loop forward and in that backward
    params = LAYERS // 4 * (WIDTH * WIDTH + WIDTH) * 4
    sums = sum(size for kind, size in found if kind == "all-reduce")
    # The outputs come from the last stage, the gradients by the inputs from the first one.
    assert sums == params + 4 + WIDTH * 2 * 4 + 2 * (16 // 2 * WIDTH * 4)
    assert {kind for kind, _ in found} == {"collective-permute", "all-reduce"}


@pytest.mark.slow
def test_1f1b_keeps_no_more_micro_batches_than_there_are_stages():
    mesh = Layout(stage=2).mesh()

    def kept(schedule, parts):
        # 1 row each, so that more micro-batches are more rows.
        given = problem(parts)
        compiled = jax.jit(SCHEDULES[schedule](parts, mesh)).lower(*given).compile()
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    row = WIDTH * 4
    few, many = 8, 512
    # Inputs, their gradients and what is summed up of them are kept anyhow.
    more = {schedule: kept(schedule, many) - kept(schedule, few) for schedule in SCHEDULES}
    assert more["1f1b"] + (many - few) * row <= more["gpipe"]


def test_what_cannot_be_cut_is_refused():
    mesh = Layout(stage=8).mesh()
    params, _, inputs, _, side = problem(12)
    with pytest.raises(UsageError, match=r"6 layers can't .* stage=8"):
        gpipe(layers, [p[:6] for p in params], inputs, side, micro_batches=2, mesh=mesh)
    with pytest.raises(UsageError, match="a batch of 12 can't be cut into 5 micro-batches"):
        gpipe(layers, params, inputs, side, micro_batches=5, mesh=mesh)
    mesh = Layout(stage=4, data=2).mesh()
    with pytest.raises(UsageError, match=r"for each of data=2: choose a batch size that 8 divides"):
        gpipe(layers, params, inputs, side, micro_batches=4, mesh=mesh)


# --- a network's blocks as a pipeline -----------------------------------------------------------


# As `jaxnet.models.gpt2` cuts its blocks.
SHARDING = (
    ("**/mlp/up/kernel", (None, "tensor")),
    ("**/mlp/up/bias", ("tensor",)),
    ("**/mlp/down/kernel", ("tensor",)),
)


def language_task(num_layers=4, **options):
    model = GPT2(vocab_size=13, length=8, features=8, num_layers=num_layers, num_heads=2, **options)
    return Supervised(model, losses.cross_entropy, optax.sgd(0.1, momentum=0.9))


# Four blocks of large weights multiply what a step is off by rounding.
small_steps = functools.partial(steps, scale=0.25)


@functools.cache
def expected_steps():
    return small_steps(language_task(dropout=0.0), texts(8, 8))


@pytest.mark.slow
def test_a_language_model_learns_as_on_one_device():
    """Two blocks a stage, which are cut further, and more micro-batches than stages."""
    task = pipelined(language_task(dropout=0.0), 4)
    rules = stage_rules(SHARDING)
    got = small_steps(task, texts(8, 8), Layout(data=2, stage=2, tensor=2, rules=rules))
    assert_equal_steps(got, expected_steps(), plain=to_plain)
    kernel = got[-1].state.params["stack"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 16)
    # What comes of it is plain.
    inference = task.inference(got[-1].state)
    assert_leaves(inference.variables["params"], expected_steps()[-1].state.params, 1e-3)
    predict = jax.jit(lambda v, x: inference.network.apply(v, x, False, None)[0])
    outputs = predict(inference.variables, texts(8, 8)["inputs"])
    alone = jax.jit(language_task(dropout=0.0).predict_step)
    wanted = alone(expected_steps()[-1].state, texts(8, 8))
    assert_leaves({"outputs": outputs}, {"outputs": wanted}, 1e-3)


@pytest.mark.slow
def test_without_a_mesh_blocks_run_one_after_the_other():
    task = pipelined(language_task(dropout=0.0), 4)
    got = small_steps(task, texts(8, 8), count=1)
    assert_equal_steps(got, expected_steps()[:1], plain=to_plain)


@pytest.mark.slow
def test_padding_and_positions_go_along():
    model, tokens = language_task(dropout=0.0).model, texts(8, 8)["inputs"]
    mask = jnp.asarray(np.arange(8)[None] >= np.array([[0], [3]] * 4))
    variables = drawn(model, tokens)
    wanted = applied(model, variables, tokens, mask)
    with jax.set_mesh(Layout(stage=4).mesh()), nn.intercept_methods(in_stages(2)):
        got = jax.jit(model.apply)({"params": from_plain(variables["params"])}, tokens, mask)
    assert_leaves({"y": got}, {"y": wanted})


@pytest.mark.slow
def test_mixtures_in_a_pipeline_add_their_balance():
    task = mixtures(num_layers=2)
    layout = Layout(stage=2, data=2, rules=STAGES)
    got = steps(pipelined(task, 2), texts(16, 8), layout, count=1)
    assert_equal_steps(got, steps(task, texts(16, 8), count=1), plain=to_plain)


@pytest.mark.slow
def test_dropout_draws_anew_for_each_layer_micro_batch_and_device():
    task = pipelined(language_task(num_layers=2, dropout=0.5), 2)
    row = {name: jnp.repeat(x[:1], 4, axis=0) for name, x in texts(4, 8).items()}
    with jax.set_mesh(Layout(stage=2, data=2).mesh()):
        with quick_starts():
            state = jax.jit(task.init)(jax.random.key(0), row)
        inner = task.task.network
        outputs = jax.jit(lambda s, k: inner.apply({"params": s.params}, row["inputs"], True, k)[0])
        y, again = (np.asarray(outputs(state, jax.random.key(k))) for k in (1, 1))
    assert (y == again).all()
    assert len({tuple(each.ravel()) for each in y}) == 4


@pytest.mark.slow
def test_half_precision_reaches_the_blocks_and_what_comes_of_them():
    task, seen = mixed_precision(pipelined(language_task(dropout=0.0), 2), "bf16"), set()

    def noted(call, args, kwargs, context):
        if context.method_name == "mix":  # the queries of an attention
            seen.add(args[0].dtype)
        return call(*args, **kwargs)

    batch = texts(8, 8)
    with jax.set_mesh(Layout(stage=4, rules=STAGES).mesh()), nn.intercept_methods(noted):
        state = jax.eval_shape(task.init, jax.random.key(0), batch)
        seen.clear()  # the start is in float32
        jax.eval_shape(functools.partial(task.gradients, task.objective), state, batch)
    assert seen == {jnp.dtype("bfloat16")}
    came = []
    jax.eval_shape(lambda state: came.append(task.inference(state).network.precision), state)
    assert came == ["bf16"]


@pytest.mark.slow
def test_both_forms_hold_the_same():
    task = language_task(dropout=0.0)
    with quick_starts():
        state = task.init(jax.random.key(0), texts(8, 8))
    stacked = from_plain(state)
    assert sorted(stacked.params["stack"]) == ["blocks"]
    moment = stacked.opt_state[0].trace["stack"]["blocks"]["mlp"]["up"]["kernel"]
    assert moment.shape == (4, 8, 32)
    back = to_plain(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(back.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_is_no_stack_of_equal_blocks_is_refused():
    batch = {"inputs": np.zeros((2, 3), np.float32), "labels": np.zeros(2, np.int32)}
    batch["mask"] = np.ones(2, bool)
    task = Supervised(MLP((4, 2)), losses.cross_entropy, optax.sgd(0.1))
    with pytest.raises(UsageError, match=r"a jaxnet\.layers\.Stack, and this network has none"):
        jax.eval_shape(pipelined(task, 2).init, jax.random.key(0), batch)
    zeros = functools.partial(np.zeros, dtype=np.float32)
    uneven = {"blocks_0": {"kernel": zeros(2)}, "blocks_1": {"kernel": zeros(3)}}
    with pytest.raises(UsageError, match=r"(?s)blocks_1 is not as blocks_0.*float32\[3\]"):
        from_plain({"stack": uneven})


@pytest.mark.slow
def test_a_cache_is_refused():
    task = language_task(dropout=0.0)
    cache, tokens = task.model.init_cache(8, 8), texts(8, 8)["inputs"]
    params = from_plain(drawn(task.model, tokens)["params"])
    refused = pytest.raises(UsageError, match="stack: blocks in a pipeline can't have a cache")
    with nn.intercept_methods(in_stages(2)), refused:
        task.model.apply({"params": params}, tokens, cache=cache)
