from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optimizers
from jaxnet.compute import network_compute, peak_bytes, training_compute, training_memory
from jaxnet.errors import InputError, UsageError

# Brown et al. 2020, table D.1: PF-days, FLOP, parameters in millions, tokens in billions, and the
# share of the parameters that is active for a token.
PUBLISHED = {
    "T5-Small": (2.08e00, 1.80e20, 60, 1000, 0.5),
    "T5-Base": (7.64e00, 6.60e20, 220, 1000, 0.5),
    "T5-Large": (2.67e01, 2.31e21, 770, 1000, 0.5),
    "T5-3B": (1.04e02, 9.00e21, 3000, 1000, 0.5),
    "T5-11B": (3.82e02, 3.30e22, 11000, 1000, 0.5),
    "BERT-Base": (1.89e00, 1.64e20, 109, 250, 1.0),
    "BERT-Large": (6.16e00, 5.33e20, 355, 250, 1.0),
    "RoBERTa-Base": (1.74e01, 1.50e21, 125, 2000, 1.0),
    "RoBERTa-Large": (4.93e01, 4.26e21, 355, 2000, 1.0),
    "GPT-3 Small": (2.60e00, 2.25e20, 125, 300, 1.0),
    "GPT-3 Medium": (7.42e00, 6.41e20, 356, 300, 1.0),
    "GPT-3 Large": (1.58e01, 1.37e21, 760, 300, 1.0),
    "GPT-3 XL": (2.75e01, 2.38e21, 1320, 300, 1.0),
    "GPT-3 2.7B": (5.52e01, 4.77e21, 2650, 300, 1.0),
    "GPT-3 6.7B": (1.39e02, 1.20e22, 6660, 300, 1.0),
    "GPT-3 13B": (2.68e02, 2.31e22, 12850, 300, 1.0),
    "GPT-3 175B": (3.64e03, 3.14e23, 174600, 300, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_of_the_gpt3_paper(name: str):
    pf_days, flops, millions, billions, active = PUBLISHED[name]
    got = training_compute(millions * 1e6, billions * 1e9, active)
    # As precise as the three digits that are printed.
    np.testing.assert_allclose(got.flops, flops, rtol=4e-3)
    np.testing.assert_allclose(got.pf_days, pf_days, rtol=4e-3)


def test_the_time_on_a_machine():
    # 1,000 devices of 312 TFLOP/s at 40 % of their peak.
    seconds = training_compute(174.6e9, 300e9).seconds(1000 * 312e12, utilization=0.4)
    np.testing.assert_allclose(seconds / 86400, 29.1, rtol=1e-2)


@pytest.mark.parametrize("bad", [(0, 1, 1.0), (1, -1, 1.0), (1, 1, 0.0), (1, 1, 1.5)])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(UsageError, match="training_compute: expected parameters and tokens above"):
        training_compute(*bad)
    with pytest.raises(UsageError, match="utilization"):
        training_compute(1, 1).seconds(1e12, utilization=0)


class Decoder(nn.Module):
    """The products of a decoder's layer, without attention's own."""

    @nn.compact
    def __call__(self, inputs):
        for features in (48, 16, 64, 16):
            inputs = nn.Dense(features, use_bias=False)(inputs)
        return inputs


def test_a_network_without_attention_takes_6_n_d():
    variables = jax.eval_shape(Decoder().init, jax.random.key(0), jnp.ones((1, 16)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    got = network_compute(Decoder(), (4, 32, 16), batches=7)
    assert got.flops == training_compute(parameters, tokens=7 * 4 * 32).flops


def test_a_training_step_of_a_network_takes_three_forward_passes():
    """Against the compiler's count for the gradient by weights and inputs."""

    def step(weights, inputs):
        return jax.grad(lambda w, x: (x @ w).sum(), argnums=(0, 1))(
            weights, inputs
        ), inputs @ weights

    weights, inputs = jnp.ones((64, 32)), jnp.ones((16, 64))
    counted = jax.jit(step).lower(weights, inputs).cost_analysis()["flops"]
    got = network_compute(nn.Dense(32, use_bias=False), (16, 64), batches=1).flops
    np.testing.assert_allclose(counted, got, rtol=0.05)


class Layers(nn.Module):
    """Two layers and batch norm; ReLU's derivative needs a mask of its outputs."""

    @nn.compact
    def __call__(self, inputs, train: bool):
        hidden = nn.tanh(nn.Dense(8, use_bias=False)(inputs))
        hidden = nn.BatchNorm(use_running_average=True)(hidden)
        return nn.Dense(2)(hidden)


def test_memory_by_hand():
    got = training_memory(Layers(), (5, 4), optimizer=optimizers.by_name("adam", 0.1))
    parameters = 4 * 8 + 2 * 8 + 8 * 2 + 2
    assert got.parameters == got.gradients == 4 * parameters
    assert got.optimizer == 2 * 4 * parameters + 4  # two moments and the count
    assert got.collections == 4 * 2 * 8
    # At least the hidden layer and what the second takes in, in float32; some copies at most.
    assert 2 * 4 * 5 * 8 <= got.activations <= 6 * 4 * 5 * 8
    assert got.total == 4 * 4 * parameters + 4 + 64 + got.activations


def test_momentum_takes_half_of_adams_memory_and_sgd_none():
    sizes = {
        name: training_memory(
            nn.Dense(8), (1, 4), optimizer=optimizers.by_name(name, 0.1)
        ).optimizer
        for name in ("sgd", "momentum", "adam")
    }
    assert sizes == {"sgd": 0, "momentum": 4 * 40, "adam": 8 * 40 + 4}


class Deep(nn.Module):
    layer: type[nn.Module]

    @nn.compact
    def __call__(self, inputs):
        for index in range(6):
            inputs = self.layer(name=f"block_{index}")(inputs)
        return inputs


class Block(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.tanh(nn.Dense(16)(nn.tanh(nn.Dense(16)(inputs))))


def test_activations_grow_with_the_batch_and_rematerialisation_drops_them():
    def activations(layer, batch):
        model = Deep(layer)
        return training_memory(model, (batch, 16), optimizer=optax.sgd(0.1)).activations

    plain, remat = (activations(layer, 32) for layer in (Block, nn.remat(Block)))
    # Of each block the hidden layer and the output are kept, or the output alone.
    assert plain >= 2 * remat > 0
    np.testing.assert_allclose(activations(Block, 64), 2 * plain, rtol=0.01)


def test_nothing_is_allocated():
    got = training_memory(nn.Dense(10**6), (1, 10**6), optimizer=optax.adam(0.1))
    assert got.total > 16 * 10**12


def test_bad_inputs_are_refused():
    with pytest.raises(InputError, match="shape"):
        training_memory(nn.Dense(2), "4", optimizer=optax.sgd(0.1))


# --- the memory of a program ---------------------------------------------------------------------


def peak(function, *shapes: tuple[int, ...]) -> int:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return peak_bytes(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_what_is_done_with_makes_room():
    def chain(x):
        for _ in range(5):
            x = jnp.sin(x)
        return x

    def kept(x):
        first = jnp.sin(x)
        return jnp.cos(jnp.sin(jnp.sin(first))) * first

    assert peak(chain, (1000,)) == 2 * 4000
    assert peak(kept, (1000,)) == 3 * 4000
    # The same within programs of their own, in a loop, and under automatic differentiation.
    assert peak(jax.jit(chain), (1000,)) == 2 * 4000
    assert peak(lambda x: jax.lax.scan(lambda x, _: (chain(x), None), x, length=9), (1000,)) == 8000
    assert peak(jax.grad(lambda x: chain(x).sum()), (1000,)) > 5 * 4000


def test_of_what_is_shared_out_all_devices_count():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.sharding.PartitionSpec("data")
    chain = jax.shard_map(lambda x: jnp.sin(jnp.sin(x)), mesh=mesh, in_specs=over, out_specs=over)
    assert peak(chain, (1000,)) == 2 * 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential([nn.Dense(300), nn.relu, nn.Dense(300), nn.relu, nn.Dense(10)]), (64, 50)),
        (nn.MultiHeadDotProductAttention(num_heads=4), (8, 100, 32)),
    ],
    ids=["dense layers", "attention"],
)
def test_the_estimate_is_near_to_what_the_compiler_takes(model, shape):
    inputs = jnp.zeros(shape)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)

    def loss(variables, inputs):
        return jnp.square(model.apply(variables, inputs)).sum()

    compiled = jax.jit(loss).lower(variables, inputs).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    estimate = peak_bytes(jax.make_jaxpr(loss)(variables, inputs).jaxpr)
    assert taken / 2 < estimate < 3 * taken
