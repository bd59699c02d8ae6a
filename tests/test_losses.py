from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxnet import losses
from jaxnet.errors import InputError, UsageError
from jaxnet.names import lookup

RNG = np.random.default_rng(0)
LOGITS = (5 * RNG.normal(size=(6, 4))).astype(np.float32)
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


def pytorch(name: str, logits: np.ndarray, labels: np.ndarray, **options: float) -> np.ndarray:
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
    target = torch.from_numpy(labels)
    target = target if target.is_floating_point() else target.long()
    got = function(torch.from_numpy(logits), target, reduction="none", **options).numpy()
    if name == "sum_of_squares":
        return got.sum(1) / 2
    return got if got.ndim == 1 else got.mean(1)


def in_float64(name: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The formulas that PyTorch does not have, on its autograd's tensors."""
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
    assert name == "log_cosh"
    return (z - y).cosh().log().mean(-1)


IN_PYTORCH = ["cross_entropy", "categorical_cross_entropy", "binary_cross_entropy", *REGRESSION]
IN_PYTORCH.remove("log_cosh")


@pytest.mark.parametrize("name", IN_PYTORCH)
def test_equals_pytorch(name: str):
    labels = labels_for(name)
    ours = losses.LOSSES[name](jnp.asarray(LOGITS), jnp.asarray(labels))
    assert ours.shape == (6,) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, pytorch(name, LOGITS, labels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(losses.LOSSES) - set(IN_PYTORCH)))
def test_equals_the_formula_in_float64_gradients_too(name: str):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    labels, weights = labels_for(name), np.arange(1.0, 7)
    logits = torch.tensor(LOGITS.astype(np.float64), requires_grad=True)
    expected = in_float64(name, logits, labels)
    expected.backward(torch.tensor(weights))

    got, back = jax.vjp(lambda z: losses.LOSSES[name](z, jnp.asarray(labels)), jnp.asarray(LOGITS))
    (gradient,) = back(jnp.asarray(weights, jnp.float32))
    assert got.shape == (6,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-5, atol=1e-6)


def test_hinges_equal_scikit_learn():
    from sklearn.metrics import hinge_loss

    got = losses.multiclass_hinge(LOGITS, LABELS).mean()
    assert got == pytest.approx(hinge_loss(LABELS, LOGITS, labels=range(4)), rel=1e-6)
    scores, signs = LOGITS[:, 0], 2 * (LABELS > 1).astype(int) - 1
    for labels in (signs, LABELS > 1):  # -1 and 1, or False and True
        got = losses.hinge(scores, labels).mean()
        assert got == pytest.approx(hinge_loss(signs, scores), rel=1e-6)


def test_focal_without_focus_is_cross_entropy():
    np.testing.assert_allclose(
        losses.focal(LOGITS, LABELS, gamma=0.0), losses.cross_entropy(LOGITS, LABELS), rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.binary_focal(LOGITS, YES_OR_NO, gamma=0.0),
        losses.binary_cross_entropy(LOGITS, YES_OR_NO),
        rtol=1e-6,
    )
    with pytest.raises(InputError, match="gamma must be at least 0; got -1"):
        losses.focal(LOGITS, LABELS, gamma=-1.0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_finite_gradients_where_the_answer_is_certain(gamma: float):
    logits, labels = jnp.array([[200.0, 0.0], [0.0, 200.0]]), jnp.array([0, 0])
    gradient = jax.grad(lambda z: losses.focal(z, labels, gamma=gamma).sum())(logits)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[1], [-1, 1])


def test_kl_divergence_is_zero_where_the_prediction_is_right():
    labels = jnp.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    got = losses.kl_divergence(jnp.log(labels), labels)
    np.testing.assert_allclose(got, 0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "labels"), [("cross_entropy", LABELS), ("categorical_cross_entropy", PROBABILITIES)]
)
def test_label_smoothing_equals_pytorch(name: str, labels: np.ndarray):
    loss = losses.cross_entropy if labels is LABELS else losses.categorical_cross_entropy
    np.testing.assert_allclose(
        loss(LOGITS, labels, label_smoothing=0.1),
        pytorch(name, LOGITS, labels, label_smoothing=0.1),
        rtol=1e-6,
    )


def test_sparse_equals_categorical_with_one_hot_labels():
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(
        losses.cross_entropy(LOGITS, LABELS),
        losses.categorical_cross_entropy(LOGITS, one_hot),
        rtol=1e-6,
    )


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_huber_is_quadratic_inside_and_linear_outside(delta: float):
    error = np.array([0.0, 0.4, -0.4, 3.0, -3.0], np.float32)
    expected = np.where(np.abs(error) <= delta, error**2 / 2, delta * (np.abs(error) - delta / 2))
    np.testing.assert_allclose(losses.huber(error, np.zeros(5), delta=delta), expected, rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_half_precision_outputs_are_widened_first(name: str):
    half = jnp.asarray(LOGITS).astype(jnp.bfloat16)
    labels = jnp.asarray(labels_for(name))
    got = losses.LOSSES[name](half, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, losses.LOSSES[name](half.astype(jnp.float32), labels))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_further_axes_are_those_of_more_examples(name: str):
    """The mean over (or, for the SSE, the sum of) the losses of the parts is the loss."""
    loss, labels = losses.LOSSES[name], jnp.asarray(labels_for(name))
    flat = loss(jnp.asarray(LOGITS), labels)
    folded = loss(
        jnp.asarray(LOGITS).reshape(3, 2, *LOGITS.shape[1:]),
        labels.reshape(3, 2, *labels.shape[1:]),
    )
    parts = flat.reshape(3, 2)
    expected = parts.sum(1) if name == "sum_of_squares" else parts.mean(1)
    np.testing.assert_allclose(folded, expected, rtol=1e-6)


CORNERED = {"hinge", "multiclass_hinge", "categorical_hinge"}


@pytest.mark.parametrize("name", sorted(set(losses.LOSSES) - CORNERED))
def test_gradients(name: str):
    labels = jnp.asarray(labels_for(name))
    logits = jnp.asarray(LOGITS) / 5
    check_grads(lambda z: losses.LOSSES[name](z, labels), (logits,), order=1, modes=["rev"])


@pytest.mark.parametrize("name", REGRESSION)
def test_a_column_of_outputs_is_not_broadcast_against_the_labels(name: str):
    outputs, labels = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 5.0])
    loss = losses.LOSSES[name]
    np.testing.assert_array_equal(loss(outputs[:, None], labels), loss(outputs, labels))


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("shape", [(4,), (6, 3), (6, 1), (7, 4), ()])
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]):
    labels = jnp.zeros(shape, labels_for(name).dtype)
    with pytest.raises(InputError, match=r"\[6, 4\]"):
        losses.LOSSES[name](jnp.asarray(LOGITS), labels)


@pytest.mark.parametrize("name", [*NUMBERS, *SHARES])
def test_one_example_without_a_batch_is_refused(name: str):
    labels = jnp.asarray(labels_for(name))[0]
    with pytest.raises(InputError, match=rf"{name} expects logits.*\[4\]"):
        losses.LOSSES[name](jnp.asarray(LOGITS)[0], labels)


def test_one_hot_labels_for_class_numbers_are_refused_with_advice():
    with pytest.raises(InputError, match="categorical_cross_entropy"):
        losses.cross_entropy(LOGITS, np.eye(4)[LABELS])
    with pytest.raises(InputError, match="integer"):
        losses.cross_entropy(LOGITS, LABELS.astype(np.float32))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_outside_its_range_is_refused(smoothing: float):
    with pytest.raises(InputError, match="label_smoothing"):
        losses.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.int32])
def test_small_label_types_work_with_many_classes(dtype: jnp.dtype):
    logits = jnp.asarray(RNG.normal(size=(3, 300)), jnp.float32)
    labels = jnp.array([0, 7, 127])
    expected = losses.cross_entropy(logits, labels)
    np.testing.assert_array_equal(losses.cross_entropy(logits, labels.astype(dtype)), expected)


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
    labels = jnp.array([0, -1, 4, -100])
    got = loss(LOGITS[:4], labels)
    assert jnp.isfinite(got[0]) and jnp.isnan(got[1:]).all()


def test_a_class_that_is_ruled_out_costs_nothing():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    labels = jnp.array([[0.5, 0.5, 0.0]])

    def loss(z: jax.Array) -> jax.Array:
        return losses.categorical_cross_entropy(z, labels).sum()

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_confident_answers_neither_overflow_nor_vanish(name: str):
    logits = {
        "cross_entropy": jnp.array([[1e4, 0.0], [0.0, 1e4]]),
        "binary_cross_entropy": jnp.array([-1e4, 1e4]),
    }[name]
    got = losses.LOSSES[name](logits, jnp.array([0, 0]))
    np.testing.assert_allclose(got, [0.0, 1e4])


def test_float64_outputs_keep_their_precision():
    with jax.enable_x64(True):
        logits = jnp.asarray(LOGITS, jnp.float64)
        got = losses.cross_entropy(logits, jnp.asarray(LABELS))
        assert got.dtype == jnp.float64
    z = LOGITS.astype(np.float64)
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(6), LABELS]
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_losses_by_name():
    assert lookup("huber", losses.LOSSES, "loss") is losses.huber
    with pytest.raises(UsageError, match="did you mean 'cross_entropy'"):
        lookup("crossentropy", losses.LOSSES, "loss")
