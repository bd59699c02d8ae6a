"""A trained network as a folder: saved, loaded and used.

bundle.json          what the network is: its class and fields, preprocessing (of a raw table too),
                     class names, inputs
model.safetensors    its weights, by path: `params/Dense_0/kernel`

Neither file can hold code. Loading imports the module that bundle.json names, which has to be
installed already, and takes nothing from it but a Linen module's class.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import jaxnet
from jaxnet import bundle_files, ending, numerics, trees
from jaxnet.data.columns import flat
from jaxnet.data.encoders import Encoder, encoder_to_json
from jaxnet.data.tables.columns import needs_pandas
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded, write_atomically, write_json
from jaxnet.inference import Predictor
from jaxnet.losses.labels import learnt_by
from jaxnet.predictions import (
    Predicts,
    frame_of,
    index_of,
    is_single,
    most_probable,
    probabilities,
)
from jaxnet.training.adapters import as_network
from jaxnet.training.evaluation import BatchSize, Evaluator
from jaxnet.training.network import Network, Precision, compute_in
from jaxnet.training.programs import Programs
from jaxnet.training.task import Batch, GradientTask, identity
from jaxnet.training.tasks.named_outputs import NamedLosses
from jaxnet.training.techniques.scaled_target import Unscaled
from jaxnet.training.trained import Trained

if TYPE_CHECKING:
    import pandas as pd

PyTree = Any
JSON = Any


@dataclass(frozen=True)
class _Prediction(GradientTask):
    """As much of a task as prediction takes; its state is the network's variables."""

    network: Network
    preprocess: Callable[[Any], Any]

    def predict_step(self, state: Any, batch: Batch) -> PyTree:
        return self.network.apply(state, self.preprocess(batch["inputs"]), False, None)[0]

    def check_inputs(self, inputs: np.ndarray) -> None:
        self.network.check_inputs(inputs)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained network, ready for use.

    Attributes:
        model: a Linen module, or the `Nnx` of an NNX module.
        variables: its weights, a pytree of numpy arrays: `params` and the other collections.
        inputs: shape and type of the inputs of one example; a dict or tuple of them where the model
            takes several.
        preprocess: what is done to the inputs first: a `Scale`, one for some of several inputs
            (`PerInput`), or `identity`.
        class_names: the names of class 0, 1, ...; by output where the model gives several.
        info: figures about it (metrics, versions), as JSON values.
        precision: the type in which it computes, as in training (`mixed_precision`).
        matmul_precision: the precision of float32 matrix products in training (`jaxnet.numerics`).
            Predictions take the same on every device that can, so that a network trained in float32
            on a processor isn't served in TF32 on a GPU; `dataclasses.replace(bundle,
            matmul_precision=None)` leaves it to the device. None where it isn't known.
        encoder: what makes inputs of raw data: a `TableEncoder`, where it was trained on a table,
            or a `TextEncoder`.
        predicts: `"classes"` or `"numbers"`, which have no class; None where it isn't known. By
            output where the model gives several.

    Example:
        >>> import tempfile
        >>> import flax.linen as nn
        >>> weights = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
        >>> like = jax.ShapeDtypeStruct((2,), np.float32)
        >>> names = ("cat", "dog")
        >>> bundle = Bundle(nn.Dense(2), {"params": weights}, like, class_names=names)
        >>> folder = tempfile.mkdtemp()
        >>> bundle.save(folder)
        >>> Bundle.load(folder).predict_class([[0.0, 1.0], [3.0, 2.0]])
        array(['dog', 'cat'], dtype='<U3')
    """

    model: Any
    variables: Mapping[str, PyTree]
    inputs: PyTree
    preprocess: Callable[[Any], Any] = identity
    class_names: tuple[str, ...] | Mapping[str, tuple[str, ...]] | None = None
    info: Mapping[str, JSON] = field(default_factory=dict)
    precision: Precision = "float32"
    encoder: Encoder | None = None
    matmul_precision: numerics.MatmulPrecision | None = None
    predicts: Predicts | Mapping[str, Predicts] = None

    @staticmethod
    def of(
        trained: Trained,
        class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        info: Mapping[str, JSON] | None = None,
        encoder: Encoder | None = None,
    ) -> Bundle:
        """The bundle of `FitResult.model`, with the weights that its evaluation used.

        Args:
            trained: the trained network.
            class_names: the names of class 0, 1, ...; a dict of them by output where the model
                gives several.
            info: what else to keep, as JSON values.
            encoder: what made the inputs of a table's rows, or of texts.

        Raises:
            InputError: the task has no one network that predicts, or that isn't a Linen module, or
                the class names don't fit its outputs.
        """
        network, preprocess, variables = trained.inference()
        model = network.described or network.module
        if model is None:
            raise InputError(
                "a Bundle keeps the class of a model and its arguments, and this task was given a "
                "Network of plain functions, or a ready NNX module. Write functions as a "
                "flax.linen.Module, and give of an NNX module class and arguments: "
                "jaxnet.training.Nnx(Class, arguments)."
            )
        bundle = Bundle(
            model,
            jax.device_get(variables),
            trained.inputs,
            preprocess,
            _tuples(class_names),
            info or {},
            network.precision,
            encoder,
            trained.matmul_precision,
            _predicts(trained.trainer.task, class_names),
        )
        bundle._check_class_names()
        bundle._check_encoder()
        return bundle

    def save(self, folder: Path | str, *, with_model: bool = True) -> None:
        """Write the bundle into `folder`, which is made if it isn't there.

        Args:
            folder: where to.
            with_model: whether to write the model's class and fields down. Without them, `load` has
                to be given the model.

        Raises:
            InputError: something has no form in these files (the message names it), or the folder
                can't be written.
        """
        folder = expanded(folder)
        weights = bundle_files.serialized(self.variables)
        values = {
            "format": bundle_files.FORMAT,
            "jaxnet_version": jaxnet.__version__,
            "model": bundle_files.described_model(self.model) if with_model else None,
            "precision": self.precision,
            "matmul_precision": self.matmul_precision,
            "preprocess": bundle_files.described_preprocess(self.preprocess),
            "encoder": encoder_to_json(self.encoder),
            "class_names": self.class_names,
            "predicts": self.predicts,
            "inputs": bundle_files.described_inputs(self.inputs),
            "weights_crc32": zlib.crc32(weights),
            "info": bundle_files.checked_info(self.info),
        }
        try:
            with ending.whole():
                with write_atomically(folder / "model.safetensors", "wb") as file:
                    file.write(weights)
                write_json(folder / "bundle.json", values)
        except OSError as error:
            raise InputError(
                f"{folder}: the bundle can't be written here: {error.strerror or error}. "
                "Choose a folder that you may write, on a disk with space."
            ) from error

    @staticmethod
    def load(folder: Path | str, model: Any = None) -> Bundle:
        """The bundle that `save` wrote into `folder`.

        Args:
            folder: where from.
            model: the model, instead of the one that bundle.json describes.

        Raises:
            InputError: a file is missing, damaged or of a newer version, the model can't be made
                again, or the weights don't fit it. The message names the file and the way out.
        """
        folder = expanded(folder)
        file, weights_file = folder / "bundle.json", folder / "model.safetensors"
        values = bundle_files.read_description(file)
        stored = bundle_files.read_weights(weights_file, values["weights_crc32"])
        model = bundle_files.rebuilt(values["model"], file) if model is None else model
        bundle = Bundle(
            model,
            {},
            bundle_files.read_inputs(values["inputs"]),
            bundle_files.read_preprocess(values["preprocess"]),
            _tuples(values["class_names"]),
            values["info"],
            values["precision"],
            bundle_files.read_encoder(values.get("encoder"), file),
            bundle_files.read_matmul_precision(values.get("matmul_precision"), file),
            # Bundles of before this was kept are known by the end of a network that scales back.
            values.get("predicts") or ("numbers" if isinstance(model, Unscaled) else None),
        )
        bundle._check_encoder()
        return dataclasses.replace(bundle, variables=bundle._fitted(stored, weights_file))

    def same_weights(self, other: Bundle) -> bool:
        """Whether another bundle has the same variables, bit for bit."""
        mine, others = (trees.named(bundle.variables) for bundle in (self, other))
        return mine.keys() == others.keys() and all(
            np.asarray(leaf).dtype == np.asarray(others[path]).dtype
            and np.array_equal(leaf, others[path])
            for path, leaf in mine.items()
        )

    def meaning(self) -> JSON:
        """What inputs and outputs stand for: preprocessing, encoder and class names."""
        preprocess = bundle_files.described_preprocess(self.preprocess)
        names = self.class_names
        if isinstance(names, tuple):
            names = list(names)
        return [preprocess, encoder_to_json(self.encoder), names]

    def predict(self, inputs: Any, batch_size: int | None = None) -> Any:
        """The network's outputs, float32 (n, ...): logits, where it is a classifier.

        A dict of them where the model gives several outputs.

        Args:
            inputs: (n, ...) of the type in `self.inputs`; 64-bit numbers become 32-bit ones. With
                an `encoder` also what that takes: a table (CSV, Parquet, data frame, dicts), or
                texts.
            batch_size: examples at a time; by default 256, or fewer where those would take much
                memory. Inputs are padded to it, so that one compiled program serves any number of
                them.

        Raises:
            InputError: the inputs have another shape or type, or the table isn't like the one it
                was trained on.
        """
        if self.encoder is not None and not _are_numbers(inputs):
            inputs = self.encoder(inputs)
        predictor = self._predictor if batch_size is None else self._predictor_of(batch_size)
        with numerics.matmul_precision(self.matmul_precision):
            return predictor(inputs)

    def predict_proba(self, inputs: Any, batch_size: int | None = None) -> Any:
        """The probabilities: softmax over the last axis, or the sigmoid of a single number.

        The shape is that of `predict`: of a single number it is (n, 1), the probability of class 1.
        Of several outputs a dict, of those that are classes.

        Raises:
            UsageError: the network predicts numbers.
            InputError: it gives NaN for an example; further as `predict`.
        """
        logits = self._logits(inputs, batch_size)
        if isinstance(logits, Mapping):
            return {output: probabilities(part) for output, part in logits.items()}
        return probabilities(logits)

    def predict_class(self, inputs: Any, batch_size: int | None = None) -> Any:
        """The most probable class of each example: its name if classes have names, or its index.

        Of several outputs a dict, of those that are classes. Errors are those of `predict_proba`.
        """
        logits, names = self._logits(inputs, batch_size), self.class_names
        if isinstance(logits, Mapping):
            named = names if isinstance(names, Mapping) else {}
            return {out: most_probable(part, named.get(out)) for out, part in logits.items()}
        return most_probable(logits, names)

    def predict_frame(self, inputs: Any, batch_size: int | None = None) -> pd.DataFrame:
        """The predictions as a pandas data frame, with the index of `inputs` where that has one.

        Classes are the columns `class` and `probability_NAME` for each, numbers are `prediction`;
        of several outputs each column begins with the output's name, such as `kind_class`.

        Args:
            inputs: see `predict`.
            batch_size: see `predict`.

        Raises:
            UsageError: pandas isn't installed, or it isn't known what the network predicts.
            InputError: it gives NaN for an example, or more than one prediction; further as
                `predict`.
        """
        outputs = self.predict(inputs, batch_size)
        parts = outputs if isinstance(outputs, Mapping) else {"": outputs}
        kinds = self.predicts if isinstance(self.predicts, Mapping) else {"": self.predicts}
        names = (
            self.class_names if isinstance(self.class_names, Mapping) else {"": self.class_names}
        )
        frames = []
        for output, part in parts.items():
            prefix = f"{output}_" if output else ""
            part, named = self._known(part), names.get(output)
            kind: Any = kinds.get(output) or (named and "classes")
            frames.append(frame_of(part, kind, named, index_of(inputs, len(part)), prefix))
        return needs_pandas().concat(frames, axis=1)

    def _logits(self, inputs: Any, batch_size: int | None) -> Any:
        """What `predict` gives, of outputs that are classes."""
        by_output = self.predicts if isinstance(self.predicts, Mapping) else {"": self.predicts}
        if all(kind == "numbers" for kind in by_output.values()):
            raise UsageError(
                "this network predicts numbers, not classes: it was trained with a loss of "
                "numbers. Take predict(inputs)"
            )
        outputs = self.predict(inputs, batch_size)
        if not isinstance(outputs, Mapping):
            return self._known(outputs)
        return {
            output: self._known(logits)
            for output, logits in outputs.items()
            if by_output.get(output) != "numbers"
        }

    def _known(self, logits: np.ndarray) -> np.ndarray:
        """The logits, if none of them is NaN."""
        unknown = np.isnan(logits).reshape(len(logits), -1).any(axis=1)
        if unknown.any():
            raise InputError(
                f"the network gives NaN for {int(unknown.sum())} of {len(logits)} examples, the "
                f"first in row {int(unknown.argmax())}: look at these inputs, and at the run that "
                "trained it"
            )
        return logits

    @cached_property
    def _task(self) -> _Prediction:
        return _Prediction(compute_in(as_network(self.model), self.precision), self.preprocess)

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self._task)

    @cached_property
    def _predictor(self) -> Predictor:
        return self._predictor_of(None)

    def _predictor_of(self, batch_size: int | None) -> Predictor:
        evaluator = Evaluator(self._programs, BatchSize(batch_size), flat({"inputs": self.inputs}))
        return evaluator.predictor(self._on_device)

    @cached_property
    def _on_device(self) -> PyTree:
        return jax.device_put(self.variables)

    @property
    def _example(self) -> dict[str, PyTree]:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), self.inputs)
        return {"inputs": one}

    def _fitted(self, stored: Mapping[str, np.ndarray], file: Path) -> dict[str, PyTree]:
        """The stored weights as the model's variables; InputError if they aren't its own."""

        def init(inputs: jax.Array) -> PyTree:
            return self._task.network.init(jax.random.key(0), self.preprocess(inputs))

        expected = jax.eval_shape(init, self._example["inputs"])
        paths = trees.paths(expected)
        wanted = dict(zip(jax.tree.leaves(paths), jax.tree.leaves(expected), strict=True))
        lines = trees.differences(wanted, stored)
        if lines:
            raise InputError(
                f"{file}: these aren't the weights of this {type(self.model).__name__}:\n  "
                + "\n  ".join(lines)
                + "\nLoad it with the model that was trained: load(folder, model=...)."
            )
        return jax.tree.map(lambda path: stored[path], paths)

    def _check_class_names(self) -> None:
        if self.class_names is None:
            return
        outputs = jax.eval_shape(self._task.predict_step, self.variables, self._example)
        outputs, names = flat({"outputs": outputs}), flat({"outputs": self.class_names})
        if isinstance(self.class_names, tuple):
            names = {"outputs": self.class_names}
        if unknown := names.keys() - outputs.keys():
            raise InputError(
                f"class names of {', '.join(sorted(unknown))}, and the model gives "
                f"{', '.join(sorted(outputs))}"
            )
        for output, given in names.items():
            shape = outputs[output].shape
            classes = 2 if is_single(shape) else shape[-1]
            if len(given) != classes:
                raise InputError(
                    f"expected {classes} class names, because the network tells {classes} classes "
                    f"apart, got {len(given)}: {', '.join(given[:10])}"
                )

    def _check_encoder(self) -> None:
        if self.encoder is None:
            return
        shape = getattr(self.inputs, "shape", None)
        if shape != self.encoder.shape:
            raise InputError(
                f"the encoder makes inputs of shape {self.encoder.shape}, the network was trained "
                f"on {'several inputs' if shape is None else f'inputs of shape {shape}'}: give it "
                "the encoder that made them"
            )


def _predicts(task: Any, class_names: Any) -> Predicts | dict[str, Predicts]:
    """What a task within its techniques predicts, as far as its loss, or class names, say so."""
    while not hasattr(task, "loss") and hasattr(task, "task"):
        task = task.task
    loss = task.loss if hasattr(task, "loss") else None
    if isinstance(loss, NamedLosses):
        found: dict[str, Predicts] = {out: learnt_by(one) for out, one in loss.losses.items()}
        return {**found, **{output: "classes" for output in class_names or ()}}
    if class_names:
        return "classes"
    return None if loss is None else learnt_by(loss)


def _tuples(names: Any) -> Any:
    """Class names as tuples, also those of several outputs."""
    if isinstance(names, Mapping):
        return {output: tuple(given) for output, given in names.items()}
    return None if names is None else tuple(names)


def _by_output(values: Any) -> Mapping[str, Any]:
    """What is said of each output, by its name; that of a single one is called ""."""
    return values if isinstance(values, Mapping) else {"": values}


def _are_numbers(inputs: Any) -> bool:
    return isinstance(inputs, np.ndarray | jax.Array) and inputs.dtype.kind not in "OSUT"
