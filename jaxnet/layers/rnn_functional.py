"""Recurrent layers as pure functions: one layer in one direction over `(batch, time, channels)`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxnet.errors import InputError
from jaxnet.layers.activations import Activation
from jaxnet.layers.dense import rows_dot_general
from jaxnet.layers.rnn_scan import (
    GRU_CELL,
    LSTM_CELL,
    Carry,
    Gates,
    gru_reset_before,
    recurrence,
    simple_cell,
)

Mask = Bool[Array, "batch time"]


class LSTMState(NamedTuple):
    """The state of an LSTM: what it puts out, and what it keeps to itself."""

    hidden: jax.Array
    cell: jax.Array


def sequence_mask(lengths: Integer[Array, " batch"], time: int) -> Mask:
    """Which steps of padded sequences are real: True in the first `lengths[i]` of `time` steps.

    Example:
        >>> sequence_mask(jnp.array([1, 3]), 3).tolist()
        [[True, False, False], [True, True, True]]
    """
    return jnp.arange(time, dtype=lengths.dtype)[None] < lengths[:, None]


def simple_rnn(
    x: Float[Array, "batch time channels"],
    kernel: Float[Array, "channels features"],
    recurrent_kernel: Float[Array, "features features"],
    bias: Float[Array, " features"] | None = None,
    initial: Float[Array, "batch features"] | None = None,
    *,
    mask: Mask | None = None,
    reverse: bool = False,
    activation: Activation = jnp.tanh,
) -> tuple[Float[Array, "batch time features"], Float[Array, "batch features"]]:
    """`h[t] = activation(x[t] W + h[t-1] U + b)` (Elman 1990, with h where he has a copy of it).

    Args:
        x: the sequences, `(batch, time, channels)`.
        kernel: W.
        recurrent_kernel: U.
        bias: b; None for none.
        initial: the state before the first step; None for zeros.
        mask: False where a step is padding. It leaves the state as it is, its input is not looked
            at, and its output is the state carried over.
        reverse: whether to run from the last step to the first; outputs stay in their places.
        activation: an element-wise function.

    Returns:
        The states after each step, and the state after the last one.

    Raises:
        InputError: shapes or types do not fit.

    Example:
        >>> x, one = jnp.ones((1, 3, 1)), jnp.ones((1, 1))
        >>> outputs, last = simple_rnn(x, one, one, activation=lambda z: z)
        >>> outputs.ravel().tolist(), last.tolist()
        ([1.0, 2.0, 3.0], [[3.0]])
    """
    products, carry, mask = _start(x, kernel, recurrent_kernel, bias, (initial,), mask, gates=1)
    cell = simple_cell(activation)
    outputs, (last,) = recurrence(cell, reverse, products, recurrent_kernel, None, carry, mask)
    return outputs.swapaxes(0, 1), last


def lstm(
    x: Float[Array, "batch time channels"],
    kernel: Float[Array, "channels features*4"],
    recurrent_kernel: Float[Array, "features features*4"],
    bias: Float[Array, " features*4"] | None = None,
    initial: LSTMState | None = None,
    *,
    mask: Mask | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "batch time features"], LSTMState]:
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with forget gate (Gers et al. 2000).

        i, f, g, o = split(x[t] W + h[t-1] U + b)
        c[t] = sigmoid(f) c[t-1] + sigmoid(i) tanh(g)
        h[t] = sigmoid(o) tanh(c[t])

    The gates stand in the order of PyTorch, cuDNN and Keras: input, forget, candidate, output.

    Args:
        x: as in `simple_rnn`, and so are those that are not named here.
        kernel: W.
        recurrent_kernel: U.
        bias: b; None for none.
        initial: h and c before the first step; None for zeros.
        mask: see `simple_rnn`.
        reverse: see `simple_rnn`.

    Returns:
        h after each step, and both h and c after the last one.

    Raises:
        InputError: shapes or types do not fit.

    Example:
        >>> x, kernel = jnp.ones((1, 3, 2)), jnp.zeros((2, 4))
        >>> outputs, last = lstm(x, kernel, jnp.zeros((1, 4)), jnp.array([9.0, 9.0, 9.0, 9.0]))
        >>> [round(float(h), 2) for h in outputs.ravel()], round(float(last.cell[0, 0]), 2)
        ([0.76, 0.96, 0.99], 3.0)
    """
    both = (None, None) if initial is None else (initial.hidden, initial.cell)
    products, carry, mask = _start(x, kernel, recurrent_kernel, bias, both, mask, gates=4)
    outputs, last = recurrence(LSTM_CELL, reverse, products, recurrent_kernel, None, carry, mask)
    return outputs.swapaxes(0, 1), LSTMState(*last)


def gru(
    x: Float[Array, "batch time channels"],
    kernel: Float[Array, "channels features*3"],
    recurrent_kernel: Float[Array, "features features*3"],
    bias: Float[Array, " features*3"] | None = None,
    initial: Float[Array, "batch features"] | None = None,
    *,
    recurrent_bias: Float[Array, " features"] | None = None,
    mask: Mask | None = None,
    reverse: bool = False,
    reset_after: bool = True,
) -> tuple[Float[Array, "batch time features"], Float[Array, "batch features"]]:
    """Gated recurrent units (Cho et al. 2014, section 2.3).

        r = sigmoid(x[t] Wr + h[t-1] Ur + br)
        z = sigmoid(x[t] Wz + h[t-1] Uz + bz)
        n = tanh(x[t] Wn + r (h[t-1] Un + d) + bn)      reset after the product
        n = tanh(x[t] Wn + (r h[t-1]) Un + bn)          reset before it, as in the paper
        h[t] = (1 - z) n + z h[t-1]

    W, U and b hold the gates in the order of PyTorch and cuDNN: reset, update, candidate (Keras has
    update before reset).

    Args:
        x: as in `simple_rnn`, and so are those that are not named here.
        kernel: W.
        recurrent_kernel: U.
        bias: b; None for none.
        initial: see `simple_rnn`.
        recurrent_bias: d; None for none. It exists only with `reset_after`.
        mask: see `simple_rnn`.
        reverse: see `simple_rnn`.
        reset_after: whether the reset gate acts after the product, as in cuDNN, PyTorch and Keras,
            or before it, as in the paper. Before it the loop holds two products, one after the
            other, and their gradients, so it is the slower one.

    Returns:
        The states after each step, and the state after the last one.

    Raises:
        InputError: shapes or types do not fit.

    Example:
        >>> x, kernel = jnp.ones((1, 3, 2)), jnp.zeros((2, 3))
        >>> outputs, _ = gru(x, kernel, jnp.zeros((1, 3)), jnp.array([0.0, 0.0, 9.0]))
        >>> outputs.ravel().tolist()
        [0.5, 0.75, 0.875]
    """
    products, carry, mask = _start(x, kernel, recurrent_kernel, bias, (initial,), mask, gates=3)
    if reset_after:
        extra = _gru_bias(recurrent_bias, recurrent_kernel.shape[0])
        outputs, (last,) = recurrence(
            GRU_CELL, reverse, products, recurrent_kernel, extra, carry, mask
        )
    elif recurrent_bias is None:
        outputs, (last,) = gru_reset_before(reverse, products, recurrent_kernel, carry, mask)
    else:
        raise InputError("recurrent_bias is what the reset gate acts on: it needs reset_after=True")
    return outputs.swapaxes(0, 1), last


def _gru_bias(candidate: jax.Array | None, features: int) -> jax.Array | None:
    """The bias of the product for all three gates: that of two of them is in the inputs' bias."""
    if candidate is None:
        return None
    if candidate.shape != (features,):
        raise InputError(f"expected recurrent_bias ({features},), got {candidate.shape}")
    return jnp.concatenate([jnp.zeros(2 * features, candidate.dtype), candidate])


def _start(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None,
    initial: tuple[jax.Array | None, ...],
    mask: jax.Array | None,
    gates: int,
) -> tuple[Gates, Carry, jax.Array | None]:
    """What the loop runs over, all known to fit: (time, batch, .) for each gate, states, mask."""
    features = recurrent_kernel.shape[0]
    _check(x, kernel, recurrent_kernel, bias, initial, mask, gates)
    zeros = jnp.zeros((x.shape[0], features), x.dtype)
    carry = tuple(zeros if state is None else state.astype(x.dtype) for state in initial)
    if mask is not None:
        # Nothing that stands in the padding, not even NaN, can get any further.
        x, mask = jnp.where(mask[..., None], x, 0), mask.T[..., None]
    products = rows_dot_general(x.swapaxes(0, 1), kernel, (((2,), (0,)), ((), ())))
    if bias is not None:
        products = products + bias.reshape(1, 1, -1)
    return tuple(jnp.split(products, gates, axis=-1)), carry, mask


def _check(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array | None,
    initial: tuple[jax.Array | None, ...],
    mask: jax.Array | None,
    gates: int,
) -> None:
    check_sequence(x, mask)
    width = recurrent_kernel.shape[-1]
    if kernel.shape != (x.shape[-1], width) or recurrent_kernel.shape != (width // gates, width):
        raise InputError(
            f"expected kernel (channels, {gates} features) and recurrent_kernel (features, {gates} "
            f"features) for x (batch, time, channels) {x.shape}, got {kernel.shape} and "
            f"{recurrent_kernel.shape}"
        )
    if bias is not None and bias.shape != (width,):
        raise InputError(f"expected bias ({width},), got {bias.shape}")
    for state in initial:
        if state is not None and state.shape != (x.shape[0], width // gates):
            raise InputError(
                f"expected an initial state (batch, features) ({x.shape[0]}, {width // gates}), "
                f"got {state.shape}"
            )


def check_sequence(x: jax.Array, mask: jax.Array | None) -> None:
    """Check that `x` and `mask` are sequences that a recurrent layer can take.

    Raises:
        InputError: `x` is not `(batch, time, channels)` of floats, or `mask` not bool `(batch,
            time)`.
    """
    if x.ndim != 3 or not x.shape[1] or not jnp.issubdtype(x.dtype, jnp.floating):
        hint = "" if jnp.issubdtype(x.dtype, jnp.floating) else "; embed tokens first (nn.Embed)"
        raise InputError(
            f"expected floats (batch, time, channels) of at least one step, got {x.dtype} "
            f"{x.shape}{hint}"
        )
    if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != bool):
        raise InputError(
            f"expected a mask of bool (batch, time) {x.shape[:2]}, True where a step is real, got "
            f"{mask.dtype} {mask.shape}; sequence_mask(lengths, time) makes one"
        )
