from __future__ import annotations

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

from jaxnet import Bundle, Supervised, Trainer, losses
from jaxnet.data import Arrays, Records, check_classes
from jaxnet.errors import InputError
from tests.networks import Dense

pd = pytest.importorskip("pandas", reason="needs the extra [tables]")

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1], np.int32)


def test_arrays_of_the_right_type_are_kept_without_a_copy():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    weights = np.ones(4, np.float32)
    data = Arrays(images, Y, weights)
    assert data.inputs is images
    assert data.labels is Y
    assert data.weights is weights


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float64, np.float32),
        (np.float32, np.float32),
        (np.float16, np.float16),
        (np.int64, np.int32),
        (np.uint64, np.int32),
        (np.uint8, np.uint8),
        (np.bool_, np.bool_),
        (">i4", np.int32),
        (">f4", np.float32),
    ],
)
def test_inputs_get_a_type_that_jax_keeps(given, kept):
    inputs = Arrays(np.array([[1], [0], [1], [1]]).astype(given), Y).inputs
    assert inputs.dtype == kept
    assert inputs.dtype.isnative
    assert jnp.asarray(inputs).dtype == kept
    assert inputs.tolist() == [[1], [0], [1], [1]]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.uint32])
def test_class_labels_are_int32_whatever_they_were(dtype):
    assert Arrays(X, np.array([0, 1, 0, 1]).astype(dtype)).labels.dtype == np.int32


def test_label_images_keep_their_type():
    assert Arrays(X, np.zeros((4, 2, 2), np.uint8)).labels.dtype == np.uint8


def test_lists_and_jax_arrays_are_taken_as_numpy_arrays():
    data = Arrays(jnp.asarray(X), [0, 1, 0, 1])  # type: ignore[arg-type]
    assert isinstance(data.inputs, np.ndarray)
    assert isinstance(data.labels, np.ndarray)


def test_number_of_classes_from_names_else_from_labels_else_refused():
    assert Arrays(X, Y).num_classes == 3
    assert Arrays(X, Y, class_names=("a", "b", "c", "d")).num_classes == 4
    with pytest.raises(InputError, match="float32, which has no classes"):
        _ = Arrays(X, Y.astype(np.float32)).num_classes


def test_columns_hold_weights_only_where_given():
    assert list(Arrays(X, Y).columns()) == ["inputs", "labels"]
    weighted = Arrays(X, Y, [1, 2, 3, 4])  # type: ignore[arg-type]
    assert list(weighted.columns()) == ["inputs", "labels", "weights"]
    assert weighted.columns()["weights"].dtype == np.float32


def test_take_moves_every_column_and_keeps_the_names():
    data = Arrays(X, Y, np.arange(1.0, 5.0), ("a", "b", "c"), name="toy")
    taken = data.take(np.array([3, 0, 3]))
    assert len(taken) == 3
    assert taken.inputs.tolist() == X[[3, 0, 3]].tolist()
    assert taken.labels.tolist() == [1, 0, 1]
    assert taken.weights is not None
    assert taken.weights.tolist() == [4.0, 1.0, 4.0]
    assert (taken.class_names, taken.name) == (("a", "b", "c"), "toy")


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], r"indices in \[0, 4\), got values from 0 to 4"),
        ([-1], r"indices in \[0, 4\), got values from -1 to -1"),
        ([], "non-empty integer array of indices"),
        ([True, False, True, True], r"integer array of indices \(m,\), got bool \(4,\)"),
        ([[0]], r"got int64 \(1, 1\)"),
    ],
)
def test_take_refuses_indices_that_are_not_there(indices, message):
    with pytest.raises(InputError, match=message):
        Arrays(X, Y).take(np.array(indices))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_first_value_that_is_not_finite_is_named(bad, dtype):
    inputs = X.astype(dtype)
    inputs[2, 1] = inputs[3, 0] = bad
    message = rf"toy: inputs: {bad} in row 2, column 1 is not a finite number; 2 such"
    with pytest.raises(InputError, match=message):
        Arrays(inputs, Y, name="toy")


@pytest.mark.parametrize(
    ("values", "left"),
    [
        (1_700_000_000 + np.arange(100.0), "of 100 different values, .*, float32 can tell 2 apart"),
        ([16777216.0, 16777217.0], "of 2 different values, from 16777216 .* can tell 1 apart"),
        (1e6 + np.linspace(0, 0.1, 50), "of 50 different values, from 1000000 .* tell 3 apart"),
        (1_700_000_000 + np.arange(0, 3e6, 30), "of 100000 different values, .* tell 23.* apart"),
    ],
)
def test_values_that_float32_cannot_tell_apart_are_refused(values, left):
    values = np.asarray(values)
    with pytest.raises(InputError, match=f"labels: {left}: scale in float64 first"):
        Arrays(np.zeros((len(values), 1)), values)
    inputs = np.stack([np.zeros(len(values)), values], axis=1)
    left = left.replace("different values,", "different values in column 1,")
    with pytest.raises(InputError, match=f"inputs: {left}"):
        Arrays(inputs, np.zeros(len(values)))
    # Those of a network that is trained are what they are.
    assert Arrays(inputs.astype(np.float32), np.zeros(len(values))).inputs.dtype == np.float32


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1000),
        np.random.default_rng(0).normal(1013, 9, 1000),  # hectopascals
        np.random.default_rng(0).lognormal(10, 3, 1000).round(),  # incomes
        np.full(1000, 1e9 + 0.1),
        np.array([0.1, 1e-300] * 500),
        np.arange(1000) / 3,
    ],
)
def test_digits_that_float32_cuts_off_are_no_loss(values):
    assert Arrays(values[:, None], values).labels.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: np.ma.masked_array(X, mask=X > 9),
            r"2 values are masked, .* fill them \(values.filled",
        ),
        (lambda: [np.ma.masked_array(row, mask=row > 9) for row in X], "2 values are masked"),
        (
            lambda: scipy.sparse.csr_matrix(X),
            r"got a sparse csr_matrix of shape \(4, 3\): .* \.toarray\(\)",
        ),
        (lambda: jax.experimental.sparse.BCOO.fromdense(X), r"a sparse BCOO .* \.todense\(\)"),
        (
            lambda: pd.DataFrame({"a": [1, 2, 3, 4], "b": pd.array([1, None, 3, None], "Int64")}),
            "row 1 of column 'b' has no value, one of 2 gaps",
        ),
        (lambda: pd.Series([1, 2, None, 4], dtype="Float64"), "row 2 has no value, one of 1 gaps"),
        (lambda: pd.Series(pd.to_datetime(["2024-01-01"] * 4)), "points in time"),
        (lambda: pd.Series(pd.to_timedelta([1] * 4)), "lengths of time"),
        (lambda: pd.DataFrame({"a": [1, 2, 3, 4], "b": list("abcd")}), "numbers, got others in b"),
        (lambda: X.astype(complex), "complex numbers: make two features"),
        (lambda: np.array([X[0], X[0, :2], 1, 2], object), "an array of arrays"),
        (lambda: np.array([1, 2, None, 4]), "with None in row 2: fill the gaps"),
        (lambda: np.array([(1, 2.0)] * 4, [("a", int), ("b", float)]), "each of its fields"),
        (lambda: jnp.zeros((4, 3), jnp.bfloat16), "dtype bfloat16; convert it first"),
        (lambda: jax.random.key(0), "inputs.*: expected an array, got a PRNGKeyArray"),
    ],
)
def test_what_numpy_drops_or_does_not_know_is_refused(make, message):
    values = make()
    with pytest.raises(InputError, match=message):
        Arrays(values, Y)
    with pytest.raises(InputError, match=message):
        Records([(values, 1)]).spec()
    task = Supervised(Dense(3), losses.cross_entropy, optax.sgd(0.1))
    with pytest.raises(InputError, match=message):
        Trainer(task).fit((values, Y), epochs=1)
    bundle = Bundle(Dense(3), {"params": {}}, jax.ShapeDtypeStruct((3,), np.float32))
    with pytest.raises(InputError, match=message):
        bundle.predict(values)


def test_complete_data_of_pandas_and_numpy_is_taken():
    frame = pd.DataFrame({"a": pd.array([1, 2, 3, 4], "Int64"), "b": [True, False, True, True]})
    assert Arrays(frame, pd.Series(Y, dtype="Int32")).inputs.tolist() == [  # type: ignore
        [1, 1],
        [2, 0],
        [3, 1],
        [4, 1],
    ]
    assert Arrays(np.ma.masked_array(X, mask=False), Y).inputs.tolist() == X.tolist()


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(InputError, match="inf in row 0, column 0"):
        Arrays(np.array([[np.inf], [-np.inf]]), np.array([0, 1]))


def test_a_bad_pixel_and_a_bad_label_are_placed():
    images = np.zeros((2, 2, 2, 1), np.float32)
    images[1, 0, 1, 0] = np.nan
    with pytest.raises(InputError, match=r"inputs: nan in row 1, column \(0, 1, 0\)"):
        Arrays(images, np.array([0, 1]))
    with pytest.raises(InputError, match=r"labels: nan in row 3 is not"):
        Arrays(X, np.array([0.5, 1.0, 1.0, np.nan]))


def test_large_finite_values_are_fine_although_their_sum_overflows():
    big = np.full((4, 1), 3e38, np.float32)
    assert Arrays(big, Y).inputs is big
    half = np.full((4, 1), 6e4, np.float16)
    assert Arrays(half, Y).inputs is half


def test_values_beyond_the_type_are_refused_not_wrapped():
    with pytest.raises(InputError, match=r"1e\+300 in row 1, column 0 is beyond float32"):
        Arrays(np.array([[0.0], [1e300]]), np.array([0, 1]))
    with pytest.raises(InputError, match=r"4294967296 in row 0, column 1 does not fit into int32"):
        Arrays(np.array([[1, 2**32]]), np.array([0]))
    with pytest.raises(InputError, match=r"labels: -2147483649 in row 1 does not fit"):
        Arrays(X[:2], np.array([0, -(2**31) - 1]))
    with pytest.raises(InputError, match=r"labels: 4294967295 in row 1 does not fit"):
        Arrays(X[:2], np.array([0, 2**32 - 1], np.uint32))
    limits = np.array([[-(2**31)], [2**31 - 1]])
    assert Arrays(limits, Y[:2]).inputs.tolist() == limits.tolist()


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X, Y[:3], "inputs has 4 examples but labels has 3"),
        (X[:0], Y[:0], "inputs: an empty split"),
        (X, Y[:0], "labels: an empty split"),
        (X[:, :0], Y, r"shape \(4, 0\) holds no value"),
        (np.array(["a", "b", "c", "d"]), Y, "inputs: expected numbers, got dtype <U1"),
        (X, np.array(["a", None, "c", "d"]), "labels: expected numbers, got dtype object"),
        (X.astype(np.complex64), Y, "expected numbers, got dtype complex64"),
        ([[1.0], [1.0, 2.0]], Y, "inputs: rows differ in shape"),
        (np.float32(1), Y, "one row an example"),
    ],
)
def test_what_is_not_a_dataset_is_refused(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Arrays(inputs, labels)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1, 1], "inputs has 4 examples but weights has 3"),
        ([1, 1, -2, 1], "weights: -2.0 in row 2 is negative"),
        ([0, 0, 0, 0], "weights: all are zero"),
        ([1, np.nan, 1, 1], "weights: nan in row 1"),
        (np.ones((4, 1)), r"weights: expected shape \(n,\), got \(4, 1\)"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        Arrays(X, Y, np.asarray(weights, np.float64))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2, 1], ("a", "b"), r"label 2 in row 2 is outside \[0, 2\)"),
        ([0, -1, 2, 1], ("a", "b", "c"), r"label -1 in row 1 is outside \[0, 3\)"),
        ([[0, 1], [1, 5], [0, 0], [0, 0]], ("a", "b"), "label 5 in row 1, column 1 is outside"),
        ([0.0, 1.0, 0.0, 1.0], ("a", "b"), r"expected integer labels .* got float32 \(4,\)"),
        ([0, 1, 1, 1], "ab", "class_names such as"),
        ([0, 1, 1, 1], (), "class_names such as"),
        ([0, 1, 1, 1], ("a", "b", "a"), "must differ, got 'a' more than once"),
    ],
)
def test_labels_and_class_names_must_agree(labels, names, message):
    with pytest.raises(InputError, match=message):
        Arrays(X, np.array(labels), class_names=names)


def test_class_names_may_be_any_sequence_and_label_several_columns():
    data = Arrays(X, np.eye(4, 2), class_names=["a", "b"])  # type: ignore[arg-type]
    assert data.class_names == ("a", "b")
    assert data.num_classes == 2


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0.0, 1.0], 2, "class labels must be integers, got float64"),
        ([0, 3], 3, r"label 3 in row 1 is outside \[0, 3\)"),
        ([0, -1], 3, r"label -1 in row 1 is outside"),
        ([1, 1, 1], 3, "every label is 1, only one class of 3"),
        ([0, 0], 1, "at least two classes, got 1"),
    ],
)
def test_check_classes_refuses_what_cannot_train_a_classifier(labels, num_classes, message):
    with pytest.raises(InputError, match=f"toy: .*{message}"):
        check_classes(np.array(labels), num_classes, name="toy")


def test_check_classes_accepts_classes_that_do_not_occur():
    check_classes(np.array([0, 4], np.uint8), 10)
