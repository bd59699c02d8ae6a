"""The second stage of `train.recommend`: a network that says how much a candidate is liked.

It predicts ratings where there are any, by the mean square of the error; otherwise whether a user
takes an item, with random items for those that were not taken.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet import run_folder
from jaxnet.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays
    from jaxnet.training import FitResult
    from jaxnet.training.task import GradientTask
    from train.recommend import Config, Data

    Stage = tuple[GradientTask, Arrays, Arrays, Arrays, dict[str, float]]


def fit_ranking(folder: Path, config: Config, data: Data) -> FitResult | None:
    """Train the ranking as configured, and write its run folder; None where the run was ended.

    Raises:
        UsageError: ratings are asked for, and there are none.
    """
    by, network = config.ranking.by, config.ranking
    if by == "auto":
        by = "click" if data.train.ratings is None else "rating"
    if by == "rating" and data.train.ratings is None:
        raise UsageError(f"--ranking.by rating: {data.train.name} has no ratings")
    from models import Ranker

    config = replace(config, epochs=network.epochs)
    users, items = data.train.known_users, data.train.known_items
    model = Ranker(
        (*users.column_sizes(data.numbered), *items.column_sizes()),
        embedding=network.embedding,
        hidden=network.hidden,
        dropout=network.dropout,
    )
    make = _rating_stage if by == "rating" else _click_stage
    task, fit, valid, test, figures = make(config, data, model)
    result = run_folder.fit(folder, config, task, fit, valid, mappings=data.mappings)
    if result is None:
        return None
    run_folder.finish(folder, result, {**result.model.evaluate(test), **figures})
    return result


def _rating_stage(config: Config, data: Data, model: Any) -> Stage:
    import numpy as np

    from jaxnet import losses, metrics
    from jaxnet.data import fit_target
    from jaxnet.training import Supervised, scaled_target

    parts = (data.train, data.valid, data.test)
    fit, valid, test = (
        part.arrays(np.asarray(part.ratings, np.float32), data.numbered) for part in parts
    )
    task = Supervised(
        model,
        losses.squared_error,
        config.optimizer_for(len(fit)),
        eval_metrics={"rmse": metrics.root_mean_squared_error},
    )
    # The usual baseline: the mean rating of the item.
    sums = np.bincount(data.train.items, fit.labels, minlength=len(data.train.known_items))
    counts = data.train.popularity()
    means = np.where(counts > 0, sums / np.maximum(counts, 1), fit.labels.mean())
    figures = {"rmse_of_item_means": _rmse(means[data.test.items], test.labels)}
    if data.known is not None:
        expected = data.known.expected_rating(data.test.users, data.test.items)
        figures["rmse_of_known_model"] = _rmse(expected, test.labels)
    return scaled_target(task, fit_target(fit)), fit, valid, test, figures


def _click_stage(config: Config, data: Data, model: Any) -> Stage:
    from jaxnet import losses, metrics
    from jaxnet.data import with_negatives
    from jaxnet.data.interactions import as_lists
    from jaxnet.training import Supervised

    parts = (data.train, data.valid, data.test)
    # Training knows nothing of what was taken later.
    fit, valid, test = (
        with_negatives(
            part,
            as_lists(*parts[: place + 1]),
            config.ranking.negatives,
            data.numbered,
            config.seed + place,
        )
        for place, part in enumerate(parts)
    )
    task = Supervised(
        model,
        losses.binary_cross_entropy,
        config.optimizer_for(len(fit)),
        eval_metrics={"roc_auc": metrics.roc_auc},
    )
    return task, fit, valid, test, {}


def _rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    import numpy as np

    return float(np.sqrt(np.mean((predicted - true) ** 2)))
