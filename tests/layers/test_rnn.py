"""Recurrent modules against PyTorch with the same weights, and their options."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import summary, trees
from jaxnet.errors import InputError, UsageError
from jaxnet.layers import GRU, LSTM, LSTMState, SimpleRNN, sequence_mask
from tests.networks import applied, drawn

BATCH, TIME, CHANNELS, FEATURES = 3, 6, 4, 5
CLASSES = {"rnn_tanh": SimpleRNN, "rnn_relu": SimpleRNN, "lstm": LSTM, "gru": GRU}
every_layer = pytest.mark.parametrize("cls", [SimpleRNN, LSTM, GRU])
each_state = pytest.mark.parametrize("cls", [LSTM, GRU])  # of two arrays and of one


def inputs(*shape, dtype="float32", seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, shape)
    return jnp.asarray(x.astype(jnp.dtype(dtype)))


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def torch_layer(torch, kind, **options):
    if kind.startswith("rnn"):
        made = torch.nn.RNN(CHANNELS, FEATURES, nonlinearity=kind[4:], **options)
    else:
        made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](CHANNELS, FEATURES, **options)
    return made.double()


def from_torch(kind, named):
    """Our parameters, or their gradients, from PyTorch's, which has two biases where one would do.

    The gradients of the two are equal, but for that of the candidate's in a GRU.
    """
    params = {}
    for name, value in named.items():
        what, side, place = name.split("_", 2)
        direction = "backward" if place.endswith("reverse") else "forward"
        scope = params.setdefault(f"{direction}_{place.split('_')[0][1:]}", {})
        key = {"weight": {"ih": "kernel", "hh": "recurrent_kernel"}, "bias": {"ih": "bias"}}
        if what == "weight" or side == "ih":
            scope[key[what][side]] = value.T
        elif kind == "gru":
            scope["recurrent_bias"] = value[2 * FEATURES :]
    return params


def weights_from_torch(kind, named):
    params = from_torch(kind, named)
    for name, value in named.items():
        if name.startswith("bias_hh"):
            place = name.removeprefix("bias_hh_l")
            direction = "backward" if place.endswith("reverse") else "forward"
            shared = value.copy()
            if kind == "gru":
                shared[2 * FEATURES :] = 0
            scope = params[f"{direction}_{place.split('_')[0]}"]
            scope["bias"] = scope["bias"] + shared
    return jax.tree.map(lambda a: jnp.asarray(a.astype(np.float32)), params)


def sines(array):
    return np.sin(np.arange(array.size)).reshape(array.shape)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("layers", "both", "padded"),
    [(1, False, False), (2, True, True)],
    ids=["one layer", "two, both ways, padded"],
)
def test_equals_torch(kind, layers, both, padded):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    torch.manual_seed(0)
    theirs = torch_layer(torch, kind, num_layers=layers, bidirectional=both, batch_first=True)
    named = {name: value.detach().numpy() for name, value in theirs.named_parameters()}
    options = {"activation": jax.nn.relu} if kind == "rnn_relu" else {}
    ours = CLASSES[kind](
        FEATURES,
        num_layers=layers,
        bidirectional=both,
        return_sequences=True,
        return_state=True,
        **options,
    )
    lengths = np.array([6, 2, 4]) if padded else np.full(BATCH, TIME)
    mask = sequence_mask(jnp.asarray(lengths), TIME) if padded else None
    real = np.arange(TIME)[None] < lengths[:, None]
    x = inputs(BATCH, TIME, CHANNELS)
    start = [inputs(layers * (1 + both), BATCH, FEATURES, seed=s) for s in (1, 2)]
    start = LSTMState(*start) if kind == "lstm" else start[0]

    @jax.jit
    def forward_and_gradient(params, x, start):
        def scalar(params, x, start):
            outputs, state = ours.apply({"params": params}, x, mask, start)
            outputs = jnp.where(real[..., None], outputs, 0)
            parts = [
                (leaf * sines(leaf).astype("float32")).sum()
                for leaf in jax.tree.leaves((outputs, state))
            ]
            return sum(parts), (outputs, state)

        return jax.grad(scalar, (0, 1, 2), has_aux=True)(params, x, start)

    grads, (outputs, state) = forward_and_gradient(weights_from_torch(kind, named), x, start)

    tx = torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True)
    leaves = [
        torch.tensor(np.asarray(leaf), dtype=torch.float64, requires_grad=True)
        for leaf in jax.tree.leaves(start)
    ]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tx, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    t_outputs, t_state = theirs(packed, tuple(leaves) if kind == "lstm" else leaves[0])
    t_outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(t_outputs, batch_first=True)
    t_states = list(t_state) if kind == "lstm" else [t_state]
    ends = [t_outputs, *t_states]
    sum((end * torch.tensor(sines(end.detach().numpy()))).sum() for end in ends).backward()

    close(outputs, t_outputs.detach().numpy())
    for a, b in zip(jax.tree.leaves(state), t_states, strict=True):
        close(a, b.detach().numpy())
    d_params, d_x, d_start = grads
    t_grads = {name: value.grad.numpy() for name, value in theirs.named_parameters()}
    jax.tree.map(close, d_params, from_torch(kind, t_grads))
    close(d_x, tx.grad.numpy())
    for a, b in zip(jax.tree.leaves(d_start), leaves, strict=True):
        close(a, b.grad.numpy())


@pytest.mark.slow
@each_state
def test_the_last_outputs_are_the_ends_of_the_sequence(cls):
    x, mask = inputs(BATCH, TIME, CHANNELS), np.arange(TIME) < np.array([[6], [2], [4]])
    options = {"bidirectional": True, "num_layers": 2}
    layer = cls(FEATURES, **options, return_sequences=True, return_state=True)

    @jax.jit
    def both(variables):
        last = cls(FEATURES, **options).apply(variables, x, mask)
        return *layer.apply(variables, x, mask), last

    outputs, state, last = both(drawn(layer, x))
    outputs, last, hidden = map(np.asarray, (outputs, last, state[0] if cls is LSTM else state))
    np.testing.assert_array_equal(last, np.concatenate([hidden[2], hidden[3]], axis=-1))
    forward = np.stack([outputs[0, 5], outputs[1, 1], outputs[2, 3]])[:, :FEATURES]
    np.testing.assert_array_equal(last[:, :FEATURES], forward)
    np.testing.assert_array_equal(last[:, FEATURES:], outputs[:, 0, FEATURES:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "merge", "return_sequences"),
    [
        ("sum", np.add, True),
        ("sum", np.add, False),
        ("mul", np.multiply, True),
        ("ave", lambda a, b: (a + b) / 2, True),
        ("concat", lambda a, b: np.concatenate([a, b], -1), True),
    ],
)
def test_merge_modes(mode, merge, return_sequences):
    x = np.asarray(inputs(BATCH, TIME, CHANNELS))
    options = {"return_sequences": return_sequences}
    layer = GRU(FEATURES, bidirectional=True, merge_mode=mode, **options)
    variables = drawn(layer, x)
    one = GRU(FEATURES, **options)

    def alone(name, x):
        params = {"params": {"forward_0": variables["params"][name]}}
        return np.asarray(applied(one, params, x))

    backward = alone("backward_0", x[:, ::-1])
    backward = backward[:, ::-1] if return_sequences else backward
    close(applied(layer, variables, x), merge(alone("forward_0", x), backward), 1e-6)


@pytest.mark.slow
@every_layer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_types(cls, dtype):
    with jax.enable_x64(True):
        x, mask = inputs(BATCH, TIME, CHANNELS, dtype=dtype), jnp.ones((BATCH, TIME), bool)
        options = {"bidirectional": True, "return_state": True}

        @jax.jit
        def run(x):
            layer = cls(FEATURES, param_dtype=dtype, **options)
            variables = drawn(layer, x)
            in_float32 = cls(FEATURES, dtype="float32", **options).apply(variables, x)
            outputs = layer.apply(variables, x, mask)
            grads = jax.grad(lambda v: layer.apply(v, x, mask)[0].sum())(variables)
            return outputs, grads, in_float32

        outputs, grads, in_float32 = run(x)
        assert {leaf.dtype for leaf in jax.tree.leaves((outputs, grads))} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(in_float32)} == {jnp.dtype("float32")}
        jax.tree.map(lambda a, b: close(a, b, 0.05), outputs, in_float32)


@pytest.mark.slow
def test_parameters_start_gate_by_gate():
    x, key = np.zeros((1, 2, CHANNELS), np.float32), jax.random.key(0)
    params = jax.device_get(jax.jit(LSTM(FEATURES, num_layers=2).init)(key, x))["params"]
    assert trees.count(params) == 4 * FEATURES * (CHANNELS + 3 * FEATURES + 2)
    for layer in ("forward_0", "forward_1"):
        gates = np.split(np.asarray(params[layer]["recurrent_kernel"]), 4, axis=1)
        for gate in gates:
            np.testing.assert_allclose(gate @ gate.T, np.eye(FEATURES), atol=1e-5)
        assert not np.allclose(gates[0], gates[1])
        limit = np.sqrt(6 / (params[layer]["kernel"].shape[0] + FEATURES))
        assert 0.5 * limit < np.abs(params[layer]["kernel"]).max() <= limit
        assert params[layer]["bias"].tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10

    def shapes(layer):
        return jax.eval_shape(layer.init, key, x)["params"]["forward_0"]

    assert set(shapes(LSTM(FEATURES, use_bias=False))) == {"kernel", "recurrent_kernel"}
    gru = shapes(GRU(FEATURES))
    assert gru["bias"].shape == (15,) and gru["recurrent_bias"].shape == (5,)
    assert "recurrent_bias" not in shapes(GRU(FEATURES, reset_after=False))


@pytest.mark.slow
def test_dropout_acts_between_layers_and_in_training_only():
    x = inputs(BATCH, TIME, CHANNELS)
    layer, plain = (SimpleRNN(64, num_layers=2, dropout=rate) for rate in (0.5, 0.0))
    variables = drawn(layer, x)
    one = SimpleRNN(64, dropout=0.5)

    @jax.jit
    def outputs(variables, key):
        first = {"params": {"forward_0": variables["params"]["forward_0"]}}
        options = {"train": True, "rngs": {"dropout": key}}
        return (
            (layer.apply(variables, x, **options), layer.apply(variables, x)),
            plain.apply(variables, x),
            (one.apply(first, x, **options), one.apply(first, x)),
        )

    (trained, tested), without, (alone, alone_tested) = outputs(variables, jax.random.key(1))
    np.testing.assert_array_equal(tested, without)
    assert not np.allclose(trained, without)
    np.testing.assert_array_equal(alone, alone_tested)


@pytest.mark.slow
@each_state
def test_a_state_goes_from_call_to_call(cls):
    x = inputs(BATCH, TIME, CHANNELS)
    layer = cls(FEATURES, num_layers=2, return_sequences=True, return_state=True)

    @jax.jit
    def in_parts(variables):
        whole, last = layer.apply(variables, x)
        first, state = layer.apply(variables, x[:, :1])
        rest, end = layer.apply(variables, x[:, 1:], None, state)
        return (whole, last), (jnp.concatenate([first, rest], axis=1), end)

    want, got = in_parts(drawn(layer, x))
    jax.tree.map(lambda a, b: close(a, b, 1e-6), got, want)


@pytest.mark.parametrize(
    ("layer", "call", "words"),
    [
        (LSTM(5), {"inputs": np.zeros((2, 3), np.float32)}, r"^LSTM: .*\(batch, time, channels\)"),
        (LSTM(5), {"inputs": np.zeros((2, 3), np.int32)}, "embed tokens first"),
        (LSTM(5), {"mask": np.ones((2, 4), bool)}, r"LSTM: .*\(2, 3\).*\(2, 4\)"),
        (LSTM(5), {"initial_state": np.zeros((1, 2, 5))}, r"2 array\(s\).*\(1, 2, 5\), got"),
        (GRU(5, 2), {"initial_state": np.zeros((1, 2, 5))}, r"\(2, 2, 5\), got \[\(1, 2, 5\)\]"),
    ],
)
def test_wrong_shapes_are_refused_by_name(layer, call, words):
    with pytest.raises(InputError, match=words):
        layer.init(jax.random.key(0), **{"inputs": np.zeros((2, 3, 4), np.float32), **call})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": 0}, "features"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"bidirectional": True, "merge_mode": "concatenate"}, "did you mean 'concat'"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        GRU(**{"features": 5, **options}).init(jax.random.key(0), np.zeros((2, 3, 4), np.float32))


def test_the_summary_counts_every_step():
    got = summary.summary(LSTM(FEATURES, bidirectional=True), (1, TIME, CHANNELS))
    assert [row.path for row in got.rows] == ["forward_0", "backward_0"]
    each = TIME * 2 * (CHANNELS + FEATURES) * 4 * FEATURES
    assert [row.flops for row in got.rows] == [each, each]
    assert got.parameters == 2 * 4 * FEATURES * (CHANNELS + FEATURES + 1)
