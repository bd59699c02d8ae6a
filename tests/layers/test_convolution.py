"""Convolution against PyTorch, Flax and XLA, on whatever platform runs the tests."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet.errors import InputError, UsageError
from jaxnet.layers import Conv, conv, conv_output_size

SETTINGS = [
    {},
    {"strides": 2},
    {"padding": "SAME"},
    {"padding": "SAME", "strides": 3},
    {"padding": 1, "dilation": 2},
    {"padding": "FULL"},
    {"groups": 2},
    {"groups": 2, "strides": 2, "padding": 1, "dilation": 2},
]


def normal(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(jnp.dtype(dtype)))


def with_gradients(f, *inputs):
    y, back = jax.vjp(f, *inputs)
    return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def in_both(settings, x, kernel):
    """Ours and XLA's with their gradients, as one program."""

    def both(*inputs):
        return [with_gradients(partial(f, **settings), *inputs) for f in (conv, xla)]

    return jax.device_get(jax.jit(both)(x, kernel))


def xla(x, kernel, strides=1, padding="VALID", dilation=1, groups=1):
    """XLA's own convolution, with padding in its words."""
    rank = kernel.ndim - 2
    size = kernel.shape[:-2]
    if padding == "FULL":
        padding = [(dilation * (k - 1),) * 2 for k in size]
    elif isinstance(padding, int):
        padding = [(padding, padding)] * rank
    axes = "DHW"[3 - rank :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * rank,
        padding,
        rhs_dilation=(dilation,) * rank,
        feature_group_count=groups,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


def arrays(rank, settings):
    kernel = normal(*(3, 2, 3)[:rank], 4 // settings.get("groups", 1), 6, seed=1)
    return normal(2, *(9, 8, 7)[:rank], 4), kernel


@cache
def measured(rank, case):
    return in_both(SETTINGS[case], *arrays(rank, SETTINGS[case]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "settings"),
    [*((2, s) for s in SETTINGS), *((1, s) for s in SETTINGS[2:6]), (3, SETTINGS[-1]), (3, {})],
    ids=str,
)
def test_equals_xla(rank, settings):
    got, want = measured(rank, SETTINGS.index(settings))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("settings", SETTINGS[:2] + SETTINGS[4:5] + SETTINGS[6:], ids=str)
def test_equals_torch(settings):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    (y, dx, dkernel), _ = measured(2, SETTINGS.index(settings))
    x, kernel = arrays(2, settings)
    names = {"strides": "stride", "padding": "padding", "dilation": "dilation", "groups": "groups"}
    tx = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    tk = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1), requires_grad=True)
    ty = torch.nn.functional.conv2d(tx, tk, **{names[k]: v for k, v in settings.items()})
    weights = np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape)
    ty.backward(torch.tensor(weights.transpose(0, 3, 1, 2)))
    close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
    close(y, ty.detach().numpy().transpose(0, 2, 3, 1))
    close(dx, tx.grad.numpy().transpose(0, 2, 3, 1))
    close(dkernel, tk.grad.numpy().transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    ("border", "torch_mode"), [("reflect", "reflect"), ("edge", "replicate"), ("circular",) * 2]
)
def test_borders_equal_torch(border, torch_mode):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    x, kernel = normal(1, 6, 5, 2), normal(3, 3, 2, 3, seed=1)
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode=torch_mode, bias=False)
    layer.weight.data = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1))
    want = layer(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))).detach().numpy()
    got = jax.jit(partial(conv, padding="SAME", border=border))(x, kernel)
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, None),
        ({"strides": 2, "padding": "VALID"}, "bfloat16"),
        ({"padding": [(0, 1), (2, 1)], "use_bias": False}, None),
        ({"feature_group_count": 2, "kernel_dilation": 2}, "bfloat16"),
        ({"feature_group_count": 2, "kernel_dilation": 2}, None),
    ],
    ids=str,
)
def test_layer_equals_flax(settings, dtype):
    x = normal(2, 9, 8, 4)
    ours = Conv(6, (3, 2), dtype=dtype, **settings)
    theirs = nn.Conv(6, (3, 2), dtype=dtype, **settings)
    shapes, expected = (jax.eval_shape(m.init, jax.random.key(0), x) for m in (ours, theirs))
    assert shapes == expected
    variables = jax.tree.map(lambda leaf: normal(*leaf.shape, dtype=leaf.dtype), shapes)
    got, want = jax.jit(lambda *given: (ours.apply(*given), theirs.apply(*given)))(variables, x)
    assert got.dtype == want.dtype
    tolerance = 1e-4 if dtype is None else 5e-2
    wide = (np.asarray(y, np.float32) for y in (got, want))
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_layer_starts_as_flax_does():
    x = normal(1, 6, 6, 2)
    start = jax.jit(lambda key: [m(3, (2, 2)).init(key, x) for m in (Conv, nn.Conv)])
    got, want = start(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def lowered(platform, batch=2, argnums=(0, 1)):
    def loss(x, kernel):
        return (conv(x, kernel) ** 2).sum()

    f = jax.grad(loss, argnums=argnums) if argnums else loss
    arrays = (jax.ShapeDtypeStruct(s, "float32") for s in ((batch, 32, 32, 64), (3, 3, 64, 64)))
    return jax.jit(f).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


def test_every_platform_gets_its_form():
    assert "stablehlo.convolution" not in lowered("cpu")
    assert "stablehlo.dot_general" in lowered("cpu")
    for platform in ("cuda", "tpu"):
        assert lowered(platform).count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in lowered(platform)


def test_no_work_for_what_is_not_differentiated():
    assert lowered("cuda", argnums=1).count("stablehlo.convolution") == 2
    assert lowered("cpu", argnums=1).count("stablehlo.dot_general") == 2
    assert lowered("cpu", argnums=()).count("stablehlo.convolution") == 1


def test_large_patches_are_left_to_xla():
    assert "stablehlo.convolution" in lowered("cpu", batch=128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "settings"),
    [
        (1, {"padding": "SAME"}),
        (2, {}),
        (2, {"padding": "SAME"}),
        (2, {"padding": 1, "dilation": 2}),
        (3, {"padding": 1}),
    ],
    ids=str,
)
def test_rows_in_place_of_large_patches_change_no_result(rank, settings, monkeypatch):
    monkeypatch.setattr("jaxnet.layers.convolution._MIN_BYTES_FOR_ROWS", 0)
    x, kernel = normal(2, *(29, 8, 7)[:rank], 8), normal(*(3, 2, 3)[:rank], 8, 5, seed=1)
    got, want = in_both(settings, x, kernel)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    if jax.default_backend() == "cpu":
        # The program knows no array as wide as a whole patch.
        text = jax.jit(jax.grad(lambda k: conv(x, k, **settings).sum())).lower(kernel).as_text()
        assert f"x{kernel[..., 0].size}xf32" not in text


@pytest.mark.slow
def test_derivatives_of_every_kind():
    x, kernel = normal(2, 5, 5, 2), normal(3, 3, 2, 2, seed=1)

    def f(x, kernel, conv=conv):
        return (conv(x, kernel) ** 3).sum()

    @jax.jit
    def all_of_them(x, kernel):
        return (
            jax.grad(f)(x, kernel),
            jax.jvp(lambda x: f(x, kernel), (x,), (jnp.cos(x),))[1],
            jax.vmap(lambda x: jax.grad(f)(x[None], kernel)[0])(x),
            *(jax.hessian(partial(f, conv=c))(x, kernel) for c in (conv, xla)),
        )

    gradient, tangent, each, got, want = jax.device_get(all_of_them(x, kernel))
    np.testing.assert_allclose(tangent, (gradient * np.cos(x)).sum(), rtol=1e-4)
    np.testing.assert_allclose(each, gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2, (1, 0)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_output_size(stride, padding, dilation):
    pair = (padding, padding) if isinstance(padding, int) else padding
    got = conv_output_size(11, 3, stride, padding, dilation)
    convolve = partial(conv, strides=stride, padding=[pair], dilation=dilation)
    assert got == jax.eval_shape(convolve, normal(1, 11, 1), normal(3, 1, 1)).shape[1]
    assert got == (11 - (2 * dilation + 1) + sum(pair)) // stride + 1


@pytest.mark.parametrize(
    ("x", "kernel", "settings", "words"),
    [
        ((1, 2, 8, 1), (3, 3, 1, 4), {}, "longer than the input of 2"),
        ((1, 8, 8, 3), (3, 3, 1, 4), {}, r"\(1, 8, 8, 3\).*\(3, 3, 1, 4\)"),
        ((8, 8, 1), (3, 3, 1, 4), {}, "expected x"),
        ((1, 8, 8, 1), (3, 3, 1, 4), {"strides": (1, 2, 1)}, "strides"),
        ((1, 8, 8, 1), (3, 3, 1, 4), {"strides": 0}, "strides"),
        ((1, 8, 8, 1), (3, 3, 1, 4), {"padding": "REFLECT"}, "border"),
        ((1, 8, 8, 1), (3, 3, 1, 4), {"padding": [(1, 1)]}, "2 pairs"),
    ],
)
def test_errors_say_what_came(x, kernel, settings, words):
    with pytest.raises(InputError, match=words):
        conv(normal(*x), normal(*kernel), **settings)


def test_unknown_border_offers_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'reflect'"):
        conv(normal(1, 4, 1), normal(3, 1, 1), padding="SAME", border="reflected")


def test_groups_have_to_divide():
    with pytest.raises(InputError, match="3 channels and 4 features do not divide into 2 groups"):
        jax.eval_shape(
            Conv(4, 3, feature_group_count=2).init, jax.random.key(0), normal(1, 8, 8, 3)
        )
