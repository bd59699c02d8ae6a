"""Plans against counts by hand: a network of two layers under each axis, and a transformer's."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxnet.errors import UsageError
from jaxnet.models import GPT2
from jaxnet.parallel.layout import Layout
from jaxnet.plan.cost import plan
from jaxnet.plan.roofline import MACHINES
from jaxnet.plan.tracing import trace

BATCH, IN, HIDDEN, OUT = 64, 32, 128, 16
RULES = (
    ("Dense_0/kernel", (None, "tensor")),
    ("Dense_0/bias", ("tensor",)),
    ("Dense_1/kernel", ("tensor",)),
)
WEIGHTS = IN * HIDDEN + HIDDEN + HIDDEN * OUT + OUT
FLOPS = 3 * 2 * BATCH * (IN * HIDDEN + HIDDEN * OUT)


class TwoLayers(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(HIDDEN)(x))
        return nn.Dense(OUT)(x)


@pytest.fixture(scope="module")
def two_layers():
    return trace(TwoLayers(), (BATCH, IN), optimizer=optax.adam(1e-3))


def sent(planned) -> dict[tuple[str, int], tuple[int, int]]:
    """Size and count by kind and the number of devices."""
    found = {(c.kind, len(c.group)): (c.size, c.count) for c in planned.collectives}
    assert len(found) == len(planned.collectives), planned.collectives
    return found


def test_one_device(two_layers):
    planned = plan(two_layers, Layout())
    assert planned.collectives == () and planned.parameters == WEIGHTS
    held = planned.held
    assert (held.parameters, held.gradients) == (4 * WEIGHTS, 4 * WEIGHTS)
    assert held.optimizer == 4 * (2 * WEIGHTS + 1)  # two moments, and a count
    # The hidden units before and after relu, where it was positive, and the loss's softmax.
    assert held.activations == (4 + 4 + 1) * BATCH * HIDDEN + 4 * BATCH * OUT
    assert planned.flops == FLOPS


def test_data(two_layers):
    planned = plan(two_layers, Layout(data=8))
    assert sent(planned) == {("all-reduce", 8): (4 * WEIGHTS, 1)}
    assert planned.collectives[0].moved == 4 * WEIGHTS * 2 * 7 / 8
    assert planned.held.parameters == 4 * WEIGHTS
    assert planned.flops == FLOPS / 8
    one = plan(two_layers, Layout())
    assert planned.held.activations == one.held.activations / 8


def test_fsdp(two_layers):
    planned = plan(two_layers, Layout(fsdp=8, fsdp_min_size=1000))
    kernels, biases = IN * HIDDEN + HIDDEN * OUT, HIDDEN + OUT
    assert sent(planned) == {
        ("all-gather", 8): (4 * kernels, 2),
        ("reduce-scatter", 8): (4 * kernels, 1),
        ("all-reduce", 8): (4 * biases, 1),
    }
    assert planned.held.parameters == 4 * (kernels // 8 + biases)
    assert planned.held.optimizer == 4 * (2 * (kernels // 8 + biases) + 1)
    # A sixth more than data parallel sends: 3 (n - 1) / n of the parameters, and not 2.
    assert sum(c.moved for c in planned.collectives) == 7 / 8 * 4 * (3 * kernels + 2 * biases)


def test_tensor(two_layers):
    planned = plan(two_layers, Layout(tensor=8, rules=RULES))
    # The second layer's outputs are added up; the first one's inputs are data, without gradient.
    assert sent(planned) == {("all-reduce", 8): (4 * BATCH * OUT, 1)}
    assert planned.held.parameters == 4 * ((WEIGHTS - OUT) // 8 + OUT)
    assert planned.flops == FLOPS / 8
    one, outputs = plan(two_layers, Layout()).held.activations, 4 * BATCH * OUT
    assert planned.held.activations == (one - outputs) / 8 + outputs


def test_data_with_fsdp_and_tensor(two_layers):
    layout = Layout(data=2, fsdp=2, tensor=2, rules=RULES, fsdp_min_size=1000)
    planned = plan(two_layers, layout)
    kernels = IN * HIDDEN + HIDDEN * OUT
    by_axes = {(c.kind, c.group): c.size for c in planned.collectives}
    assert by_axes == {
        ("all-gather", (0, 2)): 4 * kernels // 2,
        ("reduce-scatter", (0, 2)): 4 * kernels // 2,
        # A device has a quarter of the kernels' gradients; biases are whole along fsdp.
        ("all-reduce", (0, 4)): 4 * kernels // 4,
        ("all-reduce", (0, 2, 4, 6)): 4 * (HIDDEN // 2 + OUT),
        ("all-reduce", (0, 1)): 4 * BATCH // 4 * OUT,
    }
    assert planned.flops == FLOPS / 8
    assert planned.held.parameters == 4 * (kernels // 4 + HIDDEN // 2 + OUT)


LAYERS, WIDTH, TIME, WORDS = 4, 32, 16, 64


@pytest.fixture(scope="module")
def gpt():
    model = GPT2(WORDS, TIME, WIDTH, LAYERS, num_heads=4, dropout=0.0)
    tokens = jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32)
    return trace(model, tokens, optimizer=optax.sgd(0.1))


TENSOR = (
    ("embed/embedding", ("tensor",)),
    ("**/query/kernel", (None, "tensor")),
    ("**/key/kernel", (None, "tensor")),
    ("**/value/kernel", (None, "tensor")),
    ("**/out/kernel", ("tensor",)),
    ("**/up/kernel", (None, "tensor")),
    ("**/down/kernel", ("tensor",)),
)
TOKENS = 4 * BATCH * TIME * WIDTH
"""The bytes of the tokens between two layers."""


@pytest.mark.slow
def test_tensor_in_a_transformer(gpt):
    planned = plan(gpt, Layout(tensor=4, rules=TENSOR))
    # Two a block forward and two backward, and one each for the table, read and as last layer.
    assert sent(planned) == {("all-reduce", 4): (TOKENS, 4 * LAYERS + 2)}
    whole, cut = plan(gpt, Layout()), plan(gpt, Layout(data=2, tensor=4, rules=TENSOR))
    assert planned.flops == whole.flops / 4 and cut.flops == whole.flops / 8
    assert 1 / 4 < planned.held.activations / whole.held.activations < 1 / 2
    assert planned.held.activations == 2 * cut.held.activations


def test_sequence(gpt):
    planned = plan(gpt, Layout(sequence=4))
    permutes = [c for c in planned.collectives if c.kind == "collective-permute"]
    # Keys and values of a quarter of the tokens: 3 steps forward, 3 backward, 4 with gradients.
    assert {c.size for c in permutes} == {2 * TOKENS // 4}
    assert sum(c.count for c in permutes) == LAYERS * (3 + 3 + 4)
    (gradients,) = [c for c in planned.collectives if c.kind == "all-reduce"]
    assert gradients.size == 4 * planned.parameters
    assert planned.flops == plan(gpt, Layout()).flops / 4


def test_stage(gpt):
    planned, whole = plan(gpt, Layout(stage=2, micro_batches=8)), plan(gpt, Layout())
    permutes = [c for c in planned.collectives if c.kind == "collective-permute"]
    assert [(c.size, c.count) for c in permutes] == [(TOKENS // 8, 2 * (8 + 2 - 1))]
    assert sent(planned)["all-reduce", 2] == (TOKENS, 2)
    assert planned.idle == 9 / 8
    outside = 4 * (WORDS * WIDTH + TIME * WIDTH + 2 * WIDTH)
    assert planned.held.parameters == outside + (whole.held.parameters - outside) / 2
    head = 3 * 2 * BATCH * TIME * WIDTH * WORDS
    assert planned.flops == head + (whole.flops - head) / 2


def test_the_time_of_a_step(gpt):
    planned = plan(gpt, Layout(data=8, stage=2, micro_batches=4))
    time = planned.time(MACHINES["h100"], "bf16")
    assert time.compute == pytest.approx(planned.flops * 5 / 4 / 989.4e12)
    assert time.memory == pytest.approx(planned.traffic / 3.35e12)
    # Stages are neighbours; of the eight that add up gradients four each are in two hosts.
    gradients, others = (
        sum(c.moved for c in planned.collectives if (len(c.group) == 8) == wanted)
        for wanted in (True, False)
    )
    assert time.network == pytest.approx(gradients / (4 * 50e9) + others / 450e9)


@pytest.mark.slow
def test_bf16_halves_what_is_computed_and_not_what_is_kept_of_parameters():
    tokens = jax.ShapeDtypeStruct((8, TIME), jnp.int32)
    model = GPT2(WORDS, TIME, WIDTH, 1, num_heads=4, dropout=0.0)
    options = {"optimizer": optax.sgd(0.1)}
    full, half = (
        plan(trace(model, tokens, precision=precision, **options), Layout(data=2))
        for precision in ("float32", "bf16")
    )
    assert half.held.parameters == full.held.parameters
    assert half.collectives == full.collectives
    assert half.held.activations < 0.7 * full.held.activations


def test_layouts_that_do_not_fit(two_layers, gpt):
    with pytest.raises(UsageError, match="a batch of 64 examples can't be shared out evenly among"):
        plan(two_layers, Layout(data=48))
    with pytest.raises(UsageError, match="stages share out the blocks"):
        plan(two_layers, Layout(stage=2))
    with pytest.raises(UsageError, match="this network has 4"):
        plan(gpt, Layout(stage=8))
    with pytest.raises(UsageError, match="4 blocks can't be shared out evenly over stage=3"):
        plan(gpt, Layout(stage=3))
    with pytest.raises(UsageError, match=f"{TIME} tokens can't be shared out evenly over sequence"):
        plan(gpt, Layout(sequence=TIME - 1))
    with pytest.raises(UsageError, match="can't be cut into micro_batches=7"):
        plan(gpt, Layout(stage=2, micro_batches=7))
    with pytest.raises(UsageError, match="isn't divisible by tensor=3"):
        plan(two_layers, Layout(tensor=3, rules=RULES))
