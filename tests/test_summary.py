from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.summary import summary


class MLP(nn.Module):
    units: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs):
        for units in self.units[:-1]:
            inputs = nn.relu(nn.Dense(units)(inputs))
        return nn.Dense(self.units[-1])(inputs)


class ConvNet(nn.Module):
    """LeNet's layers with batch norm and dropout, in a block, so that paths have two parts."""

    @nn.compact
    def __call__(self, inputs, train: bool):
        hidden = Features(name="features")(inputs, train)
        hidden = nn.Dropout(0.5, deterministic=not train)(hidden.reshape(hidden.shape[0], -1))
        return nn.Dense(10)(hidden)


class Features(nn.Module):
    @nn.compact
    def __call__(self, inputs, train: bool):
        hidden = nn.Conv(6, (5, 5), padding="SAME")(inputs)
        hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        hidden = nn.max_pool(nn.relu(hidden), (2, 2), strides=(2, 2))
        hidden = nn.Conv(16, (5, 5), padding="VALID")(hidden)
        return nn.max_pool(nn.relu(hidden), (2, 2), strides=(2, 2))


def test_the_mlp_784_300_100_10_layer_by_layer():
    got = summary(MLP((300, 100, 10)), (1, 784))
    rows = [(r.path, r.layer, r.output_shape, r.parameters, r.flops) for r in got.rows]
    assert rows == [
        ("Dense_0", "Dense", (1, 300), 784 * 300 + 300, 2 * 784 * 300),
        ("Dense_1", "Dense", (1, 100), 300 * 100 + 100, 2 * 300 * 100),
        ("Dense_2", "Dense", (1, 10), 100 * 10 + 10, 2 * 100 * 10),
    ]
    assert got.parameters == 266_610
    assert got.flops == 2 * (784 * 300 + 300 * 100 + 100 * 10)
    assert got.parameter_bytes == 4 * 266_610


def test_a_convolutional_network_equals_the_formula_by_hand():
    got = summary(ConvNet(), (4, 28, 28, 1))
    conv_0, conv_1 = 2 * 28 * 28 * 6 * 5 * 5 * 1, 2 * 10 * 10 * 16 * 5 * 5 * 6
    rows = [(r.path, r.output_shape, r.parameters, r.flops) for r in got.rows]
    assert rows == [
        ("features/Conv_0", (4, 28, 28, 6), 5 * 5 * 6 + 6, 4 * conv_0),
        ("features/BatchNorm_0", (4, 28, 28, 6), 2 * 6, 0),
        ("features/Conv_1", (4, 10, 10, 16), 5 * 5 * 6 * 16 + 16, 4 * conv_1),
        ("Dropout_0", (4, 400), 0, 0),
        ("Dense_0", (4, 10), 400 * 10 + 10, 4 * 2 * 400 * 10),
    ]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv(8, (3, 3), padding="VALID", use_bias=False),
        nn.Conv(8, (3, 3), strides=2, padding="VALID", use_bias=False),
        nn.Conv(8, (3, 3), kernel_dilation=2, padding="VALID", use_bias=False),
        nn.Conv(8, (3, 3), feature_group_count=4, padding="VALID", use_bias=False),
        nn.Conv(8, (3,), padding="VALID", use_bias=False),
        nn.Dense(8, use_bias=False),
        nn.DenseGeneral((2, 3), axis=(-2, -1), use_bias=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_flops_equal_the_compilers(layer: nn.Module):
    inputs = jax.ShapeDtypeStruct((2, 9, 11, 4), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), inputs)
    expected = jax.jit(layer.apply).lower(variables, inputs).cost_analysis()
    assert summary(layer, inputs).flops == expected["flops"]


def test_a_transposed_convolution_costs_what_its_inputs_spread():
    layer = nn.ConvTranspose(3, (2, 2), strides=(2, 2), padding="VALID", use_bias=False)
    assert summary(layer, (1, 7, 7, 5)).flops == 2 * (7 * 7 * 5) * (2 * 2 * 3)


class Scanned(nn.Module):
    """Five layers of one shape, their parameters stacked, each rematerialised."""

    @nn.compact
    def __call__(self, inputs):
        body = nn.remat(Layer)
        layers = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
        outputs, _ = layers(name="layers")(inputs, None)
        return outputs


class Layer(nn.Module):
    @nn.compact
    def __call__(self, inputs, _):
        return nn.Dense(8)(inputs), None


def test_a_scan_counts_every_turn():
    (row,) = summary(Scanned(), (2, 8)).rows
    assert (row.path, row.parameters) == ("layers/Dense_0", 5 * (8 * 8 + 8))
    assert row.flops == 5 * 2 * (2 * 8 * 8)


def test_a_recurrent_network_counts_every_step():
    got = summary(nn.RNN(nn.LSTMCell(4)), (1, 7, 3))
    assert got.parameters == 4 * (3 * 4 + 4 * 4 + 4)
    assert got.flops == 7 * 4 * 2 * (3 * 4 + 4 * 4)


class Tied(nn.Module):
    """A module called twice, by two methods, with a product of its own in the parent."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(10, 4, name="embed")
        hidden = embed(tokens)
        scale = self.param("scale", nn.initializers.ones, (4, 4))
        return embed.attend(hidden @ scale)


def test_a_parent_with_parameters_and_shared_modules_count_once():
    got = summary(Tied(), jax.ShapeDtypeStruct((1, 7), jnp.int32))
    rows = {r.path: (r.layer, r.output_shape, r.parameters, r.flops) for r in got.rows}
    assert rows == {
        "": ("Tied", (1, 7, 10), 16, 2 * 7 * 4 * 4),
        "embed": ("Embed", (1, 7, 4), 40, 2 * 7 * 4 * 10),
    }


class Heads(nn.Module):
    """Three heads as one vmapped layer, rematerialised, and a layer without `__call__`."""

    def setup(self):
        heads = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=3,
        )
        self.table = nn.Embed(7, 4)
        self.heads = nn.remat(heads)(4)
        self.scale = self.param("scale", nn.initializers.ones, ())

    def __call__(self, inputs):
        return self.table.attend(self.heads(inputs)) * self.scale.reshape(1, 1, 1)


def test_lifted_layers_count_every_copy():
    got = summary(Heads(), (2, 8))
    assert [(r.path, r.output_shape, r.parameters, r.flops) for r in got.rows] == [
        ("", (3, 2, 7), 1, 0),
        ("heads", (2, 4), 3 * (8 * 4 + 4), 3 * 2 * (2 * 8 * 4)),
        ("table", (3, 2, 7), 7 * 4, 2 * (3 * 2 * 4 * 7)),
    ]


class Choice(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        small, large = jnp.zeros((4, 4)), jnp.zeros((6, 4))
        return jax.lax.cond(
            inputs.sum() > 0, lambda x: x @ small, lambda x: x @ large.T @ large, inputs
        )


def test_a_condition_costs_its_dearer_branch():
    assert summary(Choice(), (1, 4)).flops == 2 * (4 * 6 + 6 * 4)


def test_nothing_is_allocated():
    """A network of 4 TB, of which even one kernel would not fit."""
    got = summary(nn.Dense(10**6), (1, 10**6))
    assert got.parameter_bytes == 4 * (10**12 + 10**6)


def test_parameters_are_those_that_init_makes():
    model = ConvNet()
    start = partial(model.init, train=False)
    variables = jax.eval_shape(start, jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    assert summary(model, np.zeros((1, 28, 28, 1))).parameters == trees.count(variables["params"])


def test_keyword_arguments_reach_the_call():
    with_norm = summary(ConvNet(), (2, 28, 28, 1), train=True)
    assert with_norm.parameters == summary(ConvNet(), (2, 28, 28, 1)).parameters


class Wide(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(123_456_789, name="a_layer_with_a_name_that_is_longer_than_its_column")
        return layer(inputs), inputs


def test_the_table_has_a_line_a_layer_and_100_columns():
    for got in (summary(ConvNet(), (4, 28, 28, 1)), summary(Wide(), (1000, 1000))):
        lines = str(got).splitlines()
        assert max(len(line) for line in lines) == 100
        assert len(lines) == len(got.rows) + 6
        assert f"{got.parameters:,} parameters" in lines[-1]


def test_the_table_of_the_mlp():
    lines = str(summary(MLP((300, 100, 10)), (1, 784))).splitlines()
    assert lines[0] == "MLP(float32[1,784])"
    assert lines[4].split() == ["Dense_0", "Dense", "(1,", "300)", "235,500", "470.40K"]
    assert lines[-1] == "266,610 parameters (1.07 MB), 532.40 KFLOP forward"


@pytest.mark.parametrize("bad", ["784", 784, (1, "784"), (1.0, 784)])
def test_an_input_that_is_no_shape_is_refused(bad: object):
    with pytest.raises(InputError, match="784"):
        summary(MLP((10,)), bad)


def test_no_input_is_refused():
    with pytest.raises(InputError, match="batch axis"):
        summary(MLP((10,)))
