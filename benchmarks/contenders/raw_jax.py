"""The best loops that one can write by hand in JAX: plain dicts of parameters, no module system.

Options:
    loop: `step` one donated step a dispatch, batches gathered by NumPy; `scan` the whole epoch in
        one dispatch, each batch gathered from data on the device; `fori` likewise in a loop whose
        number of steps is an argument, with losses written to a buffer.
    data: `float32` or `uint8` (converted after the gather).
    form: for convolutions `plain` XLA's own operations, `slices` max-pooling by slices,
        `im2col` that and convolution as one matrix product over patches. For recurrent layers
        `scan` with the product of the inputs before the loop, `matmul` that and a backward pass
        by hand, which has the gradient of the recurrent kernel as one product after its loop.
        The language model has `scan` alone, and its loss picks the label's logit by a product with
        a one-hot vector, which saves the gradient a scatter into an array as large as the logits.

Measured and slower: a scan over the epoch's data gathered beforehand, 1.5 times; one dispatch a
step with the batch gathered on the device, 1.2 times. Dispatches of 32 steps equal the whole epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.workloads import CLASSES, Contestant, Data, Workload

Params = dict[str, dict[str, jax.Array]]
State = tuple[Params, optax.OptState]
Sums = tuple[jax.Array, jax.Array]


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    examples = data.shaped(workload, scale=options.get("data", "float32") == "float32")
    forward = _forward_words if workload.recurrent else _forward
    forward = _forward_language if workload.next_token else forward
    forward = partial(forward, form=options.get("form", "plain"))
    optimizer = {"adam": optax.adam, "rmsprop": optax.rmsprop}[workload.optimizer](
        workload.learning_rate
    )
    params = _init(workload, jax.random.key(0))
    state = (params, optimizer.init(params))
    run_epoch = LOOPS[options["loop"]](partial(_step, forward, optimizer), examples, workload)

    def train(round_index: int) -> float:
        nonlocal state
        order = np.random.default_rng(round_index).permutation(workload.examples)
        state, loss = run_epoch(state, order.astype(np.int32))
        return loss / workload.examples

    def evaluate() -> float:
        logits = jax.jit(forward)(state[0], jnp.asarray(examples.test_inputs))
        return float(np.mean(np.argmax(logits, -1) == examples.test_labels))

    return Contestant(train, evaluate)


# --- the network ---------------------------------------------------------------------------------


def _init(workload: Workload, key: jax.Array) -> Params:
    if workload.next_token:
        return _init_language(workload, key)
    if workload.recurrent:
        return _init_words(workload, key)
    shapes: list[tuple[int, ...]] = []
    features = 28 * 28
    if workload.convolutional:
        fan = 1
        for channels in workload.channels:
            shapes.append((3, 3, fan, channels))
            fan = channels
        features = 3 * 3 * fan
    for width in (*workload.hidden, CLASSES):
        shapes.append((features, width))
        features = width
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(shapes))
    return {
        f"layer{index}": {"kernel": glorot(keys[index], shape), "bias": jnp.zeros(shape[-1])}
        for index, shape in enumerate(shapes)
    }


def _forward(params: Params, inputs: jax.Array, form: str) -> jax.Array:
    hidden = inputs.astype(jnp.float32)
    if inputs.dtype == jnp.uint8:
        hidden = hidden / 255.0
    layers = [params[f"layer{index}"] for index in range(len(params))]
    kernels = [layer for layer in layers if layer["kernel"].ndim == 4]
    convolve = _im2col if form == "im2col" else _convolve
    pool = _pool_plain if form == "plain" else _pool_slices
    for index, layer in enumerate(kernels):
        hidden = jax.nn.relu(convolve(hidden, layer["kernel"]) + layer["bias"])
        if index < len(kernels) - 1:
            hidden = pool(hidden)
    hidden = hidden.reshape(hidden.shape[0], -1)
    *dense, head = layers[len(kernels) :]
    for layer in dense:
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    return hidden @ head["kernel"] + head["bias"]


def _convolve(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _im2col(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    rows, columns = inputs.shape[1] - 2, inputs.shape[2] - 2
    patches = jnp.concatenate(
        [inputs[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=-1
    )
    kernel = kernel.reshape(-1, kernel.shape[-1])
    outputs = patches.reshape(-1, len(kernel)) @ kernel
    return outputs.reshape(-1, rows, columns, kernel.shape[-1])


def _pool_plain(inputs: jax.Array) -> jax.Array:
    return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _pool_slices(inputs: jax.Array) -> jax.Array:
    rows, columns = inputs.shape[1] // 2 * 2, inputs.shape[2] // 2 * 2
    return _tiled_max(inputs[:, :rows, :columns])


@jax.custom_vjp
def _tiled_max(inputs: jax.Array) -> jax.Array:
    return _max_and_place(inputs)[0]


def _max_and_place(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of every 2x2 window, and its place there, which is all that the gradient needs.

    That keeps a byte for four floats, and the first of equals gets the gradient, as in `plain`.
    """
    corners = [inputs[:, i::2, j::2] for i in range(2) for j in range(2)]
    largest = reduce(jnp.maximum, corners)
    place = jnp.full(largest.shape, 3, jnp.uint8)
    for earlier in (2, 1, 0):
        place = jnp.where(corners[earlier] == largest, jnp.uint8(earlier), place)
    return largest, place


def _gradient_to_place(place: jax.Array, grads: jax.Array) -> tuple[jax.Array]:
    batch, rows, columns, channels = grads.shape
    corners = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    here = place[:, :, None, :, None] == corners
    spread = jnp.where(here, grads[:, :, None, :, None], 0)
    return (spread.reshape(batch, 2 * rows, 2 * columns, channels),)


_tiled_max.defvjp(_max_and_place, _gradient_to_place)


# --- the recurrent network -----------------------------------------------------------------------


def _init_words(workload: Workload, key: jax.Array) -> Params:
    table, kernel, recurrent, head = jax.random.split(key, 4)
    glorot = jax.nn.initializers.glorot_uniform()
    embedding, (width,) = workload.embedding, workload.hidden
    return {
        "embed": {"table": jax.random.normal(table, (workload.vocabulary, embedding)) * 0.05},
        "rnn": {
            "kernel": glorot(kernel, (embedding, width)),
            "recurrent": jax.nn.initializers.orthogonal()(recurrent, (width, width)),
            "bias": jnp.zeros(width),
        },
        "head": {"kernel": glorot(head, (width, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def _forward_words(params: Params, words: jax.Array, form: str) -> jax.Array:
    rnn, head = params["rnn"], params["head"]
    inputs = params["embed"]["table"].at[words.T].get(mode="promise_in_bounds")
    loop = _rnn_by_hand if form == "matmul" else _rnn
    hidden = loop(inputs @ rnn["kernel"] + rnn["bias"], rnn["recurrent"])[-1]
    return hidden @ head["kernel"] + head["bias"]


def _rnn(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """The states (time, batch, width) after each of the inputs (time, batch, width)."""

    def step(hidden: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = jnp.tanh(x + hidden @ kernel)
        return hidden, hidden

    return lax.scan(step, jnp.zeros_like(inputs[0]), inputs)[1]


_rnn_by_hand = jax.custom_vjp(_rnn)


def _rnn_forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    states = _rnn(inputs, kernel)
    return states, (states, kernel)


def _rnn_backward(saved: Any, grads: jax.Array) -> tuple[jax.Array, jax.Array]:
    states, kernel = saved

    def step(later: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
        grad, state = now
        before = (grad + later) * (1 - state * state)
        return before @ kernel.T, before

    _, inputs = lax.scan(step, jnp.zeros_like(grads[0]), (grads, states), reverse=True)
    return inputs, jnp.einsum("tbi,tbj->ij", states[:-1], inputs[1:])


_rnn_by_hand.defvjp(_rnn_forward, _rnn_backward)


# --- the language model --------------------------------------------------------------------------


def _init_language(workload: Workload, key: jax.Array) -> Params:
    table, kernel, recurrent, head = jax.random.split(key, 4)
    glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
    embedding, (width,), words = workload.embedding, workload.hidden, workload.vocabulary
    return {
        "embed": {"table": jax.random.normal(table, (words, embedding)) * 0.05},
        "lstm": {
            "kernel": glorot(kernel, (embedding, 4 * width)),
            "recurrent": orthogonal(recurrent, (width, 4 * width)),
            "bias": jnp.zeros(4 * width),
        },
        "head": {"kernel": glorot(head, (width, words)), "bias": jnp.zeros(words)},
    }


def _forward_language(params: Params, words: jax.Array, form: str) -> jax.Array:
    lstm, head = params["lstm"], params["head"]
    inputs = params["embed"]["table"].at[words.T].get(mode="promise_in_bounds")

    def step(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[Any, jax.Array]:
        hidden, cell = carry
        i, f, g, o = jnp.split(x + hidden @ lstm["recurrent"], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros((words.shape[0], lstm["recurrent"].shape[0]))
    _, states = lax.scan(step, (zeros, zeros), inputs @ lstm["kernel"] + lstm["bias"])
    return states.swapaxes(0, 1) @ head["kernel"] + head["bias"]


def _language_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    own = jnp.sum(jax.nn.one_hot(labels, logits.shape[-1]) * logits, axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own, axis=-1)


# --- one step ------------------------------------------------------------------------------------


def _step(
    forward: Callable[[Params, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    state: State,
    inputs: jax.Array,
    labels: jax.Array,
) -> tuple[State, Sums]:
    params, opt_state = state

    def objective(params: Params) -> tuple[jax.Array, Sums]:
        logits = forward(params, inputs)
        if logits.ndim == 3:
            losses, correct = _language_loss(logits, labels), jnp.zeros((), jnp.int32)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = jnp.sum(jnp.argmax(logits, -1) == labels)
        return jnp.mean(losses), (jnp.sum(losses), correct)

    grads, sums = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), sums  # pyright: ignore


# --- loops over an epoch; each returns run_epoch(state, order) -> (state, summed loss) -----------

Step = Callable[[State, jax.Array, jax.Array], tuple[State, Sums]]
RunEpoch = Callable[[State, np.ndarray], tuple[State, float]]


def _stepwise(step: Step, examples: Data, workload: Workload) -> RunEpoch:
    jitted = jax.jit(step, donate_argnums=0)

    def run_epoch(state: State, order: np.ndarray) -> tuple[State, float]:
        losses = []
        for start in range(0, len(order), workload.batch_size):
            index = order[start : start + workload.batch_size]
            state, (loss, _) = jitted(state, examples.inputs[index], examples.labels[index])
            losses.append(loss)
        return state, float(np.sum(jax.device_get(losses)))

    return run_epoch


def _on_device(loop: Callable, step: Step, examples: Data, workload: Workload) -> RunEpoch:
    """All whole batches in a device loop, then the last, smaller one in a loop of its own."""
    data = jnp.asarray(examples.inputs), jnp.asarray(examples.labels)

    # The data is an argument: what a compiled function captures becomes part of its program.
    @partial(jax.jit, donate_argnums=0)
    def run(
        state: State, data: tuple[jax.Array, jax.Array], order: jax.Array, count: int
    ) -> tuple[State, Sums]:
        def step_on(state: State, index: jax.Array) -> tuple[State, Sums]:
            inputs, labels = (each.at[index].get(mode="promise_in_bounds") for each in data)
            return step(state, inputs, labels)

        state, (losses, correct) = loop(step_on, state, order, count)
        return state, (jnp.sum(losses), jnp.sum(correct))

    def run_epoch(state: State, order: np.ndarray) -> tuple[State, float]:
        size = workload.batch_size
        whole = len(order) // size
        batches = [order[: whole * size].reshape(whole, size), order[None, whole * size :]]
        losses = []
        for stack in batches:
            if stack.size:
                state, (loss, _) = run(state, data, stack, len(stack))
                losses.append(loss)
        return state, float(np.sum(jax.device_get(losses)))

    return run_epoch


def _scan(step: Callable, state: State, order: jax.Array, count: jax.Array) -> tuple[State, Sums]:
    del count  # it is in the shape of `order`
    return lax.scan(step, state, order)


def _fori(step: Callable, state: State, order: jax.Array, count: jax.Array) -> tuple[State, Sums]:
    def body(index: jax.Array, carry: tuple[State, Sums]) -> tuple[State, Sums]:
        state, (losses, correct) = carry
        state, (loss, right) = step(state, order[index])
        return state, (losses.at[index].set(loss), correct.at[index].set(right))

    logs = jnp.zeros(len(order)), jnp.zeros(len(order), jnp.int32)
    return lax.fori_loop(0, count, body, (state, logs))


LOOPS = {
    "step": _stepwise,
    "scan": partial(_on_device, _scan),
    "fori": partial(_on_device, _fori),
}
