"""The trainer: it owns the side effects (time, devices, files, the screen)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from jaxnet import numerics, versions
from jaxnet.cluster import activity, processes
from jaxnet.data.arrays import Arrays
from jaxnet.data.columns import nested
from jaxnet.data.named_arrays import NamedArrays
from jaxnet.data.pipeline.device_batches import Chunk
from jaxnet.data.pipeline.epochs import ArrayPipeline, Placement, pipeline
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.errors import NonFiniteError, UsageError
from jaxnet.files import expanded, write_atomically
from jaxnet.inference import Predictor, one_example
from jaxnet.metrics.direction import declared
from jaxnet.parallel.layout import Layout
from jaxnet.training import fingerprints
from jaxnet.training.agreement import check_alike
from jaxnet.training.callbacks import Watchers, check_callbacks
from jaxnet.training.checkpoints import Checkpoints, CheckpointStore
from jaxnet.training.clock import Clock
from jaxnet.training.display import displays
from jaxnet.training.early_stopping import EarlyStopping
from jaxnet.training.evaluation import BatchSize, Data, Evaluator
from jaxnet.training.halting import Halt
from jaxnet.training.history import JudgedRow, computed, scalars
from jaxnet.training.loop import Loop
from jaxnet.training.programs import Programs, StepsPerDispatch, without_halts
from jaxnet.training.progress import Progress
from jaxnet.training.resume import Wanted, resumed, say_done
from jaxnet.training.saving import Saver
from jaxnet.training.task import Inference, Steps
from jaxnet.training.techniques.guard import NONFINITE
from jaxnet.training.techniques.transforms import chain
from jaxnet.training.trained import FitResult, Trained

PyTree = Any

log = logging.getLogger("jaxnet")
layout_log = logging.getLogger("jaxnet.layout")


@dataclass(frozen=True)
class Trainer:
    """Trains a task, with early stopping and checkpoints.

    Attributes:
        task: what to train; see `jaxnet.training.Supervised`.
        early_stopping: when to stop, and which metric decides which step is the best.
        checkpoints: where to save; None saves nothing.
        callbacks: objects with some of the methods of `jaxnet.training.Callback`, which observe
            the run and may end it.
        progress: whether to show progress: a bar in a terminal or a notebook, lines in a log. None
            shows the bar, and writes no lines.
        eval_batch_size: batch size of evaluation and prediction; it changes speed and memory, and
            the metrics only in their last bits. None takes 256, or fewer where these would need
            more memory than training does; see `BatchSize`.
        steps_per_dispatch: the maximum number of steps per call of the compiled program; the result
            is the same for all values.
        placement: whether arrays are kept on the device; see `jaxnet.data.pipeline.epochs`.
        layout: the devices to train on, and the sharding of batches and parameters:
            `Layout(data=-1)` shards each batch over all devices. The result doesn't depend on it.

    Example:
        >>> import flax.linen as nn, optax
        >>> from jaxnet import losses
        >>> from jaxnet.training import Supervised
        >>> inputs = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> task = Supervised(nn.Dense(1), losses.squared_error, optax.sgd(0.3))
        >>> result = Trainer(task).fit((inputs, 3 * inputs), epochs=20, batch_size=16)
        >>> round(float(result.state.params["kernel"][0, 0]), 2)
        3.0
    """

    task: Steps[Any]
    early_stopping: EarlyStopping = EarlyStopping()
    checkpoints: Checkpoints | None = None
    callbacks: Sequence[Any] = ()
    progress: bool | None = None
    eval_batch_size: int | None = None
    steps_per_dispatch: StepsPerDispatch = "auto"
    placement: Placement = "auto"
    layout: Layout = Layout()

    def __post_init__(self) -> None:
        _check_whole(1, eval_batch_size=self.eval_batch_size)
        check_callbacks(self.callbacks)

    @cached_property
    def programs(self) -> Programs:
        """The compiled programs, shared by all calls of this trainer."""
        return Programs(self.task, self.steps_per_dispatch, self.layout)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Evaluation and prediction with these programs."""
        return Evaluator(self.programs, BatchSize(self.eval_batch_size))

    def fit(
        self,
        train: Data,
        valid: Data | None = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        resume: bool = True,
        mappings: Mapping[str, Any] = MappingProxyType({}),
        name: str = "",
    ) -> FitResult:
        """Train for `epochs` or `steps`, or until there is another reason to stop.

        Args:
            train: the training data: `Arrays`, a pair `(inputs, labels)`, each of which may be a
                dict or a tuple of arrays, a `Source`, or a `Pipeline`.
            valid: the validation data, evaluated after each epoch.
            epochs: the number of passes over the data.
            steps: the number of training steps, instead of or besides `epochs`.
            batch_size: examples per batch.
            seed: the seed of the initial parameters, the order of the data and all other
                randomness.
            resume: resume from the newest checkpoint, if there is one; otherwise checkpoints are
                deleted. Data, mappings and task have to be those that the run began with. More
                epochs and another early stopping are fine.
            mappings: how raw data became numbers, by name: an encoder, or values that JSON can
                hold, such as a vocabulary.
            name: the name of the run beside its progress, such as "fold 3/10".

        Raises:
            InputError: the data doesn't fit the task, or a checkpoint can't be used.
            UsageError: an impossible number, a monitored metric that isn't measured, checkpoints of
                another run, or another process that trains in their folder.
            NonFiniteError: a step wasn't finite, under `guard_nonfinite(task, "raise")`.
        """
        clock, told = Clock(), set(self.programs.compiles.repeated())
        versions.warn(jax.default_backend())
        identity = partial(self._fingerprints, train, valid, mappings)
        _check_whole(1, epochs=epochs, steps=steps, batch_size=batch_size)
        _check_whole(0, seed=seed)
        seed, batch_size = int(seed), int(batch_size)  # NumPy's numbers are none that JSON holds
        _check_processes(self.layout)
        train = self._pipeline(train, batch_size, steps, epochs)
        most, end = _planned_steps(train, epochs, steps)
        key, batch = jax.random.key(seed), nested(_zeros(train.spec()))
        shapes = self.programs.state(key, batch)
        self.evaluator.check(train, shapes)
        self.evaluator.batch_size.training_bytes = partial(
            self.programs.working_bytes, "train", shapes, batch
        )
        held = [] if valid is None else self.evaluator.hold(valid, shapes, passes=epochs)
        metrics = self.programs.metrics(shapes, batch)
        row = self._row(shapes, batch, metrics, valid is not None)
        measured = [column for column in row if column not in ("epoch", "step")]
        early_stopping = self.early_stopping.resolved(measured, row.declared)
        self._tell(shapes)
        start, forms = Progress(seed, batch_size, train.examples, form="loop"), self.programs.forms
        prints = {}
        if self.checkpoints or processes.several():
            prints = identity(key, shapes, batch, row)
        if processes.several():
            asked = {"seed": seed, "epochs": epochs, "steps": most, "batch_size": batch_size}
            asked |= {"examples": train.examples, "resume": resume}
            check_alike({**asked, **self._settings(early_stopping)}, prints)
        activity.own.step = 0
        with activity.own.training(), self._store() as store:
            first = None
            if store is not None:
                start = replace(start, fingerprints=prints)
                wanted = Wanted(start, most, metrics, early_stopping)
                first = resumed(store, forms.plain_shapes(shapes), wanted, resume)
            if first is not None:
                first = forms.put(first[0]), first[1]
            else:
                form = self.programs.form(shapes, batch)
                first = self.programs.init(key, batch), replace(start, form=form)
            loop = Loop(
                programs=self.programs,
                train=train,
                evaluate=partial(self._validated, held),
                trained=self._lent(train),
                metrics=metrics,
                early_stopping=early_stopping,
                declared=row.declared,
                saver=self._saver(store),
                watchers=self._watchers(),
                steps=most,
                end=end,
                name=name,
                clock=clock,
            )
            if store and first[1].step and (over := loop.finished(first[1])):
                say_done(store, first[1], over)
            state, progress, reason = loop.run(*first)
            state = forms.to_plain(state)
            if loop.halt:
                self._explain(loop.halt, state)
            state = _best(loop, state, progress, store)
        if progress.history.rows and not loop.halt:
            warning = early_stopping.warning(progress.stopping, progress.history.rows[-1])
            if warning:
                log.warning("%s", warning)
        for line in dict.fromkeys(self.programs.compiles.repeated()):
            if line not in told:
                log.warning("%s. Each compile costs seconds: keep shapes and types the same.", line)
        return self._result(loop, state, progress, reason)

    def evaluate(self, state: PyTree, data: Data) -> dict[str, Any]:
        """Evaluate `data`: metrics computed from sums over all examples.

        Args:
            state: the task's state.
            data: labelled data.

        Returns:
            Floats, and arrays for metrics such as the confusion matrix.

        Raises:
            InputError: the data isn't like the training data.
        """
        state = self.programs.forms.put(state)
        return self.evaluator.evaluate(state, self.evaluator.hold(data, state))

    def predict(self, state: PyTree, inputs: Any) -> PyTree:
        """Predict: the outputs for `inputs`, as numpy arrays with n rows.

        Args:
            state: the task's state.
            inputs: (n, ...), like the training inputs, or a dataset of n examples, `Arrays` or a
                `Source`, whose labels are ignored.

        Raises:
            InputError: the inputs have another shape or type.
        """
        return self.predictor(state)(inputs)

    def predictor(self, state: PyTree) -> Predictor:
        """A predictor with this state, for many calls.

        Args:
            state: the task's state.
        """
        return self.evaluator.predictor(self.programs.forms.put(state))

    @property
    def inference_of(self) -> Callable[[PyTree], Inference] | None:
        """The task's `state -> Inference`; None where it has none."""
        return self.programs.declared.inference

    @cached_property
    def _pipelines(self) -> WeakKeyDictionary[Arrays | NamedArrays, Pipeline]:
        return WeakKeyDictionary()

    def _pipeline(
        self, data: Data, batch_size: int, steps: int | None, epochs: int | None
    ) -> Pipeline:
        """The pipeline over the training data, reused where an earlier `fit` had the same data.

        So arrays are transferred to the device once in the life of this trainer.
        """
        known = self._pipelines.get(data) if isinstance(data, Arrays | NamedArrays) else None
        if isinstance(known, ArrayPipeline) and known.batch_size == batch_size:
            return known
        capacity = self.programs.capacity
        made = pipeline(
            data,
            batch_size,
            shuffle=True,
            placement=self.placement,
            capacity=capacity,
            places=self.programs.places,
            steps=steps if epochs is None else None,
            passes=epochs,
        )
        if isinstance(data, Arrays | NamedArrays):
            self._pipelines[data] = made
        return made

    def _row(self, shapes: PyTree, batch: PyTree, metrics: PyTree, validates: bool) -> JudgedRow:
        """A row of the history; the task's `after_evaluation` is traced with it."""
        columns, better = _columns(metrics), declared(metrics)
        if validates:
            measured = self.programs.measured(shapes, batch)
            columns += _columns(measured, "val_")
            better |= declared(measured, "val_")
        row = JudgedRow(dict.fromkeys(["epoch", "step", *columns], np.float32(0)), better)
        if after := self.programs.declared.after_evaluation:
            self.programs.shapes(after, shapes, row)
        return row

    @contextmanager
    def _store(self) -> Iterator[CheckpointStore | None]:
        """Open the checkpoint folder, locked for this run."""
        if self.checkpoints is None:
            yield None
            return
        store = self.checkpoints.open()
        with store.alone():
            try:
                yield store
            except BaseException:
                # A save under way often fails for the same reason, and says less of it.
                with suppress(Exception):
                    store.close()
                raise
            store.close()

    def _validated(self, held: Iterable[Chunk], state: PyTree) -> dict[str, float]:
        """The scalar metrics of the validation data."""
        with activity.own.within("evaluating", activity.EVALUATING):
            return scalars(self.evaluator.evaluate(state, held, "val_"))

    def _saver(self, store: CheckpointStore | None) -> Saver:
        often = self.checkpoints
        return Saver(
            store,
            often.every_steps if often else None,
            often.min_seconds if often else 0.0,
            self.programs.copy,
            self.programs.forms.to_plain,
        )

    def _fingerprints(
        self,
        train: Data,
        valid: Data | None,
        mappings: Mapping[str, Any],
        key: jax.Array,
        shapes: PyTree,
        batch: PyTree,
        row: JudgedRow,
    ) -> dict[str, str]:
        """The digests that identify a run; see `jaxnet.training.fingerprints`."""
        functions = self.programs.traced(key, shapes, batch, row)
        return {
            **fingerprints.of_data(train, valid),
            **fingerprints.of_mappings(mappings),
            **fingerprints.of_task(functions),
        }

    def _settings(self, early_stopping: EarlyStopping) -> dict[str, Any]:
        """Further settings that must be equal in all processes of a run, as plain values."""
        kept = self.checkpoints
        *_, plain = chain(self.task)
        rate = getattr(getattr(plain, "optimizer", None), "learning_rate", None)
        return {
            "learning rate": rate if isinstance(rate, int | float) else None,
            "layout": self.layout.sizes,
            "early stopping": str(early_stopping),
            "eval_batch_size": self.eval_batch_size,
            "steps_per_dispatch": self.steps_per_dispatch,
            "placement": self.placement,
            "checkpoints": kept and {"every_steps": kept.every_steps, "keep": kept.keep},
            "callbacks that look at the state": self._watchers().look,
        }

    def _tell(self, state: PyTree) -> None:
        """Log the devices and the layout."""
        if self.programs.on_mesh:
            layout_log.info("layout: %s", self.programs.on_mesh.layout.summary(state))
        elif (there := jax.local_device_count()) > 1:
            layout_log.info(
                "layout: one of %d devices. layout=Layout(data=-1) (--layout.data -1) shards each "
                "batch over all.",
                there,
            )

    def _watchers(self) -> Watchers:
        return Watchers([*self.callbacks, *displays(self.progress)])

    def _explain(self, halt: Halt, state: PyTree) -> None:
        """Log what went wrong in the step that halted training, and save its batch."""
        diagnose = self.programs.declared.diagnose
        message = f"step {halt.step + 1} ended training: {halt.reason}"
        if diagnose and halt.reason in NONFINITE.values():
            message += f", {diagnose(state, halt.batch)}"
        if self.checkpoints:
            file = expanded(self.checkpoints.folder).parent / f"halted_step_{halt.step + 1}.npz"
            with write_atomically(file, "wb") as opened:
                np.savez(opened, **halt.batch)
            message += f". Its batch is kept in {file}, the state in the last checkpoint"
        if halt.reason == NONFINITE["raise"]:
            raise NonFiniteError(message)
        log.warning("%s.", message)

    def _lent(self, train: Pipeline) -> Callable[[PyTree], Trained]:
        """`state -> Trained` for callbacks; it predicts without the other processes."""
        alone = self
        if processes.several():
            alone = replace(self, layout=Layout(), checkpoints=None, callbacks=())
        inputs = self._inputs(train)
        return lambda state: Trained(alone, state, inputs, numerics.in_force())

    def _inputs(self, train: Pipeline) -> PyTree:
        """Shape and type of an example's inputs in prediction."""
        seen = nested(train.spec())["inputs"]
        return self.programs.declared.prediction_inputs or one_example(seen)

    def _result(self, loop: Loop, state: PyTree, progress: Progress, reason: str) -> FitResult:
        clock = loop.clock
        examples = clock.steps * loop.train.examples / loop.train.steps
        return FitResult(
            state=state,
            model=Trained(self, state, self._inputs(loop.train), numerics.in_force()),
            history=progress.history,
            stop_reason=reason,
            best_step=progress.stopping.best_step,
            best=progress.stopping.best,
            last_step=progress.step,
            halt=loop.halt,
            seconds=progress.seconds + clock.seconds(),
            samples_per_second=examples / clock.training if clock.training else 0.0,
            data_wait_share=clock.waiting / clock.training if clock.training else 0.0,
            seconds_to_first_step=clock.compiling or 0.0,
            fingerprints=progress.fingerprints,
        )


def _check_whole(least: int, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, int | np.integer) and value >= least):
            raise UsageError(
                f"expected {name} to be a whole number of at least {least}, got {value!r}"
            )


def _check_processes(layout: Layout) -> None:
    if processes.several() and layout.one_device:
        raise UsageError(
            f"there are {jax.process_count()} processes, and the layout is one device: each would "
            "train by itself. Take Trainer(..., layout=Layout(data=-1)) to shard each batch"
        )


def _planned_steps(train: Pipeline, epochs: int | None, steps: int | None) -> tuple[int, str]:
    """The total number of steps, and the stop reason after them."""
    if epochs is None and steps is None:
        raise UsageError("fit: say how long to train, with epochs=... or steps=...")
    by_epochs = None if epochs is None else epochs * train.steps
    if by_epochs is None or (steps is not None and steps < by_epochs):
        return steps or 0, "steps"
    return by_epochs, "epochs"


def _zeros(spec: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in spec.items()}


def _columns(metrics: PyTree, prefix: str = "") -> list[str]:
    """The names of the scalar metrics, from their shapes."""
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), without_halts(metrics))
    return list(scalars(computed(ones, prefix)))


def _best(loop: Loop, state: PyTree, progress: Progress, store: CheckpointStore | None) -> PyTree:
    """The state of the best step, whatever the stop reason."""
    best_step = progress.stopping.best_step
    if best_step in (-1, progress.step):
        return state
    if loop.saver.best is not None:
        return loop.programs.forms.to_plain(loop.saver.best.state())
    restored = store.restore(best_step, state) if store else None
    return state if restored is None else restored.state
