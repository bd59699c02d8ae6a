"""The one place that jits: a task's four functions as compiled programs over many steps.

A dispatch costs the host some 0.1 ms, as much as a step of a small network, so a program takes many
steps: a device loop whose trip count is an argument. One compile then serves a stretch of any
length, and the same body runs whatever the length, so that where stretches end changes no bit of
the result.

Training with convolutions on a CPU is the exception: XLA calls its fast library for them only
outside a loop (in one, the gradient by a 3x3x64x64 kernel was measured 100 times slower). Such a
program runs one step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.cache import enable_compilation_cache
from jaxnet.errors import UsageError
from jaxnet.training.task import HALT, Metrics, Task

PyTree = Any
StepsPerDispatch = int | Literal["auto"]
Form = Literal["loop", "step"]

# From some 20 steps a dispatch on, the overhead was measured below 1 %. More costs nothing: the
# loop bounds a dispatch in seconds too, so that a checkpoint is never far away.
AUTO_STEPS = 512


@dataclass(frozen=True)
class Compiles:
    """What was compiled, by program, and for which shapes.

    A program's Python body runs once for each compile, which is when it reports here.
    """

    traces: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def record(self, program: str, arguments: PyTree) -> None:
        """Note that `program` is being compiled for `arguments`."""
        shapes = {
            jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(arguments)
        }
        self.traces.setdefault(program, []).append(shapes)

    @property
    def total(self) -> int:
        """The number of compiles so far."""
        return sum(len(traces) for traces in self.traces.values())

    def repeated(self) -> list[str]:
        """A line for each compile after a program's first: which argument changed, and how."""
        return [
            f"{program} was compiled again: {_difference(first, other)}"
            for program, (first, *others) in self.traces.items()
            for other in others
        ]


def _difference(first: dict[str, str], other: dict[str, str]) -> str:
    changed = [
        f"{name} was {first.get(name, 'absent')}, is {other.get(name, 'absent')}"
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ]
    return "; ".join(changed) or "for the same shapes"


@dataclass(frozen=True)
class Log:
    """What some steps measured. It is on the device until `fetch` waits for it.

    Attributes:
        parts: metrics with the step as leading axis, one part after the other.
        taken: the number of steps that were taken, the halting one included.
    """

    parts: tuple[Metrics, ...]
    taken: int | jax.Array

    def fetch(self) -> Metrics:
        """The metrics of all steps taken, on the host, with the step as leading axis."""
        parts, taken = jax.device_get((self.parts, self.taken))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:taken], *parts)


@dataclass(frozen=True)
class Programs:
    """The compiled programs of one task.

    Attributes:
        task: the task.
        steps_per_dispatch: the largest number of steps that one dispatch takes, or `"auto"`.

    Raises:
        UsageError: `steps_per_dispatch` is neither.
    """

    task: Task[Any]
    steps_per_dispatch: StepsPerDispatch = "auto"
    compiles: Compiles = field(default_factory=Compiles)
    _forms: dict[str, Form] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        steps = self.steps_per_dispatch
        if steps != "auto" and not (type(steps) is int and steps >= 1):
            raise UsageError(
                f"expected steps_per_dispatch 'auto' or a whole number of at least 1, got {steps!r}"
            )
        enable_compilation_cache()

    @property
    def capacity(self) -> int:
        """The largest number of steps in a dispatch."""
        return AUTO_STEPS if self.steps_per_dispatch == "auto" else self.steps_per_dispatch

    @cached_property
    def init(self) -> Callable[[jax.Array, PyTree], PyTree]:
        """`(key, batch) -> state`; of the batch only shapes and types matter."""

        def init(key: jax.Array, batch: PyTree) -> PyTree:
            self.compiles.record("initialisation", batch)
            return self._init(key, batch)

        return jax.jit(init, compiler_options=_INIT_OPTIONS.get(jax.default_backend()))

    def state(self, key: jax.Array, batch: PyTree) -> PyTree:
        """The state that `init` gives, as shapes."""
        return jax.eval_shape(self._init, key, batch)

    def metrics(self, state: PyTree, batch: PyTree) -> Metrics:
        """What a training step measures, as shapes."""
        return jax.eval_shape(self._step, state, batch)[1]

    def outputs(self, state: PyTree, batch: PyTree) -> PyTree:
        """What prediction gives, as shapes."""
        return jax.eval_shape(self._predict_step, state, batch)

    def form(self, state: PyTree, batch: PyTree) -> Form:
        """How to train with batches like this one: in a device loop, or step by step."""
        if jax.default_backend() != "cpu":
            return "loop"
        shapes = str(jax.tree.map(jnp.shape, batch))
        if shapes not in self._forms:
            program = self._step.lower(state, batch).as_text()
            self._forms[shapes] = "step" if "stablehlo.convolution" in program else "loop"
        return self._forms[shapes]

    # The task's functions, traced once for all their uses and inlined into the programs: tracing
    # costs as much as reading a compiled program from the cache.

    @cached_property
    def _init(self) -> Any:
        return jax.jit(self.task.init, inline=True)

    @cached_property
    def _step(self) -> Any:
        return jax.jit(self.task.train_step, inline=True)

    @cached_property
    def _predict_step(self) -> Any:
        return jax.jit(self.task.predict_step, inline=True)

    def train(self, form: Form, state: PyTree, feed: Any, count: int) -> tuple[PyTree, Log]:
        """Take `count` steps from `feed`. The state is donated: go on with the returned one.

        A step that halts training is the last one taken, and doesn't change the state.
        """
        if form == "loop":
            state, stacked, taken = self._train_loop(state, feed, count)
            return state, Log((stacked,), taken)
        collected: list[Metrics] = []
        for step in range(count):
            state, metrics = self._train_step(state, feed, step)
            collected.append(metrics)
            if bool(_halted(metrics)):
                break
        return state, Log(tuple(collected), len(collected))

    @cached_property
    def _train_step(self) -> Callable[[PyTree, Any, int], tuple[PyTree, Metrics]]:
        def train_step(state: PyTree, feed: Any, step: jax.Array) -> tuple[PyTree, Metrics]:
            self.compiles.record("the training step", feed)
            state, metrics = self._step(state, feed.batch(step))
            return state, jax.tree.map(lambda m: m[None], metrics)

        return jax.jit(train_step, donate_argnums=0)

    @cached_property
    def _train_loop(self) -> Callable[[PyTree, Any, int], tuple[PyTree, Metrics, jax.Array]]:
        def train_loop(
            state: PyTree, feed: Any, count: jax.Array
        ) -> tuple[PyTree, Metrics, jax.Array]:
            self.compiles.record("the training loop", feed)

            def step(carry):
                i, _, state, log = carry
                state, metrics = self._step(state, feed.batch(i))
                log = jax.tree.map(lambda steps, m: steps.at[i].set(m), log, metrics)
                return i + 1, jnp.asarray(_halted(metrics)), state, log

            def go_on(carry):
                i, halted, _, _ = carry
                return (i < count) & ~halted

            shapes = self.metrics(state, feed.batch(0))
            log = jax.tree.map(lambda m: jnp.zeros((feed.capacity, *m.shape), m.dtype), shapes)
            start = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), state, log)
            taken, _, state, log = jax.lax.while_loop(go_on, step, start)
            return state, log, taken

        return jax.jit(train_loop, donate_argnums=0)

    @cached_property
    def sound(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """`(before, after) -> bool`: the task's own check of a state, if it has one."""
        sound = getattr(self.task, "sound", None)
        return sound and jax.jit(sound)

    @cached_property
    def after_evaluation(self) -> Callable[[PyTree, dict[str, np.float32]], PyTree] | None:
        """`(state, row) -> state`, which donates the state, if the task has such a function."""
        after = getattr(self.task, "after_evaluation", None)
        if after is None:
            return None

        def after_evaluation(state: PyTree, row: dict[str, jax.Array]) -> PyTree:
            self.compiles.record("what follows an evaluation", row)
            return after(state, row)

        return jax.jit(after_evaluation, donate_argnums=0)

    @cached_property
    def evaluate(self) -> Callable[[PyTree, Any, int], Metrics]:
        """`(state, feed, count) -> metrics`, summed over the first `count` batches of the feed."""

        def evaluate(state: PyTree, feed: Any, count: jax.Array) -> Metrics:
            self.compiles.record("evaluation", feed)

            def step(i, total):
                return jax.tree.map(jnp.add, total, self.task.eval_step(state, feed.batch(i)))

            shapes = jax.eval_shape(self.task.eval_step, state, feed.batch(0))
            zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)
            return jax.lax.fori_loop(0, count, step, zeros)

        return jax.jit(evaluate)

    @cached_property
    def predict(self) -> Callable[[PyTree, Any, int], PyTree]:
        """`(state, feed, count) -> outputs`, (capacity, batch, ...); those after `count` are 0."""

        def predict(state: PyTree, feed: Any, count: jax.Array) -> PyTree:
            self.compiles.record("prediction", feed)

            def step(i, outputs):
                batch_outputs = self._predict_step(state, feed.batch(i))
                return jax.tree.map(lambda all_, one: all_.at[i].set(one), outputs, batch_outputs)

            shapes = self.outputs(state, feed.batch(0))
            zeros = jax.tree.map(lambda o: jnp.zeros((feed.capacity, *o.shape), o.dtype), shapes)
            return jax.lax.fori_loop(0, count, step, zeros)

        return jax.jit(predict)


def compiled(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A pure function as a program of its own, for what isn't a task's."""
    return jax.jit(function)


@jax.jit
def copy(state: PyTree) -> PyTree:
    """The state in buffers of its own, which no donation takes away."""
    return jax.tree.map(jnp.copy, state)


# Initialisation runs once: at the usual level LLVM takes 21 seconds for the random numbers of a
# ResNet-18 and at this one 4, and they are drawn as fast.
_INIT_OPTIONS: Mapping[str, dict[str, str | bool]] = {
    "cpu": {"xla_backend_optimization_level": "1"}
}


def halt_names(metrics: Metrics) -> list[str]:
    """The reasons for which a task may end training."""
    return [name.removeprefix(HALT) for name in metrics if name.startswith(HALT)]


def without_halts(metrics: Metrics) -> Metrics:
    """The metrics that measure something."""
    return {name: value for name, value in metrics.items() if not name.startswith(HALT)}


def halt_reason(metrics: Metrics) -> str | None:
    """The reason for which the last step of a fetched log ended training, if it did."""
    return next((name for name in halt_names(metrics) if metrics[HALT + name][-1]), None)


def _halted(metrics: Metrics) -> jax.Array | bool:
    """Whether a step's metrics ask to end training; plain False where they never do."""
    halted: jax.Array | bool = False
    for name in halt_names(metrics):
        halted = halted | (metrics[HALT + name] != 0).any()
    return halted
