"""Metrics by name: those of the library, and how users give theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from jaxnet.errors import UsageError
from jaxnet.metrics.accuracy import accuracy, exact_match, multilabel_accuracy, top_k_accuracy
from jaxnet.metrics.areas import average_precision, roc_auc
from jaxnet.metrics.confusion import balanced_accuracy, cohen_kappa, matthews_correlation
from jaxnet.metrics.language import perplexity
from jaxnet.metrics.own import Own, adapted
from jaxnet.metrics.precision_recall import (
    f1,
    negative_predictive_value,
    precision,
    recall,
    specificity,
)
from jaxnet.metrics.regression import (
    explained_variance,
    mean_absolute_error,
    mean_squared_error,
    r2,
    root_mean_squared_error,
)
from jaxnet.metrics.sums import Metric
from jaxnet.names import lookup

Named = Mapping[str, Own | str] | Sequence[Own | str]
"""Metrics by the names that they are reported by; of a list each has its own."""

METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_k_accuracy(5),
    "multilabel_accuracy": multilabel_accuracy,
    "exact_match": exact_match,
    "precision": precision,
    "recall": recall,
    "sensitivity": recall,
    "specificity": specificity,
    "negative_predictive_value": negative_predictive_value,
    "f1": f1,
    "f1_micro": partial(f1, average="micro"),
    "f1_weighted": partial(f1, average="weighted"),
    "multilabel_f1": partial(f1, threshold=0.5),
    "balanced_accuracy": balanced_accuracy,
    "matthews_correlation": matthews_correlation,
    "cohen_kappa": cohen_kappa,
    "quadratic_kappa": partial(cohen_kappa, weighting="quadratic"),
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "root_mean_squared_error": root_mean_squared_error,
    "r2": r2,
    "explained_variance": explained_variance,
    "perplexity": perplexity,
}
"""The metrics by name, for `jaxnet.names.lookup`."""


def by_name(metrics: Named) -> dict[str, Own]:
    """Metrics in the library's form, by the names that they are reported by.

    Args:
        metrics: name -> metric; or a list, in which each is called by its own name.

    Raises:
        UsageError: a function in a list has no name of its own, two have the same, there is no such
            metric, or a function can't be one.

    Example:
        >>> from jaxnet.metrics import f1
        >>> list(by_name(["accuracy", f1])), list(by_name({"right": "accuracy"}))
        (['accuracy', 'f1'], ['right'])
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    if isinstance(metrics, Mapping):
        return {name: _found(name, metric) for name, metric in metrics.items()}
    named: dict[str, Own] = {}
    for metric in metrics:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "<lambda>")
        if name in named or not name.isidentifier():
            raise UsageError(
                f"metrics: expected a name of its own for each, got {name!r}: {metric!r}. Give "
                "them as {'name': metric}"
            )
        named[name] = _found(name, metric)
    return named


def _found(name: str, metric: Own | str) -> Own:
    if isinstance(metric, str):
        return lookup(metric, METRICS, "metric")
    return adapted(name, metric)
