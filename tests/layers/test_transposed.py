"""Transposed, depthwise and separable convolutions: sizes, conventions and errors.

The parity with PyTorch in all modes is in test_convolution_modes.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.layers import (
    Conv,
    ConvTranspose,
    DepthwiseConv,
    SeparableConv,
    conv,
    conv_output_size,
    conv_transpose,
    conv_transpose_output_size,
)
from tests.networks import drawn

RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape).astype(np.float32))


def test_strings_are_the_convention_of_keras_and_xla():
    x = normal(1, 5, 4, 2)
    cases = [
        (size, stride, padding, dilation)
        for size in (1, 2, 3, 4)
        for stride in (1, 2, 3)
        for padding in ("SAME", "VALID")
        for dilation in (1, 2)
    ]
    kernels = [normal(size, size, 2, 3) for size, *_ in cases]

    @jax.jit
    def both(x, kernels):
        return [
            (
                conv_transpose(x, k, stride, padding, dilation=dilation),
                jax.lax.conv_transpose(
                    x, jnp.flip(k, (0, 1)), (stride,) * 2, padding, (dilation,) * 2
                ),
            )
            for k, (_, stride, padding, dilation) in zip(kernels, cases, strict=True)
        ]

    for case, (got, expected) in zip(cases, both(x, kernels), strict=True):
        size, stride, padding, dilation = case
        reach = dilation * (size - 1) + 1
        rows = 5 * stride + (max(reach - stride, 0) if padding == "VALID" else 0)
        assert got.shape == expected.shape and got.shape[1] == rows, case
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=str(case))


def test_it_is_the_transpose_of_the_convolution():
    """<conv(y), x> = <y, conv_transpose(x)>, with the kernel's last two axes exchanged."""
    kernel, x, y = normal(3, 2, 2, 5), normal(2, 4, 4, 5), normal(2, 8, 9, 2)
    settings = {"strides": (2, 3), "padding": [(1, 0), (2, 0)]}

    @jax.jit
    def both(kernel, x, y):
        turned = jnp.swapaxes(kernel, -1, -2)
        back = conv_transpose(x, turned, output_padding=(0, 0), **settings)
        return conv(y, kernel, **settings), back

    forward, back = both(kernel, x, y)
    assert forward.shape == x.shape and back.shape == (2, 8, 9, 2)
    sums = [(np.asarray(a) * np.asarray(b)).sum() for a, b in ((forward, x), (y, back))]
    np.testing.assert_allclose(*sums, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
def test_output_sizes_are_those_that_the_convolution_brings_back(stride, padding):
    for extra in range(stride):
        size = conv_transpose_output_size(5, 4, stride, padding, 2, extra)
        assert conv_output_size(size, 4, stride, padding, 2) == 5
        pair = (padding, padding) if isinstance(padding, int) else padding
        assert size == 4 * stride + 7 - sum(pair) + extra


def test_the_layer_has_the_parameters_it_says():
    x = normal(2, 5, 5, 4)
    layer = ConvTranspose(6, 3, strides=2, feature_group_count=2)
    variables = drawn(layer, x)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"kernel": (3, 3, 2, 6), "bias": (6,)}
    params = {"kernel": variables["params"]["kernel"], "bias": np.arange(6, dtype=np.float32)}

    @jax.jit
    def both(params, x):
        transposed = conv_transpose(x, params["kernel"], 2, "SAME", groups=2)
        return layer.apply({"params": params}, x), transposed + params["bias"].reshape(1, 1, 1, 6)

    outputs, expected = both(params, x)
    assert outputs.shape == (2, 10, 10, 6)
    np.testing.assert_array_equal(outputs, expected)


def test_separable_is_each_channel_by_itself_and_then_a_mixture():
    x = normal(2, 6, 5, 3)
    layer = SeparableConv(4, (3, 2), multiplier=2, strides=2)
    params = drawn(layer, x)["params"]
    depthwise, pointwise = params["depthwise"]["Conv_0"], params["pointwise"]
    assert depthwise["kernel"].shape == (3, 2, 1, 6) and "bias" not in depthwise
    own = DepthwiseConv((3, 2), multiplier=2, strides=2, use_bias=False)

    @jax.jit
    def all_of_them(params, x):
        kernel = params["depthwise"]["Conv_0"]["kernel"]
        channels = [
            conv(x[..., c : c + 1], kernel[..., 2 * c : 2 * c + 2], 2, "SAME") for c in range(3)
        ]
        alone = own.apply({"params": params["depthwise"]}, x)
        return layer.apply({"params": params}, x), alone, jnp.concatenate(channels, axis=-1)

    got, alone, channels = jax.device_get(all_of_them(params, x))
    np.testing.assert_allclose(alone, channels, rtol=1e-5, atol=1e-5)
    mixed = channels @ np.asarray(pointwise["kernel"])[0, 0]
    np.testing.assert_allclose(got, mixed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output_padding": 2, "padding": 0},
            "from 0 to below the stride or the dilation .* got 2",
        ),
        ({"output_padding": (1, 1), "padding": 0}, r"1 spatial axes, got \(1, 1\)"),
        ({"output_padding": 1, "padding": "SAME"}, "'SAME' sets the output's size already"),
        ({"padding": 9}, "cuts off all"),
        ({"padding": -1}, "at least 0, got -1"),
        ({"padding": "REFLECT"}, "'REFLECT'"),
        ({"groups": 2}, r"groups 2"),
    ],
)
def test_errors_say_what_came(options, message):
    with pytest.raises(InputError, match=message):
        conv_transpose(normal(1, 5, 3), normal(3, 3, 2), 2, **options)


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_groups_have_to_divide(layer):
    with pytest.raises(InputError, match="3 channels and 4 features do not divide into 2 groups"):
        jax.eval_shape(
            layer(4, 3, feature_group_count=2).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
        )
