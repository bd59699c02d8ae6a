"""Recurrent layers as Linen modules: stacked, in both directions, over padded sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from jaxnet.errors import InputError, UsageError
from jaxnet.layers.activations import Activation, linear
from jaxnet.layers.initializers import orthogonal
from jaxnet.layers.rnn_functional import check_sequence, gru, lstm, simple_rnn
from jaxnet.names import lookup

_Initializer = Callable[..., jax.Array]

_MERGES: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
    "mul": jnp.multiply,
    "ave": lambda forward, backward: (forward + backward) / 2,
}


class _Kind(NamedTuple):
    """What tells one recurrent layer from another.

    Attributes:
        function: the layer as a pure function.
        gates: how many matrices of the layer's width stand side by side in its kernels.
        states: how many arrays it hands on from step to step.
        bias_init: the initializer of its bias.
        recurrent_bias: whether there is a bias within the reset gate's reach.
    """

    function: Callable[..., tuple[jax.Array, Any]]
    gates: int
    states: int = 1
    bias_init: _Initializer = nn.initializers.zeros_init()
    recurrent_bias: bool = False


class _Recurrent(nn.Module):
    """All of a recurrent layer but its `kind`. The public classes say what the fields mean."""

    features: int
    num_layers: int = 1
    bidirectional: bool = False
    merge_mode: str = "concat"
    dropout: float = 0.0
    return_sequences: bool = False
    return_state: bool = False
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: _Initializer = nn.initializers.glorot_uniform()
    recurrent_init: _Initializer = orthogonal()

    @property
    def kind(self) -> _Kind:
        """What kind of recurrent layer it is."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch time channels"],
        mask: Bool[Array, "batch time"] | None = None,
        initial_state: Any = None,
        train: bool = False,
    ) -> Any:
        """The last outputs `(batch, features)` or, with `return_sequences`, all of them.

        With `return_state` a pair of that and the state: `(num_layers * directions, batch,
        features)`, ordered as PyTorch does, or an `LSTMState` of two such arrays.

        Args:
            inputs: `(batch, time, channels)`.
            mask: `(batch, time)`, False where a step is padding; see `simple_rnn`.
            initial_state: a state that an earlier call returned; None for zeros.
            train: whether dropout acts; it draws from the random stream `"dropout"`.

        Raises:
            InputError: shapes or types do not fit; the message names the layer.
            UsageError: an option is not one of its values.
        """
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        merge = lookup(self.merge_mode, _MERGES, "merge_mode") if self.bidirectional else linear
        self._check(inputs, mask, initial_state, self.num_layers * len(directions))
        x, ends = inputs, []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
            outputs = []
            for direction in directions:
                start = _entry(initial_state, len(ends))
                y, end = self._direction(direction, layer)(x, start, mask)
                outputs.append(y)
                ends.append(end)
            x = merge(*outputs)
        if not self.return_sequences:
            x = merge(*(jax.tree.leaves(end)[0] for end in ends[-len(directions) :]))
        return (x, jax.tree.map(lambda *each: jnp.stack(each), *ends)) if self.return_state else x

    def _direction(self, direction: str, layer: int) -> _Direction:
        return _Direction(
            kind=self.kind,
            features=self.features,
            reverse=direction == "backward",
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            recurrent_init=self.recurrent_init,
            name=f"{direction}_{layer}",
        )

    def _check(self, inputs: jax.Array, mask: Any, state: Any, count: int) -> None:
        where = "/".join(self.path) or type(self).__name__
        if self.features < 1 or self.num_layers < 1 or not 0 <= self.dropout < 1:
            raise UsageError(
                f"{where}: expected features and num_layers of at least 1 and dropout in [0, 1), "
                f"got {self.features}, {self.num_layers} and {self.dropout}"
            )
        try:
            check_sequence(inputs, mask)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        shape, states = (count, inputs.shape[0], self.features), self.kind.states
        given = [jnp.shape(leaf) for leaf in jax.tree.leaves(state)]
        if state is not None and given != [shape] * states:
            raise InputError(
                f"{where}: expected an initial_state of {states} array(s) (num_layers * "
                f"directions, batch, features) {shape}, got {given}"
            )


class SimpleRNN(_Recurrent):
    """Layers of `simple_rnn`: `h[t] = activation(x[t] W + h[t-1] U + b)`.

    Parameters, in a scope `forward_0`, `backward_0`, `forward_1`, ... for each layer and direction:
    `kernel` W `(channels, features)`, `recurrent_kernel` U `(features, features)`, `bias`.

    Args:
        features: the number of units in each layer and direction.
        num_layers: how many layers stand on top of each other.
        bidirectional: whether each layer runs over the sequence in both directions.
        merge_mode: what becomes of the outputs of both directions, between layers and at the end:
            `"concat"`, `"sum"`, `"mul"` or `"ave"`.
        dropout: the rate at which outputs are dropped between layers, in training.
        return_sequences: whether the outputs of all steps are returned, `(batch, time, features)`,
            or those of the last step, which for the backward direction is the first.
        return_state: whether the state after the last step is returned too, to go on from.
        use_bias: whether a bias is added.
        dtype: what to compute in; by default the type that inputs and parameters promote to.
        param_dtype: the parameters' type.
        kernel_init: the initializer of W.
        recurrent_init: the initializer of U.
        activation: an element-wise function.

    Example:
        >>> layer = SimpleRNN(64)
        >>> inputs = jnp.zeros((2, 100, 128))
        >>> outputs, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), inputs)
        >>> outputs.shape, variables["params"]["forward_0"]["recurrent_kernel"].shape
        ((2, 64), (64, 64))
    """

    activation: Activation = jnp.tanh

    @property
    def kind(self) -> _Kind:
        """`simple_rnn` with this activation."""
        return _Kind(partial(simple_rnn, activation=self.activation), gates=1)


class LSTM(_Recurrent):
    """Layers of `lstm`: long short-term memory with forget gates.

    Parameters as in `SimpleRNN`, with four gates side by side: `kernel` `(channels, 4 features)`,
    `recurrent_kernel` `(features, 4 features)`, `bias`. The state is an `LSTMState`.

    Args:
        features: as in `SimpleRNN`, and so are those that are not named here.
        forget_bias: what the forget gate's bias starts with: 1, so that at first more is kept than
            forgotten (Jozefowicz et al. 2015, section 4.3).

    Example:
        >>> layer = LSTM(32, num_layers=2, bidirectional=True, return_state=True)
        >>> inputs = jnp.zeros((8, 50, 16))
        >>> (outputs, state), _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), inputs)
        >>> outputs.shape, state.cell.shape
        ((8, 64), (4, 8, 32))
    """

    forget_bias: float = 1.0

    @property
    def kind(self) -> _Kind:
        """`lstm`, whose second gate is the forget gate."""

        def bias_init(key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
            gates = jnp.zeros((4, shape[0] // 4), dtype)
            return gates.at[1].set(self.forget_bias).ravel()

        return _Kind(lstm, gates=4, states=2, bias_init=bias_init)


class GRU(_Recurrent):
    """Layers of `gru`: gated recurrent units.

    Parameters as in `SimpleRNN`, with three gates side by side: `kernel` `(channels, 3 features)`,
    `recurrent_kernel` `(features, 3 features)`, `bias`, and with `reset_after` `recurrent_bias`
    `(features,)`.

    Args:
        features: as in `SimpleRNN`, and so are those that are not named here.
        reset_after: whether the reset gate acts after the product by the state, as in cuDNN,
            PyTorch and Keras, or before it, as in the paper and slower.

    Example:
        >>> from jaxnet.layers import sequence_mask
        >>> layer = GRU(32, return_sequences=True)
        >>> inputs, mask = jnp.ones((2, 4, 3)), sequence_mask(jnp.array([2, 4]), 4)
        >>> outputs, _ = jax.jit(layer.init_with_output)(jax.random.key(0), inputs, mask)
        >>> outputs.shape, bool((outputs[0, 1] == outputs[0, 3]).all())
        ((2, 4, 32), True)
    """

    reset_after: bool = True

    @property
    def kind(self) -> _Kind:
        """`gru` with this convention."""
        function = partial(gru, reset_after=self.reset_after)
        return _Kind(function, gates=3, recurrent_bias=self.reset_after)


RECURRENT: Mapping[str, type[SimpleRNN] | type[LSTM] | type[GRU]] = {
    "rnn": SimpleRNN,
    "lstm": LSTM,
    "gru": GRU,
}
"""The recurrent layers by their short names."""


class _Direction(nn.Module):
    """One layer in one direction: a pure function's parameters, and a call of it."""

    kind: _Kind
    features: int
    reverse: bool
    use_bias: bool
    dtype: Any
    param_dtype: Any
    kernel_init: _Initializer
    recurrent_init: _Initializer

    @nn.compact
    def __call__(
        self, inputs: jax.Array, initial: Any, mask: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        n, width = self.features, self.kind.gates * self.features
        kernel_init = partial(_per_gate, self.kernel_init, n)
        recurrent_init = partial(_per_gate, self.recurrent_init, n)
        kernel = self.param("kernel", kernel_init, (inputs.shape[-1], width), self.param_dtype)
        recurrent = self.param("recurrent_kernel", recurrent_init, (n, width), self.param_dtype)
        biases = {}
        if self.use_bias:
            biases["bias"] = self.param("bias", self.kind.bias_init, (width,), self.param_dtype)
        if self.use_bias and self.kind.recurrent_bias:
            zeros = nn.initializers.zeros_init()
            biases["recurrent_bias"] = self.param("recurrent_bias", zeros, (n,), self.param_dtype)
        x, kernel, recurrent, *values = promote_dtype(
            inputs, kernel, recurrent, *biases.values(), dtype=self.dtype
        )
        biases = dict(zip(biases, values, strict=True))
        run = partial(self.kind.function, initial=initial, mask=mask, reverse=self.reverse)
        return run(x, kernel, recurrent, **biases)


def _per_gate(
    init: _Initializer, features: int, key: jax.Array, shape: tuple[int, int], dtype: Any
) -> jax.Array:
    """Every gate's matrix is drawn for itself: its fan is its own."""
    keys = jax.random.split(key, shape[1] // features)
    return jnp.concatenate([init(key, (shape[0], features), dtype) for key in keys], axis=1)


def _entry(state: Any, index: int) -> Any:
    return None if state is None else jax.tree.map(lambda array: array[index], state)
