"""What entrypoints that train classifiers share: the task, class weights, and the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Tested
from jaxnet.names import lookup

if TYPE_CHECKING:
    import flax.linen as nn
    import optax

    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.training.task import GradientTask
    from jaxnet.training.trainer import FitResult


def classifier(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    weights: Sequence[float] = (),
    measured: Sequence[str] = (),
    preprocess: Callable[[Any], Any] | None = None,
) -> GradientTask:
    """The task of telling classes apart: cross-entropy, accuracy and the confusion matrix.

    Args:
        model: gives logits; with `auxiliary`, more than one of them in training.
        optimizer: of the whole run.
        num_classes: the number of classes.
        weights: how much each class counts in the loss; nothing where all count alike.
        measured: names of further metrics, for evaluation.
        preprocess: what is done to the inputs on the device.

    Raises:
        UsageError: a metric is unknown.
    """
    from jaxnet import losses, metrics
    from jaxnet.training import Supervised, with_auxiliary
    from jaxnet.training.task import identity

    loss = losses.cross_entropy
    task = Supervised(
        model,
        losses.with_class_weights(loss, weights) if weights else loss,
        optimizer,
        metrics={"accuracy": metrics.accuracy},
        eval_metrics={
            "confusion": metrics.confusion_matrix(num_classes),
            **{name: lookup(name, metrics.METRICS, "metric") for name in measured},
        },
        preprocess=preprocess or identity,
    )
    return with_auxiliary(task) if getattr(model, "auxiliary", False) else task


def class_weights(
    train: Arrays | ImageFolder, named: Mapping[str, float], balanced: bool
) -> tuple[float, ...]:
    """How much each class counts in the loss; nothing where all count alike.

    Args:
        train: what to learn from.
        named: weights by the names of classes; the others have 1.
        balanced: multiply by what lets all classes count alike, however rare they are.

    Raises:
        UsageError: there is no class of that name.
    """
    from jaxnet import losses

    if not (balanced or named):
        return ()
    names = train.class_names or [str(number) for number in range(train.num_classes)]
    weights = losses.named_class_weights(named, names)
    if balanced:
        weights *= losses.balanced_class_weights(train.labels, train.num_classes)
    return tuple(weights.tolist())


def tested_on(
    test: Arrays | ImageFolder, texts: Sequence[str] = ()
) -> Callable[[Path, FitResult], Tested]:
    """The report of a classifier: the metrics of a test set, and its logits for the curves.

    Args:
        test: the test set.
        texts: what its inputs were made of; those that are taken for another class are listed in
            `mistakes.csv`.
    """

    def report(folder: Path, result: FitResult) -> Tested:
        from jaxnet.report.mistakes import write_mistakes

        metrics, logits = result.model.evaluate(test), result.model.predict(test)
        if texts:
            names = test.class_names or ()
            write_mistakes(folder / "mistakes.csv", texts, test.labels, logits, names)
        return Tested(metrics, predictions=(logits, test.labels))

    return report
