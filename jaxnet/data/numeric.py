"""Anything that holds numbers as a NumPy array of a type that JAX keeps; the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnet.errors import InputError

_INT32 = np.iinfo(np.int32)
# Up to this float32 holds every whole number.
_EXACT = 2.0**24
# Values that lie within so few steps of float32 have lost most of their digits to an offset.
_FEW_STEPS = 4096.0

_ADVICE = {
    "c": "complex numbers: make two features of them, .real and .imag",
    "M": "points in time: make numbers of them, such as days: (t - t0) / np.timedelta64(1, 'D')",
    "m": "lengths of time: make numbers of them, such as seconds: t / np.timedelta64(1, 's')",
    "O": "turn text and categories into numbers and fill the gaps first",
    "V": "convert it first, with .astype(np.float32), or one array for each of its fields",
}


def as_array(values: Any, where: str) -> np.ndarray:
    """`values` as a NumPy array of numbers or truth values, of the type they have.

    Args:
        values: an array, of JAX or PyTorch too, nested lists, or a data frame or a column of one.
        where: what the message begins with.

    Raises:
        InputError: these are no numbers, rows differ in shape, or something is missing: values that
            are masked (`numpy.ma`), gaps of pandas; sparse matrices have to be made dense first.

    Example:
        >>> as_array([[1, 2.5]], "inputs")
        array([[1. , 2.5]])
    """
    _check_complete(values, where)
    try:
        array = np.asarray(values)
        if array.dtype == object and hasattr(values, "isna"):  # of pandas, and without a gap
            array = np.array(array.tolist())
    except ValueError as error:
        raise InputError(f"{where}: rows differ in shape, expected one array: {error}") from error
    except (TypeError, RuntimeError) as error:
        kind = type(values).__name__
        raise InputError(f"{where}: expected an array, got a {kind}: {error}") from error
    if array.dtype.kind not in "buif":
        raise InputError(f"{where}: {_of_columns(values) or _not_numbers(values, array)}")
    return array


def narrowed(array: np.ndarray, where: str) -> np.ndarray:
    """The array in the type that JAX has for it: float32 for float64, int32 for int64.

    Raises:
        InputError: a value isn't finite, or doesn't fit into that type.
    """
    cast = to_dtype(array, device_dtype(array.dtype), where)
    _check_finite(cast, array, where)
    return cast


def device_dtype(dtype: np.dtype) -> np.dtype:
    """The type that JAX keeps an array of this type in."""
    if dtype.itemsize > 4:
        return np.dtype(np.float32 if dtype.kind == "f" else np.int32)
    return dtype.newbyteorder("=")


def to_dtype(array: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """The array in another type; `InputError` where a whole number doesn't fit into int32."""
    if array.dtype == dtype or not array.size:
        return array.astype(dtype, copy=False)
    if dtype == np.int32 and (array.min() < _INT32.min or array.max() > _INT32.max):
        index = first((array < _INT32.min) | (array > _INT32.max))
        at = f" in {place(index)}" if index else ""
        raise InputError(
            f"{where}: {array[index]}{at} does not fit into int32; "
            "number the values from 0, or pass them as float64"
        )
    # What overflows becomes infinite, and the check of finiteness after this names the place.
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def check_distinct(given: np.ndarray, where: str, advice: str) -> None:
    """Check that float32 tells the values of each feature apart as float64 does.

    1,700,000,000 + i is the same for all i up to 63 in float32. That is refused where at most half
    of the different values are left, of whole numbers or of values that lie close together far from
    0. That a measurement of 16 digits is cut to 7 is what float32 is for.

    Args:
        given: (n, ...), finite; features are along the last axis where there is more than one.
        where: what the message begins with.
        advice: what to do, for the end of the message.

    Raises:
        InputError: at most half of a feature's values can be told apart.

    Example:
        >>> check_distinct(np.array([1.7e9, 1.7e9 + 1]), "labels", "subtract 1700000000")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: labels: of 2 different values, from 1700000000 to 1700000001, \
float32 can tell 1 apart: subtract 1700000000
    """
    wide = given.dtype.itemsize > 2 if given.dtype.kind in "ui" else given.dtype.itemsize > 4
    if given.dtype.kind not in "uif" or not wide:
        return
    features = given.reshape(-1, given.shape[-1] if given.ndim > 1 else 1)
    low, high = (ends.astype(np.float64) for ends in (features.min(axis=0), features.max(axis=0)))
    largest = np.maximum(np.abs(low), np.abs(high))
    close = high - low < _FEW_STEPS * np.spacing(largest.astype(np.float32)).astype(np.float64)
    for i in np.flatnonzero((high > low) & (close | (largest > _EXACT))):
        column = features[:, i]
        if not close[i] and not (column == np.round(column)).all():
            continue
        different, left = (len(np.unique(each)) for each in (column, column.astype(np.float32)))
        if 2 * left <= different:
            which = f" in column {i}" if features.shape[1] > 1 else ""
            raise InputError(
                f"{where}: of {different} different values{which}, from {low[i]:.15g} to "
                f"{high[i]:.15g}, float32 can tell {left} apart: {advice}"
            )


def first(bad: np.ndarray) -> tuple[int, ...]:
    """The index of the first that is true."""
    return tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))


def place(index: tuple[int, ...]) -> str:
    """Where in an array, counted from 0."""
    row, *rest = index
    if not rest:
        return f"row {row}"
    return f"row {row}, column {rest[0] if len(rest) == 1 else tuple(rest)}"


def _check_complete(values: Any, where: str) -> None:
    """Raise `InputError` where `numpy.asarray` would drop a part of what the values say."""
    nested = isinstance(values, list | tuple)
    masked = [
        np.ma.count_masked(part)
        for part in (values if nested else [values])
        if isinstance(part, np.ma.MaskedArray)
    ]
    if any(masked):
        raise InputError(
            f"{where}: {sum(masked)} values are masked, and would be trained on like the others: "
            "fill them (values.filled(...)), or leave out their rows (np.ma.compress_rows)"
        )
    if nested:
        return
    # SciPy's and others' matrices, and those of JAX.
    if hasattr(values, "todense"):
        dense = "toarray" if hasattr(values, "toarray") else "todense"
        raise InputError(
            f"{where}: expected a dense array, got a sparse {type(values).__name__} of shape "
            f"{values.shape}: make it dense first, with .{dense}()"
        )
    if hasattr(values, "isna"):  # pandas
        gaps = np.asarray(values.isna())
        if gaps.any():
            row, *column = first(gaps)
            names = getattr(values, "columns", None)
            which = "" if names is None else f" of column {names[column[0]]!r}"
            raise InputError(
                f"{where}: row {row}{which} has no value, one of {int(gaps.sum())} gaps: fill them "
                "(fillna), or leave out their rows (dropna)"
            )


def _of_columns(values: Any) -> str | None:
    """What is wrong with a data frame of pandas: which of its columns aren't numbers."""
    if not (hasattr(values, "isna") and hasattr(values, "columns")):
        return None
    kinds = {str(name): column.to_numpy() for name, column in values.items()}
    bad = [name for name, column in kinds.items() if column.dtype.kind not in "buif"]
    if not bad:
        return None
    return (
        f"expected columns of numbers, got others in {', '.join(bad[:10])}: leave them out, or let "
        "jaxnet.data.read_table(frame, target=...) and fit_table make numbers of them"
    )


def _not_numbers(values: Any, array: np.ndarray) -> str:
    """What is wrong with an array that holds something else."""
    if array.ndim == 0 and array.dtype == object:
        return f"expected an array with one row an example, got a {type(values).__name__}"
    if array.dtype == object:
        for row, value in enumerate(array.flat):
            if np.ndim(value):
                return (
                    "expected one array, got an array of arrays (dtype object): bring all to one "
                    "shape, and np.stack them"
                )
            if value is None or value != value:
                return (
                    f"expected numbers, got dtype object, with {value} in "
                    f"{place(first(np.arange(array.size).reshape(array.shape) == row))}: fill the "
                    "gaps, and turn text into numbers first"
                )
    advice = _ADVICE.get(array.dtype.kind, _ADVICE["O"])
    return f"expected numbers, got dtype {array.dtype}; {advice}"


def _check_finite(array: np.ndarray, given: np.ndarray, where: str) -> None:
    """Refuse NaN and infinity in `array`; `given` is the array before its type was changed."""
    if array.dtype.kind != "f":
        return
    # A finite sum proves finite terms, and needs no temporary of the array's size.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    index = first(bad)
    reason = "is beyond float32" if np.isfinite(given[index]) else "is not a finite number"
    raise InputError(
        f"{where}: {given[index]} in {place(index)} {reason}; "
        f"{int(bad.sum())} such values in all: fill them or drop the rows"
    )
