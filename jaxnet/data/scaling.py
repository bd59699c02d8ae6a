"""Input normalisation, fitted on the training part only and kept as plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.named_arrays import NamedArrays
from jaxnet.data.numeric import as_array, narrowed
from jaxnet.errors import InputError

if TYPE_CHECKING:
    import jax

ArrayT = TypeVar("ArrayT", np.ndarray, "jax.Array")

_BLOCK_BYTES = 1 << 23
_PART = 4096
_VISIBLE = 1e-6
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Scale:
    """The pure function `(inputs - shift) * scale`, from any numbers to float32.

    An offset however large leaves no trace: where float32 doesn't hold the inputs or the shift
    exactly, the difference is taken before the rest is rounded. It can be hashed, written to JSON,
    compiled into a network and applied to NumPy arrays.

    Attributes:
        shift: one number, or one for each feature (the last axis of the inputs).
        scale: likewise; not zero.

    Raises:
        InputError: a number is not finite in float32, `scale` holds a zero, or the two differ in
            length.

    Example:
        >>> Scale(shift=0.0, scale=1 / 255)(np.array([[0, 51, 255]], np.uint8)).round(3).tolist()
        [[0.0, 0.20000000298023224, 1.0]]
    """

    shift: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for field in ("shift", "scale"):
            object.__setattr__(self, field, _plain(getattr(self, field), field))
        if np.min(np.abs(self.scale)) < _TINY:
            raise InputError(f"scale must not be zero in float32, got {self.scale}")
        lengths = [len(value) for value in (self.shift, self.scale) if isinstance(value, tuple)]
        if len(set(lengths)) > 1:
            raise InputError(
                "shift and scale must have one number a feature each, got "
                f"{lengths[0]} and {lengths[1]}"
            )

    def __call__(self, inputs: ArrayT) -> ArrayT:
        """Scale `inputs` (..., features), of any numeric type.

        Returns:
            float32 of the same shape; NumPy for NumPy, JAX for JAX.

        Raises:
            InputError: the last axis has another number of features.
        """
        shift, scale = (_against(value, inputs.shape) for value in (self.shift, self.scale))
        if not isinstance(inputs, np.ndarray):
            return _minus(inputs, shift, scale) * scale.astype(np.float32)
        # Small integers are exact in float32; of all else a large offset goes in float64.
        exact = np.float32 if inputs.dtype.itemsize <= 2 else np.float64
        shift, scale = shift.astype(exact), scale.astype(exact)
        outputs = np.empty(inputs.shape, np.float32)
        for block in _blocks(inputs):
            outputs[block] = (inputs[block].astype(exact) - shift) * scale
        return outputs

    def undo(self, outputs: np.ndarray) -> np.ndarray:
        """The inputs that are scaled to `outputs` (..., features), float64.

        Not float32, which can't hold the digits behind a large offset.

        Example:
            >>> Scale(10.0, 0.5).undo(np.array([1.0, -1.0])).tolist()
            [12.0, 8.0]
        """
        shift, scale = (_against(value, outputs.shape) for value in (self.shift, self.scale))
        return outputs.astype(np.float64) / scale + shift

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON knows them; `from_dict` is the way back."""
        return {
            field: list(value) if isinstance(value, tuple) else value
            for field, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scale:
        """The scale that `to_dict` wrote down.

        Raises:
            InputError: a key other than shift and scale, or one of them missing.

        Example:
            >>> Scale.from_dict({"shift": [1.0, 2.0], "scale": 0.5})
            Scale(shift=(1.0, 2.0), scale=0.5)
        """
        if set(values) != {"shift", "scale"}:
            raise InputError(f"a Scale is made of shift and scale, got {sorted(values)}")
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class PerInput:
    """A function for some of several inputs; the others stay as they are.

    Attributes:
        functions: name of the input -> function.

    Example:
        >>> PerInput({"age": Scale(40.0, 0.1)})({"age": np.float32([50.0]), "code": np.int32([3])})
        {'age': array([1.], dtype=float32), 'code': array([3], dtype=int32)}
    """

    functions: Mapping[str, Callable[[Any], Any]]

    def __call__(self, inputs: Any) -> Any:
        """The inputs by name, changed.

        Raises:
            InputError: there is a function for an input that isn't there.
        """
        names = set(inputs) if isinstance(inputs, Mapping) else set()
        if unknown := self.functions.keys() - names:
            got = ", ".join(sorted(names)) or "one array"
            raise InputError(
                f"preprocess of {', '.join(sorted(unknown))}, and the data's inputs are {got}"
            )
        return {
            name: self.functions[name](part) if name in self.functions else part
            for name, part in inputs.items()
        }


def fit_standard(train: Arrays | np.ndarray, per_feature: bool = False) -> Scale:
    """The scale that gives the training inputs mean 0 and standard deviation 1.

    Args:
        train: the training part and nothing else: what validation and test data look like is not
            known when a network is trained. Its inputs alone, an array, may be float64.
        per_feature: one mean and deviation for each entry of the last axis (columns of a table,
            channels of an image) instead of one for all.

    Returns:
        A scale in which a constant feature becomes 0: its own scale is 1.

    Example:
        >>> fit_standard(Arrays(np.array([[1.0], [3.0]]), np.array([0, 1])))
        Scale(shift=2.0, scale=1.0)
    """
    return _standard(_inputs(train), per_feature)


def fit_target(train: Arrays | np.ndarray) -> Scale:
    """The scale that gives the numbers to predict mean 0 and standard deviation 1.

    `jaxnet.training.scaled_target` trains with it and undoes it in what the network predicts.

    Args:
        train: the training part and nothing else, or its labels, an array that may be float64;
            several targets (n, targets) have a scale each.

    Raises:
        InputError: the labels are classes (integers).

    Example:
        >>> fit_target(Arrays(np.array([[1.0], [3.0]]), np.array([10.0, 30.0])))
        Scale(shift=20.0, scale=0.1)
    """
    name = train.name if isinstance(train, Arrays) else "labels"
    labels = train.labels if isinstance(train, Arrays) else as_array(train, name)
    if labels.dtype.kind != "f":
        raise InputError(
            f"{name}: expected numbers to predict, got labels of type {labels.dtype}; "
            "convert with labels.astype(np.float64) if these are no classes"
        )
    return _standard(labels, per_feature=True)


def fit_range(train: Arrays | np.ndarray) -> Scale:
    """The scale that brings the training inputs into [0, 1] and, without negative ones, keeps 0.

    Args:
        train: the training part and nothing else.

    Example:
        >>> fit_range(Arrays(np.array([[0, 5], [2, 4]]), np.array([0, 1])))
        Scale(shift=0.0, scale=0.2)
    """
    inputs = _inputs(train)
    shift = min(0.0, float(inputs.min()))
    extent = float(inputs.max()) - shift
    return Scale(shift, 1 / extent if extent > _TINY else 1.0)


def fit_symmetric(train: Arrays | np.ndarray) -> Scale:
    """The scale that brings the training inputs into [-1, 1], as `tanh` gives them back.

    Args:
        train: the training part and nothing else.

    Example:
        >>> fit_symmetric(Arrays(np.array([[0, 255], [51, 0]]), np.array([0, 1])))
        Scale(shift=127.5, scale=0.00784313725490196)
    """
    inputs = _inputs(train)
    low, high = float(inputs.min()), float(inputs.max())
    extent = high - low
    return Scale((low + high) / 2, 2 / extent if extent > _TINY else 1.0)


def _inputs(train: Arrays | np.ndarray) -> np.ndarray:
    if isinstance(train, Arrays):
        return train.inputs
    if isinstance(train, NamedArrays):
        raise InputError(
            f"{train.name} has several inputs, each of which needs a scale of its own: "
            "preprocess={'NAME': fit_standard(train.inputs['NAME'])}"
        )
    inputs = as_array(train, "inputs")
    narrowed(inputs, "inputs")
    return inputs


def _minus(inputs: jax.Array, shift: Any, scale: Any) -> jax.Array:
    """`inputs - shift` in float32 without the rounding of either, in a compiled program.

    Args:
        inputs: of any numeric type.
        shift: float64, a number or an array with the inputs' axes.
        scale: likewise; by how much the difference is going to be multiplied.
    """
    from jax.lax import optimization_barrier

    if inputs.dtype.itemsize > 4:
        return (inputs - shift.astype(inputs.dtype)).astype(np.float32)
    if inputs.dtype.kind in "ui" and inputs.dtype.itemsize == 4:
        # In parts that float32 holds: x is 4096 a + b, and so is the shift.
        high = np.floor(shift / _PART)
        above = (inputs >> 12).astype(np.float32) - high.astype(np.float32)
        rest = (shift - _PART * high).astype(np.float32)
        below = (inputs & (_PART - 1)).astype(np.float32) - rest
        return above * np.float32(_PART) + below
    rounded = shift.astype(np.float32)
    difference = inputs.astype(np.float32) - rounded
    rest = (shift - rounded).astype(np.float32)
    # For pixels and the like the rest is below what float32 shows of the result.
    if np.abs(rest * scale).max() <= _VISIBLE:
        return difference
    # XLA makes one subtraction of two, and rounds their sum.
    return optimization_barrier(difference) - rest


def _blocks(values: np.ndarray) -> Iterator[slice]:
    """Blocks of rows that take few bytes in float64."""
    rows = max(1, _BLOCK_BYTES // (8 * max(1, values[:1].size)))
    return (slice(i, i + rows) for i in range(0, len(values), rows))


def _standard(values: np.ndarray, per_feature: bool) -> Scale:
    axes = tuple(range(values.ndim - 1 if per_feature and values.ndim > 1 else values.ndim))
    mean = values.mean(axis=axes, dtype=np.float64)
    # In blocks: the squares of all inputs at once would take eight times MNIST's memory.
    squares = sum(np.square(values[block] - mean).sum(axis=axes) for block in _blocks(values))
    deviation = np.sqrt(squares / (values.size / mean.size))
    # A constant deviates by exactly 0: float64 holds the sum of 2^29 equal float32 values exactly.
    return Scale(mean.tolist(), (1 / np.where(deviation > _TINY, deviation, 1.0)).tolist())


def _plain(value: Any, field: str) -> float | tuple[float, ...]:
    """A number, or a tuple of them, of Python's own type."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{field}: expected a number or one a feature, got {value!r}") from error
    if array.ndim > 1 or array.size == 0:
        raise InputError(f"{field}: expected a number or one a feature, got shape {array.shape}")
    if not (np.abs(array) <= np.finfo(np.float32).max).all():
        raise InputError(f"{field}: expected numbers that are finite in float32, got {value!r}")
    return tuple(array.tolist()) if array.ndim else float(array)


def _against(value: float | tuple[float, ...], shape: tuple[int, ...]) -> Any:
    """`value` in float64, with as many axes as the inputs where it is one a feature."""
    if not isinstance(value, tuple):
        return np.float64(value)
    if not shape or shape[-1] != len(value):
        raise InputError(
            f"this scale was fitted on {len(value)} features, got inputs of shape {shape}; "
            "expected that many on the last axis"
        )
    return np.asarray(value, np.float64).reshape((1,) * (len(shape) - 1) + (-1,))
