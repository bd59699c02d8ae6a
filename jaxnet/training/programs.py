"""The one place that jits: a task's four functions as compiled programs over many steps.

A dispatch costs the host about 0.1 ms, as much as a step of a small network, so a program takes
many steps: a device loop whose trip count is an argument. One compile serves chunks of any length,
and the loop body is always the same, so that the boundaries of chunks change no bit of the result.

Training with convolutions on a CPU is the exception: XLA uses its fast convolution library only
outside of loops (inside one, the gradient of a 3x3x64x64 kernel was measured 100 times slower).
Such a program runs one step per dispatch.

On many devices (`jaxnet.parallel.Layout`) these are SPMD programs: the state is sharded as the
layout says, from initialisation on, and keeps its sharding through every program; metrics and
outputs are replicated. The mesh is the ambient one wherever a task's functions run. Parallelism
that the partitioner can't derive transforms the task; see `jaxnet.training.parallelize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import trees
from jaxnet.cache import enable_compilation_cache
from jaxnet.compute import peak_bytes
from jaxnet.data.columns import nested
from jaxnet.data.pipeline.device_batches import ONE_DEVICE, BatchPlacement
from jaxnet.errors import UsageError
from jaxnet.parallel.layout import Layout
from jaxnet.parallel.mesh_layout import MeshLayout
from jaxnet.training.parallelize import check_plain, check_used, complete, on_layout
from jaxnet.training.recompilations import Compiles
from jaxnet.training.stacked_state import Forms
from jaxnet.training.task import HALT, Metrics, Steps, Task, as_task
from jaxnet.training.traces import Traced

PyTree = Any
StepsPerDispatch = int | Literal["auto"]
Form = Literal["loop", "step"]
Use = Literal["train", "evaluate", "predict"]

# From about 20 steps per dispatch on, the overhead was measured below 1 %. More costs nothing: the
# loop bounds the seconds of a dispatch too, so that a checkpoint is never far away.
AUTO_STEPS = 512
# Device memory for the metrics of a dispatch, which are kept for each step so that the host can sum
# them in float64: a confusion matrix of 1,000 classes has 4 MB.
LOG_BYTES = 2**26


@dataclass(frozen=True)
class Log:
    """Metrics of the steps in a chunk; `fetch` blocks and copies them to the host.

    Attributes:
        parts: metrics with the step as leading axis, to be concatenated.
        taken: the number of steps taken, including one that halted training.
    """

    parts: tuple[Metrics, ...]
    taken: int | jax.Array

    def fetch(self) -> Metrics:
        """The metrics on the host, with the step as leading axis."""
        parts, taken = jax.device_get((self.parts, self.taken))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:taken], *parts)


@dataclass(frozen=True)
class Programs:
    """The compiled programs of one task.

    Attributes:
        task: the task.
        steps_per_dispatch: the maximum number of steps per dispatch, or `"auto"`.
        layout: the devices, and the sharding of state and batches.

    Raises:
        UsageError: `steps_per_dispatch` is neither.
    """

    task: Steps[Any]
    steps_per_dispatch: StepsPerDispatch = "auto"
    layout: Layout = Layout()
    compiles: Compiles = field(default_factory=Compiles)
    _forms: dict[str, Form] = field(default_factory=dict, init=False, repr=False)
    _used: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        steps = self.steps_per_dispatch
        if steps != "auto" and not (type(steps) is int and steps >= 1):
            raise UsageError(
                f"expected steps_per_dispatch 'auto' or a whole number of at least 1, got {steps!r}"
            )
        enable_compilation_cache()

    @property
    def capacity(self) -> int:
        """The maximum number of steps per dispatch."""
        return AUTO_STEPS if self.steps_per_dispatch == "auto" else self.steps_per_dispatch

    def steps_with(self, metrics: Metrics) -> int:
        """The maximum number of steps per dispatch for metrics of this size.

        Args:
            metrics: the metrics of a step, or their shapes.
        """
        return max(1, min(self.capacity, LOG_BYTES // max(trees.size_bytes(metrics), 1)))

    @cached_property
    def on_mesh(self) -> MeshLayout | None:
        """The layout on a mesh; None on one device."""
        on_mesh = MeshLayout.of(self.layout)
        return on_mesh and replace(on_mesh, layout=complete(on_mesh.layout, self.task))

    @cached_property
    def forms(self) -> Forms:
        """Conversions of a state between the form of these programs and that of one device."""
        plain = None
        if self.on_mesh and self.on_mesh.mesh.shape["stage"] > 1:
            layout = replace(self.on_mesh.layout, rules=self.layout.rules)
            plain = replace(self.on_mesh, layout=complete(layout, self.task, plain=True))
        return Forms(
            self.on_mesh, plain, lambda convert, lies: jax.jit(convert, out_shardings=lies)
        )

    @property
    def places(self) -> BatchPlacement:
        """The placement of batches on the devices."""
        return self.on_mesh or ONE_DEVICE

    @property
    def shares(self) -> int:
        """The number of shards of a batch."""
        return self.on_mesh.shares if self.on_mesh else 1

    def init(self, key: jax.Array, batch: PyTree) -> PyTree:
        """Initialise a state, each shard on its own device; only the shapes of the batch matter."""
        return self._initialise(key, batch)

    @cached_property
    def _initialise(self) -> Callable[[jax.Array, PyTree], PyTree]:
        def init(key: jax.Array, batch: PyTree) -> PyTree:
            self.compiles.record("initialisation", batch)
            return self._init(key, batch)

        def options(key: jax.Array, batch: PyTree) -> dict[str, Any]:
            chosen: dict[str, Any] = {"compiler_options": _INIT_OPTIONS.get(jax.default_backend())}
            if self.on_mesh:
                chosen["out_shardings"] = self.on_mesh.state(self.state(key, batch))
            return chosen

        return self._jitted_later(init, options)

    def state(self, key: jax.Array, batch: PyTree) -> PyTree:
        """The shapes of the state that `init` returns, with shardings on many devices.

        Raises:
            UsageError: the layout doesn't fit the network, the state or the batch size.
        """
        if self.on_mesh is None:
            return self.shapes(self._init, key, batch)
        self.on_mesh.batch(batch)
        state = self.shapes(self._init, key, batch)
        if self.forms.plain:
            check_plain(state, self.shapes(self.task.init, key, batch))
        state = self.on_mesh.shapes(state)
        self.metrics(state, batch)  # tracing records in `_used` which mesh axes had an effect
        check_used(self.on_mesh.layout, self._used)
        return state

    def metrics(self, state: PyTree, batch: PyTree) -> Metrics:
        """The shapes of the metrics of a training step."""
        return self.shapes(self._step, state, batch)[1]

    def measured(self, state: PyTree, batch: PyTree) -> Metrics:
        """The shapes of the metrics of evaluation."""
        return self.shapes(self._eval_step, state, batch)

    def outputs(self, state: PyTree, batch: PyTree) -> PyTree:
        """The shapes of the outputs of prediction."""
        return self.shapes(self._predict_step, state, batch)

    def working_bytes(self, use: Use, state: PyTree, batch: PyTree) -> int:
        """An estimate of the memory for activations per device, without compiling.

        Parameters and the batch itself aren't counted.
        """
        steps = {"train": self._step, "evaluate": self._eval_step, "predict": self._predict_step}
        with self._ambient():
            traced = jax.make_jaxpr(steps[use])(state, batch)
        return peak_bytes(traced.jaxpr) // (self.on_mesh.shares if self.on_mesh else 1)

    def shapes(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """`jax.eval_shape` on the mesh."""
        with self._ambient():
            return jax.eval_shape(function, *arguments)

    def form(self, state: PyTree, batch: PyTree) -> Form:
        """Whether to train with such batches in a device loop or with one step per dispatch."""
        if jax.default_backend() != "cpu":
            return "loop"
        shapes = str(jax.tree.map(jnp.shape, batch))
        if shapes not in self._forms:
            with self._ambient():
                program = self._step.lower(state, batch).as_text()
            self._forms[shapes] = "step" if "stablehlo.convolution" in program else "loop"
        return self._forms[shapes]

    @cached_property
    def declared(self) -> Task[Any]:
        """The task with all members of `Task`, None for those that it lacks."""
        return as_task(self.task)

    @cached_property
    def _on_devices(self) -> Steps[Any]:
        """The task with the network transformed for the layout."""
        return on_layout(self.task, self.on_mesh, self._used) if self.on_mesh else self.task

    # The task's functions, traced once and inlined into all programs: tracing costs as much as
    # reading a compiled program from the cache.

    @cached_property
    def _init(self) -> Any:
        return jax.jit(self._on_devices.init, inline=True)

    @cached_property
    def _step(self) -> Any:
        return jax.jit(self._on_devices.train_step, inline=True)

    @cached_property
    def _eval_step(self) -> Any:
        return jax.jit(self._on_devices.eval_step, inline=True)

    @cached_property
    def _predict_step(self) -> Any:
        return jax.jit(self._on_devices.predict_step, inline=True)

    def traced(
        self, key: jax.Array, state: PyTree, batch: PyTree, row: Mapping[str, Any]
    ) -> dict[str, Traced]:
        """The traced functions of the task, without the transformations of a layout.

        On one device the existing traces are reused; on many devices only `init` and `train_step`
        are traced.

        Args:
            key: the key of the initialisation.
            state: shapes, in the form of these programs.
            batch: arrays or shapes.
            row: the argument of `after_evaluation`, where the task has it.
        """
        batch = _bare(batch)
        first = {"key": key, "batch": batch}
        if self.on_mesh:
            init, step = jax.jit(self.task.init), jax.jit(self.task.train_step)
            then = {"state": _bare(self.forms.plain_shapes(state)), "batch": batch}
            others = {}
        else:
            init, step, then = self._init, self._step, {"state": state, "batch": batch}
            others = {"predict_step": self._predict_step, "eval_step": self._eval_step}
        given = {**dict.fromkeys(others, then), **self._asked(then)}
        extra = {}
        if after := self.declared.after_evaluation:
            later = {"state": then["state"], "row": row}
            extra = {"after_evaluation": Traced(jax.jit(after).trace(*later.values()), later)}
        return {
            "init": Traced(init.trace(*first.values()), first),
            "train_step": Traced(step.trace(*then.values()), then),
            **{n: Traced(f.trace(*given[n].values()), given[n]) for n, f in others.items()},
            **extra,
        }

    def _asked(self, then: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The arguments of `predict_step` where prediction has other inputs, as in a GAN."""
        own = self.declared.prediction_inputs
        if own is None:
            return {}
        inputs = jax.ShapeDtypeStruct((len(then["batch"]["mask"]), *own.shape), own.dtype)
        batch = {"inputs": inputs, "mask": then["batch"]["mask"]}
        return {"predict_step": {**then, "batch": batch}}

    def train(self, form: Form, state: PyTree, feed: Any, count: int) -> tuple[PyTree, Log]:
        """Take `count` steps from `feed`. The state is donated: continue with the returned one.

        Stops after a step that halts training, and after `steps_with(metrics)` steps.
        """
        if self.on_mesh:
            feed = self.on_mesh.feed(feed)
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
            state, metrics = self._step(state, self._batch(feed, step))
            return state, jax.tree.map(lambda m: m[None], metrics)

        return self._program(train_step, lambda same, whole: (same, whole), donate_argnums=0)

    @cached_property
    def _train_loop(self) -> Callable[[PyTree, Any, int], tuple[PyTree, Metrics, jax.Array]]:
        def train_loop(
            state: PyTree, feed: Any, count: jax.Array
        ) -> tuple[PyTree, Metrics, jax.Array]:
            self.compiles.record("the training loop", feed)

            def step(carry):
                i, _, state, log = carry
                state, metrics = self._step(state, self._batch(feed, i))
                if self.on_mesh:
                    state = self.on_mesh.pinned(state)
                log = jax.tree.map(lambda steps, m: steps.at[i].set(m), log, metrics)
                return i + 1, jnp.asarray(_halted(metrics)), state, log

            shapes = jax.eval_shape(self._step, state, self._batch(feed, 0))[1]
            rows = min(feed.capacity, self.steps_with(shapes))

            def go_on(carry):
                i, halted, _, _ = carry
                return (i < jnp.minimum(count, rows)) & ~halted

            log = jax.tree.map(lambda m: jnp.zeros((rows, *m.shape), m.dtype), shapes)
            start = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), state, log)
            taken, _, state, log = jax.lax.while_loop(go_on, step, start)
            return state, log, taken

        return self._program(train_loop, lambda same, whole: (same, whole, whole), donate_argnums=0)

    @cached_property
    def copy(self) -> Callable[[PyTree], PyTree]:
        """Copy a state into new buffers, which survive the donation of the original."""
        if self.on_mesh is None:
            return _copy
        return self._program(_copied, lambda same, whole: same)

    @cached_property
    def sound(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """`(before, after) -> bool`: the task's own check of a state, if it has one."""
        sound = self.declared.sound
        return sound and self._program(sound, lambda same, whole: whole)

    @cached_property
    def after_evaluation(self) -> Callable[[PyTree, dict[str, np.float32]], PyTree] | None:
        """`(state, row) -> state`, which donates the state, if the task has such a function."""
        after = self.declared.after_evaluation
        if after is None:
            return None

        def after_evaluation(state: PyTree, row: dict[str, jax.Array]) -> PyTree:
            self.compiles.record("what follows an evaluation", row)
            return after(state, row)

        return self._program(after_evaluation, lambda same, whole: same, donate_argnums=0)

    @cached_property
    def _rate(self) -> Callable[[PyTree], jax.Array | None]:
        rate = self.declared.learning_rate
        return self._program(rate, lambda same, whole: whole) if rate else lambda _: None

    def learning_rate(self, state: PyTree) -> float | None:
        """The learning rate of the last step; None where the task doesn't know it."""
        rate = self._rate(state)
        # The shortest decimal that rounds to it in float32: 0.003, not 0.003000000026.
        return None if rate is None else float(str(np.float32(rate)))

    def evaluate(self, state: PyTree, feed: Any, count: int) -> Metrics:
        """Metrics summed over the first `count` batches of the feed."""
        return self._evaluate(state, self.on_mesh.feed(feed) if self.on_mesh else feed, count)

    @cached_property
    def _evaluate(self) -> Callable[[PyTree, Any, int], Metrics]:
        def evaluate(state: PyTree, feed: Any, count: jax.Array) -> Metrics:
            self.compiles.record("evaluation", feed)

            def step(i, total):
                return jax.tree.map(jnp.add, total, self._eval_step(state, self._batch(feed, i)))

            shapes = jax.eval_shape(self._eval_step, state, self._batch(feed, 0))
            zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)
            return jax.lax.fori_loop(0, count, step, zeros)

        return self._program(evaluate, lambda same, whole: whole)

    def predict(self, state: PyTree, inputs: PyTree, size: int, count: int) -> PyTree:
        """Outputs (size, ...) of one batch; see `jaxnet.inference.Program`."""
        stack = jax.tree.map(lambda part: part[None], inputs)
        return self._predict(
            state, self.on_mesh.shard_batch(stack, size) if self.on_mesh else stack, count
        )

    @cached_property
    def _predict(self) -> Callable[[PyTree, Any, int], PyTree]:
        def predict(state: PyTree, stack: PyTree, count: jax.Array) -> PyTree:
            size = jax.tree.leaves(stack)[0].shape[1]
            self.compiles.record(f"prediction of {size}", stack)
            inputs = jax.tree.map(lambda part: part[0], stack)
            batch = {"inputs": inputs, "mask": jnp.arange(size) < count}
            return self._predict_step(state, self.on_mesh.cut(batch) if self.on_mesh else batch)

        return self._program(predict, lambda same, whole: whole)

    def step(self, state: PyTree, batch: PyTree) -> jax.stages.Compiled:
        """One training step, compiled to be inspected: HLO text, memory and cost analysis.

        Args:
            state: shapes, see `state`.
            batch: shapes.
        """
        options: dict[str, Any] = {"donate_argnums": 0}
        if self.on_mesh:
            same = self.on_mesh.state(state)
            options["out_shardings"] = (same, self.on_mesh.everywhere)
            state, batch = self.on_mesh.shapes(state), self.on_mesh.batch(batch)
        with self._ambient():
            return jax.jit(self._on_devices.train_step, **options).lower(state, batch).compile()

    def _batch(self, feed: Any, step: Any) -> PyTree:
        """A batch of the feed, inside a program."""
        batch = nested(feed.batch(step))
        return self.on_mesh.cut(batch) if self.on_mesh else batch

    def _ambient(self) -> AbstractContextManager[Any]:
        return jax.set_mesh(self.on_mesh.mesh) if self.on_mesh else nullcontext()

    def _program(
        self, function: Callable[..., Any], gives: Callable[[Any, Any], Any], **options: Any
    ) -> Callable[..., Any]:
        """Compile a function of a state.

        Args:
            function: its first argument is a state.
            gives: `(same, whole) -> out_shardings`, of the shardings of the argument's state and
                the replicated sharding; unused on one device.
            options: further options of `jax.jit`.
        """
        on_mesh = self.on_mesh
        if on_mesh is None:
            return jax.jit(function, **options)

        def placed(state: PyTree, *_: PyTree) -> dict[str, Any]:
            same = jax.tree.map(lambda leaf: leaf.sharding, state)
            return {"out_shardings": gives(same, on_mesh.everywhere), **options}

        return self._jitted_later(function, placed)

    def _jitted_later(
        self, function: Callable[..., Any], options: Callable[..., dict[str, Any]]
    ) -> Callable[..., Any]:
        """A jitted function whose `jax.jit` options depend on the arguments of its first call."""
        program = None

        def run(*arguments: PyTree) -> Any:
            nonlocal program
            program = program or jax.jit(function, **options(*arguments))
            with self._ambient():
                return program(*arguments)

        return run


def compiled(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`jax.jit` of a pure function that belongs to no task."""
    return jax.jit(function)


def _bare(tree: PyTree) -> PyTree:
    """Shapes and types without shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _copied(state: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, state)


_copy = jax.jit(_copied)


# Initialisation runs once: at the default level LLVM compiles the random numbers of a ResNet-18 for
# 21 seconds, at this one for 4, and sampling is as fast.
_INIT_OPTIONS: Mapping[str, dict[str, str | bool]] = {
    "cpu": {"xla_backend_optimization_level": "1"}
}


def halt_names(metrics: Metrics) -> list[str]:
    """The reasons for which a task may end training."""
    return [name.removeprefix(HALT) for name in metrics if name.startswith(HALT)]


def without_halts(metrics: Metrics) -> Metrics:
    """The metrics without the flags that halt training."""
    return {name: value for name, value in metrics.items() if not name.startswith(HALT)}


def halt_reason(metrics: Metrics) -> str | None:
    """The reason why the last step of a fetched log halted training, or None."""
    return next((name for name in halt_names(metrics) if metrics[HALT + name][-1]), None)


def _halted(metrics: Metrics) -> jax.Array | bool:
    """Whether a step's metrics ask to end training; plain False where they never do."""
    halted: jax.Array | bool = False
    for name in halt_names(metrics):
        halted = halted | (metrics[HALT + name] != 0).any()
    return halted
