from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from jaxnet.errors import InputError, UsageError
from jaxnet.names import lookup

RNG = np.random.default_rng(0)
# In whole sixteenths, so that bfloat16 holds them too.
LOGITS = (np.round(80 * RNG.normal(size=(6, 4)).clip(-3, 3)) / 16).astype(np.float32)
LABELS = RNG.integers(0, 4, 6).astype(np.int32)
PROBABILITIES = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
TARGETS = RNG.normal(size=(6, 4)).astype(np.float32)


YES_OR_NO = (PROBABILITIES > 0.3).astype(np.float32)
BINARY = ["binary_cross_entropy", "binary_focal", "hinge", "squared_hinge"]
NUMBERS = ["cross_entropy", "focal", "multiclass_hinge"]
SHARES = ["categorical_cross_entropy", "kl_divergence", "categorical_hinge"]
REGRESSION = ["squared_error", "absolute_error", "huber", "log_cosh", "sum_of_squares"]


def labels_for(name: str) -> np.ndarray:
    if name == "categorical_hinge":
        return np.eye(4, dtype=np.float32)[LABELS]
    kinds = [(BINARY, YES_OR_NO), (NUMBERS, LABELS), (SHARES, PROBABILITIES), (REGRESSION, TARGETS)]
    return next(labels for names, labels in kinds if name in names)


WEIGHTS = np.arange(1.0, 7, dtype=np.float32)
ALONG = RNG.normal(size=(6, 4))


def with_gradients(logits: jax.Array) -> dict[str, tuple[Any, Any]]:
    """Each loss, and the gradient of its sum with `WEIGHTS`."""
    found = {}
    for name, loss in losses.LOSSES.items():
        value, back = jax.vjp(functools.partial(loss, labels=jnp.asarray(labels_for(name))), logits)
        found[name] = (value, back(jnp.asarray(WEIGHTS, value.dtype))[0])
    return found


@functools.cache
def measured() -> dict[str, dict[str, Any]]:
    """All that these tests compare, as one program: each loss alone compiles for itself."""

    @jax.jit
    def all_of_them(logits: jax.Array) -> dict[str, Any]:
        folded, half = {}, logits.astype(jnp.bfloat16).reshape(3, 2, 4)
        for name, loss in losses.LOSSES.items():
            labels = labels_for(name)
            folded[name] = loss(half, jnp.asarray(labels.reshape(3, 2, *labels.shape[1:])))
        return {"single": with_gradients(logits), "folded": folded}

    return jax.device_get(all_of_them(LOGITS))


def pytorch(name: str, logits: Any, labels: np.ndarray, **options: float) -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    function = getattr(
        torch.nn.functional,
        {
            "categorical_cross_entropy": "cross_entropy",
            "binary_cross_entropy": "binary_cross_entropy_with_logits",
            "squared_error": "mse_loss",
            "absolute_error": "l1_loss",
            "huber": "huber_loss",
            "sum_of_squares": "mse_loss",
        }.get(name, name),
    )
    target = torch.as_tensor(labels)
    target = target.to(logits.dtype) if target.is_floating_point() else target.long()
    got = function(logits, target, reduction="none", **options)
    if name == "sum_of_squares":
        return got.sum(1) / 2
    return got if got.ndim == 1 else got.mean(1)


def in_float64(name: str, logits: Any, labels: np.ndarray) -> Any:
    """PyTorch's loss or, where it has none, the formula on its autograd's tensors."""
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    f = torch.nn.functional
    z, y = logits, torch.as_tensor(labels)
    if name == "kl_divergence":
        return f.kl_div(z.log_softmax(-1), y, reduction="none").sum(-1)
    if name == "focal":
        right = z.softmax(-1).gather(-1, y.long()[:, None])[:, 0]
        return -((1 - right) ** 2) * right.log()
    if name == "binary_focal":
        right = torch.where(y > 0, z.sigmoid(), 1 - z.sigmoid())
        return (-((1 - right) ** 2) * right.log()).mean(-1)
    if name in ("hinge", "squared_hinge"):
        margins = (1 - (2 * y - 1) * z).clamp(min=0)
        return (margins if name == "hinge" else margins**2).mean(-1)
    if name == "multiclass_hinge":
        wrong = z.scatter(-1, y.long()[:, None], -torch.inf).max(-1).values
        return (1 + wrong - z.gather(-1, y.long()[:, None])[:, 0]).clamp(min=0)
    if name == "categorical_hinge":
        return (1 + ((1 - y) * z).max(-1).values - (y * z).sum(-1)).clamp(min=0)
    if name == "log_cosh":
        return (z - y).cosh().log().mean(-1)
    return pytorch(name, z, labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.LOSSES)
def test_equals_pytorch_gradients_too(name: str):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    logits = torch.tensor(LOGITS.astype(np.float64), requires_grad=True)
    expected = in_float64(name, logits, labels_for(name))
    expected.backward(torch.tensor(WEIGHTS, dtype=torch.float64))

    got, gradient = measured()["single"][name]
    assert got.shape == (6,) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-5, atol=1e-6)


def test_hinges_equal_scikit_learn():
    from sklearn.metrics import hinge_loss

    got = measured()["single"]["multiclass_hinge"][0].mean()
    assert got == pytest.approx(hinge_loss(LABELS, LOGITS, labels=range(4)), rel=1e-6)
    scores, signs = LOGITS[:, 0], 2 * (LABELS > 1).astype(int) - 1
    for labels in (signs, LABELS > 1):  # -1 and 1, or False and True
        got = np.asarray(jax.jit(losses.hinge)(scores, labels)).mean()
        assert got == pytest.approx(hinge_loss(signs, scores), rel=1e-6)


def test_focal_without_focus_is_cross_entropy():
    @jax.jit
    def without(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            losses.focal(logits, LABELS, gamma=0.0),
            losses.binary_focal(logits, YES_OR_NO, gamma=0.0),
        )

    for got, name in zip(without(LOGITS), ("cross_entropy", "binary_cross_entropy"), strict=True):
        np.testing.assert_allclose(got, measured()["single"][name][0], rtol=1e-6)
    with pytest.raises(InputError, match="gamma must be at least 0; got -1"):
        losses.focal(LOGITS, LABELS, gamma=-1.0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_finite_gradients_where_the_answer_is_certain(gamma: float):
    logits, labels = np.array([[200.0, 0.0], [0.0, 200.0]], np.float32), np.array([0, 0])
    gradient = jax.jit(jax.grad(lambda z: losses.focal(z, labels, gamma=gamma).sum()))(logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.asarray(gradient)[1], [-1, 1])


def test_kl_divergence_is_zero_where_the_prediction_is_right():
    labels = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], np.float32)
    got = jax.jit(lambda labels: losses.kl_divergence(jnp.log(labels), labels))(labels)
    np.testing.assert_allclose(got, 0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "labels"), [("cross_entropy", LABELS), ("categorical_cross_entropy", PROBABILITIES)]
)
def test_label_smoothing_equals_pytorch(name: str, labels: np.ndarray):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    loss = functools.partial(losses.LOSSES[name], label_smoothing=0.1)
    expected = pytorch(name, torch.tensor(LOGITS), labels, label_smoothing=0.1)
    np.testing.assert_allclose(jax.jit(loss)(LOGITS, labels), expected, rtol=1e-6)


def test_sparse_equals_categorical_with_one_hot_labels():
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(
        measured()["single"]["cross_entropy"][0],
        jax.jit(losses.categorical_cross_entropy)(LOGITS, one_hot),
        rtol=1e-6,
    )


def test_huber_is_quadratic_inside_and_linear_outside():
    error = np.array([0.0, 0.4, -0.4, 3.0, -3.0], np.float32)
    huber = jax.jit(losses.huber, static_argnames="delta")
    for delta in (0.5, 2.0):
        outside = delta * (np.abs(error) - delta / 2)
        expected = np.where(np.abs(error) <= delta, error**2 / 2, outside)
        np.testing.assert_allclose(huber(error, np.zeros(5), delta=delta), expected, rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_half_precision_is_widened_and_further_axes_are_those_of_more_examples(name: str):
    """The mean over (or, for the SSE, the sum of) the losses of the parts is the loss."""
    parts = measured()["single"][name][0].reshape(3, 2)
    expected = parts.sum(1) if name == "sum_of_squares" else parts.mean(1)
    got = measured()["folded"][name]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_gradients_are_the_slopes():
    """Between two points that are close to each other, in float64."""
    step = 1e-6
    with jax.enable_x64(True):
        points = LOGITS / 5 + step * np.stack([0 * ALONG, ALONG, -ALONG])
        found = jax.device_get(jax.jit(jax.vmap(with_gradients))(points))
    for name, (values, gradients) in found.items():
        assert values.dtype == np.float64
        slope = WEIGHTS @ (values[1] - values[2]) / (2 * step)
        np.testing.assert_allclose((gradients[0] * ALONG).sum(), slope, rtol=1e-6, err_msg=name)


def test_a_column_of_outputs_is_not_broadcast_against_the_labels():
    outputs = np.array([1.0, 2.0, 3.0], np.float32)
    labels = np.array([1.0, 0.0, 5.0], np.float32)

    @jax.jit
    def both(outputs: jax.Array) -> Any:
        shapes = (outputs[:, None], outputs)
        return {name: [losses.LOSSES[name](z, labels) for z in shapes] for name in REGRESSION}

    for name, (column, flat) in both(outputs).items():
        np.testing.assert_array_equal(column, flat, err_msg=name)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("shape", [(4,), (6, 3), (6, 1), (7, 4), ()])
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]):
    labels = np.zeros(shape, labels_for(name).dtype)
    with pytest.raises(InputError, match=r"\[6, 4\]"):
        losses.LOSSES[name](LOGITS, labels)


@pytest.mark.parametrize("name", [*NUMBERS, *SHARES])
def test_one_example_without_a_batch_is_refused(name: str):
    with pytest.raises(InputError, match=rf"{name} expects logits.*\[4\]"):
        losses.LOSSES[name](LOGITS[0], labels_for(name)[0])


def test_one_hot_labels_for_class_numbers_are_refused_with_advice():
    with pytest.raises(InputError, match="categorical_cross_entropy"):
        losses.cross_entropy(LOGITS, np.eye(4)[LABELS])
    with pytest.raises(InputError, match="integer"):
        losses.cross_entropy(LOGITS, LABELS.astype(np.float32))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_outside_its_range_is_refused(smoothing: float):
    with pytest.raises(InputError, match="label_smoothing"):
        losses.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)


def test_small_label_types_work_with_many_classes():
    logits = RNG.normal(size=(3, 300)).astype(np.float32)

    @jax.jit
    def each(labels: jax.Array) -> list[jax.Array]:
        types = (labels.dtype, jnp.uint8, jnp.int16, jnp.int8)
        return [losses.cross_entropy(logits, labels.astype(dtype)) for dtype in types]

    expected, *others = each(np.array([0, 7, 127], np.int32))
    for got in others:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        functools.partial(losses.cross_entropy, label_smoothing=0.1),
        losses.focal,
        losses.multiclass_hinge,
        losses.with_class_weights(losses.cross_entropy, [1.0] * 4),
    ],
)
def test_a_label_that_is_no_class_is_nan_and_not_another_class(loss):
    got = np.asarray(jax.jit(loss)(LOGITS[:4], np.array([0, -1, 4, -100])))
    assert np.isfinite(got[0]) and np.isnan(got[1:]).all()


def test_a_class_that_is_ruled_out_costs_nothing():
    logits = np.array([[0.0, 0.0, -np.inf]], np.float32)
    labels = np.array([[0.5, 0.5, 0.0]], np.float32)

    def loss(z: jax.Array) -> jax.Array:
        return losses.categorical_cross_entropy(z, labels).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_confident_answers_neither_overflow_nor_vanish(name: str):
    logits = {
        "cross_entropy": np.array([[1e4, 0.0], [0.0, 1e4]], np.float32),
        "binary_cross_entropy": np.array([-1e4, 1e4], np.float32),
    }[name]
    got = jax.jit(losses.LOSSES[name])(logits, np.array([0, 0]))
    np.testing.assert_allclose(got, [0.0, 1e4])


def test_float64_outputs_keep_their_precision():
    z = LOGITS.astype(np.float64)
    with jax.enable_x64(True):
        got = jax.jit(losses.cross_entropy)(z, LABELS)
        assert got.dtype == jnp.float64
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(6), LABELS]
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_losses_by_name():
    assert lookup("huber", losses.LOSSES, "loss") is losses.huber
    with pytest.raises(UsageError, match="did you mean 'cross_entropy'"):
        lookup("crossentropy", losses.LOSSES, "loss")
