"""What one entrypoint has of its own: the data, the task and what is told of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.technique_options import Augment

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays, Source, Table, Texts
    from jaxnet.data.encoders import Encoder
    from jaxnet.data.scaling import Scale
    from jaxnet.training import Trained
    from jaxnet.training.task import GradientTask, Task
    from jaxnet.training.trainer import FitResult

    Data = Arrays | Source


@dataclass(frozen=True, eq=False)
class Tested:
    """The figures of a trained network, for the summary of its run.

    Attributes:
        metrics: those of the test set, which the summary calls `test_NAME`; a matrix called
            `confusion` becomes a picture and a table of the classes.
        figures: other figures, which keep their names.
        predictions: the logits (n, classes) and labels (n,) of a classifier's test set, for its ROC
            and precision-recall curves.
    """

    metrics: Mapping[str, Any]
    figures: Mapping[str, Any] = field(default_factory=dict)
    predictions: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """What is learnt from what data, and what is reported: `jaxnet.app.entrypoint` does the rest.

    Attributes:
        task: what to train, without the techniques that the configuration adds.
        train: what to learn from.
        valid: what to evaluate after each epoch.
        report: `(folder, result) -> Tested`: test the network that was trained, and write the
            pictures and tables of this kind of problem into the run folder. Where several processes
            train together, each calls it, and the first one writes.
        augment: how to vary the training images.
        callbacks: `(folder, task) -> callbacks` that watch the run; the task is the one that is
            trained, with all techniques.
        encoder: what made the inputs of a table's rows, or of texts. A run goes on only with the
            one that it was begun with, and the bundle holds it.
        mappings: what else made numbers of raw data, see `Trainer.fit`.
        class_names: what class 0, 1, ... is called, for the bundle.
        stage: the folder within that of the run, where one run trains several networks.
    """

    task: Task[Any]
    train: Data
    valid: Data
    report: Callable[[Path, FitResult], Tested]
    augment: Augment = Augment()
    callbacks: Callable[[Path, Task[Any]], Sequence[Any]] = lambda folder, task: ()
    encoder: Encoder | None = None
    mappings: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    stage: str = ""


@dataclass(frozen=True, eq=False)
class Folds:
    """A problem to cross-validate.

    What is done to the inputs is fitted on each fold's training part, outside of the compiled
    programs, so that folds with the same task share these.

    Attributes:
        data: what to cut into folds.
        task: the task for a fold's training part.
        fitted: what the task takes from the training part besides shapes and the number of steps:
            folds that agree in it have one task, and so one compile.
        measure: the metrics of a fold's test part, with labels as they are, by default those of the
            task; a matrix called `confusion` is summed over all.
        prepare: what makes, of a fold's training part, the function that makes inputs and labels of
            any part; by default it scales inputs and encodes tables.
        target: what fits, on a fold's training part, the scale on which numbers are learnt and
            predicted; `measure` gets it.
    """

    data: Arrays | Table | Texts
    task: Callable[[Arrays], GradientTask]
    fitted: Callable[[Arrays], Hashable] = lambda train: ()
    measure: Callable[[Trained, Arrays, Scale | None], Mapping[str, Any]] | None = None
    prepare: Callable[[Any], Callable[[Any], Arrays]] | None = None
    target: Callable[[Arrays], Scale] | None = None
