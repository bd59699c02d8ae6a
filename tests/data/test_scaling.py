from __future__ import annotations

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from jaxnet.data import Arrays, Scale, fit_range, fit_standard, fit_target, load_mnist
from jaxnet.errors import InputError

RNG = np.random.default_rng(0)
TABLE = Arrays(RNG.normal([5.0, -300.0, 0.01], [2.0, 40.0, 0.001], (3000, 3)), np.zeros(3000))
IMAGES = Arrays(RNG.integers(3, 250, (40, 5, 4, 3), np.uint8), np.zeros(40))


def test_standard_scaling_of_each_feature_is_that_of_sklearn():
    reference = StandardScaler().fit(TABLE.inputs.astype(np.float64))
    scale = fit_standard(TABLE, per_feature=True)
    np.testing.assert_allclose(scale.shift, reference.mean_, rtol=1e-10)
    assert reference.scale_ is not None
    np.testing.assert_allclose(scale.scale, 1 / reference.scale_, rtol=1e-10)
    np.testing.assert_allclose(
        scale(TABLE.inputs), reference.transform(TABLE.inputs.astype(np.float64)), atol=2e-4
    )


def test_standard_scaling_of_images_is_by_channel_or_by_everything():
    pixels = IMAGES.inputs.reshape(-1, 3).astype(np.float64)
    by_channel = fit_standard(IMAGES, per_feature=True)
    np.testing.assert_allclose(by_channel.shift, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(by_channel.scale, 1 / pixels.std(0), rtol=1e-12)
    whole = fit_standard(IMAGES)
    assert whole.shift == pytest.approx(pixels.mean(), rel=1e-12)
    assert whole.scale == pytest.approx(1 / pixels.std(), rel=1e-12)
    scaled = whole(IMAGES.inputs)
    assert scaled.mean() == pytest.approx(0, abs=1e-5)
    assert scaled.std() == pytest.approx(1, abs=1e-5)


def test_standard_scaling_of_mnist_is_the_well_known_one(mnist_dir):
    scale = fit_standard(load_mnist(mnist_dir)[0])
    assert isinstance(scale.shift, float)
    assert isinstance(scale.scale, float)
    assert scale.shift / 255 == pytest.approx(0.1307, abs=5e-5)
    assert 1 / scale.scale / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, -3.3])
def test_a_constant_feature_becomes_zero_not_noise(value):
    inputs = np.column_stack([np.full(1001, value), np.arange(1001)])
    scale = fit_standard(Arrays(inputs, np.zeros(1001)), per_feature=True)
    assert isinstance(scale.scale, tuple)
    assert scale.scale[0] == 1.0
    assert scale.scale[1] == pytest.approx(1 / np.arange(1001).std())
    np.testing.assert_allclose(scale(inputs)[:, 0], 0, atol=1e-6)
    constant = Arrays(np.full((1001, 2), value), np.zeros(1001))
    assert fit_standard(constant).scale == 1.0


def test_a_deviation_too_small_to_invert_counts_as_none():
    inputs = np.array([[0.0], [1e-44]], np.float32)
    assert fit_standard(Arrays(inputs, np.zeros(2))).scale == 1.0
    assert fit_range(Arrays(inputs, np.zeros(2))).scale == 1.0


def test_features_without_an_axis_are_one_feature():
    data = Arrays(np.array([1.0, 3.0]), np.zeros(2))
    assert fit_standard(data, per_feature=True) == Scale(2.0, 1.0)


def test_range_goes_from_zero_to_one():
    images = Arrays(np.arange(256, dtype=np.uint8)[::-1, None], np.zeros(256))
    scale = fit_range(images)
    assert scale == Scale(0.0, 1 / 255)
    assert (scale(images.inputs).min(), scale(images.inputs).max()) == (0.0, 1.0)
    assert fit_range(IMAGES) == Scale(0.0, 1 / IMAGES.inputs.max())


def test_range_of_negative_inputs_is_that_of_sklearn():
    flat = TABLE.inputs.reshape(-1, 1)
    reference = MinMaxScaler().fit_transform(flat)
    np.testing.assert_allclose(fit_range(TABLE)(flat), reference, atol=1e-6)
    zeros = Arrays(np.zeros((3, 1)), np.zeros(3))
    assert fit_range(zeros) == Scale(0.0, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.bool_])
@pytest.mark.parametrize(
    "scale", [Scale(2.0, 0.5), Scale((1.0, 2.0), (0.5, 4.0)), Scale(1, (2, 3))]
)
def test_jax_under_jit_numpy_and_the_formula_agree(scale, dtype):
    inputs = RNG.integers(0, 9, (3, 4, 2)).astype(dtype)
    expected = (inputs.astype(np.float64) - np.array(scale.shift)) * np.array(scale.scale)
    ours = scale(inputs)
    compiled = jax.jit(scale)(jnp.asarray(inputs))
    assert isinstance(ours, np.ndarray)
    assert isinstance(compiled, jax.Array)
    for result in (ours, compiled):
        assert result.dtype == np.float32
        assert result.shape == inputs.shape
        np.testing.assert_array_equal(result, expected)


def test_numbers_survive_json_and_can_be_hashed():
    for scale in (Scale(), Scale(0.1, 1 / 3), fit_standard(TABLE, per_feature=True)):
        assert Scale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale
        assert hash(scale) == hash(Scale.from_dict(scale.to_dict()))
    assert Scale(np.float32(2.0), np.array([1.0, 2.0])) == Scale(2.0, (1.0, 2.0))  # type: ignore


@pytest.mark.parametrize(
    ("shift", "scale", "message"),
    [
        (0.0, 0.0, "scale must not be zero in float32, got 0.0"),
        (0.0, (1.0, 1e-50), "scale must not be zero in float32"),
        (np.nan, 1.0, "shift: expected numbers that are finite in float32, got nan"),
        (0.0, (1.0, np.inf), "scale: expected numbers that are finite"),
        (1e39, 1.0, "shift: expected numbers that are finite"),
        ((1.0, 2.0), (1.0, 2.0, 3.0), "one number a feature each, got 2 and 3"),
        ((), 1.0, r"shift: .* got shape \(0,\)"),
        (((1.0,),), 1.0, r"shift: .* got shape \(1, 1\)"),
        ("much", 1.0, "shift: expected a number or one a feature, got 'much'"),
        (None, 1.0, "shift: expected numbers .* got None"),
    ],
)
def test_numbers_that_cannot_scale_are_refused(shift, scale, message):
    with pytest.raises(InputError, match=message):
        Scale(shift, scale)


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 1), ()])
def test_inputs_with_other_features_are_refused(shape):
    with pytest.raises(InputError, match="fitted on 3 features, got inputs of shape"):
        Scale((1.0, 2.0, 3.0))(np.zeros(shape))


@pytest.mark.parametrize("values", [{"shift": 1.0}, {"shift": 1.0, "scale": 1.0, "mean": 0.0}])
def test_a_dict_of_something_else_is_refused(values):
    with pytest.raises(InputError, match="made of shift and scale, got"):
        Scale.from_dict(values)


FAR = 1_700_000_000 + np.arange(100)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32, np.uint32])
def test_a_large_offset_leaves_no_trace(dtype):
    inputs = np.stack([FAR, np.arange(100)], axis=1).astype(dtype)
    reference = StandardScaler().fit_transform(inputs.astype(np.float64))
    scale = fit_standard(inputs, per_feature=True)
    np.testing.assert_allclose(scale(inputs), reference, rtol=1e-5, atol=1e-6)
    assert len(np.unique(scale(inputs)[:, 0])) == 100
    np.testing.assert_allclose(scale.undo(scale(inputs)), inputs, rtol=0, atol=1e-4)
    if dtype in (np.int32, np.uint32):
        compiled = jax.jit(scale)(jnp.asarray(inputs))
        np.testing.assert_allclose(compiled, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integers_of_any_size_are_scaled_in_a_compiled_program(dtype):
    limits = np.iinfo(dtype)
    inputs = np.array([[limits.min, limits.min + 1, 0, 5, 4095, 4096, limits.max]], dtype)
    for scale in (Scale(0.0, 0.5), Scale(123456789.25, 1e-3), Scale(-7.5, 1.0)):
        expected = (inputs.astype(np.float64) - scale.shift) * scale.scale
        np.testing.assert_allclose(jax.jit(scale)(jnp.asarray(inputs)), expected, rtol=2e-7)


def test_the_rounding_of_a_shift_leaves_no_trace_in_a_compiled_program():
    inputs = np.float32(1e6) + np.arange(0, 4, 0.25, dtype=np.float32)[:, None]
    scale = fit_standard(Arrays(inputs, np.zeros(16)))
    expected = (inputs.astype(np.float64) - scale.shift) * scale.scale
    np.testing.assert_allclose(jax.jit(scale)(jnp.asarray(inputs)), expected, atol=1e-6)
    shifted = Scale(1e6 + 0.03, 1.0)  # half a step of float32 beside a number that it has
    expected = inputs.astype(np.float64) - shifted.shift
    np.testing.assert_allclose(jax.jit(shifted)(jnp.asarray(inputs)), expected, atol=1e-6)
    gradients = jax.vmap(jax.grad(lambda x: shifted(x).sum()))(jnp.asarray(inputs))
    np.testing.assert_array_equal(gradients, np.ones_like(inputs))


def test_targets_in_float64_are_scaled_and_brought_back():
    labels = FAR.astype(np.float64)
    scale = fit_target(labels)
    data = Arrays(np.zeros((100, 1)), scale(labels))
    assert len(np.unique(data.labels)) == 100
    np.testing.assert_allclose(scale.undo(data.labels), labels, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match=r"labels: expected numbers to predict, .* int64"):
        fit_target(FAR)


@pytest.mark.parametrize("per_feature", [True, False])
def test_fitting_and_scaling_images_take_little_memory(per_feature):
    images = Arrays(RNG.integers(0, 255, (60, 224, 224, 3), np.uint8), np.zeros(60))
    whole = 8 * images.inputs.size
    tracemalloc.start()
    scale = fit_standard(images, per_feature=per_feature)
    fitting = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    scale(images.inputs)
    scaling = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitting < whole / 2
    assert scaling < whole  # half of it is the result
