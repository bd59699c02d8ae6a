"""The second stage of a recommender: a network that says how much a candidate is liked.

It predicts ratings where there are any, by the mean square of the error; otherwise whether a user
takes an item, with random items for those that were not taken.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnet.app.interaction_data import Parts
from jaxnet.app.networks import network
from jaxnet.app.problem import Problem, Tested
from jaxnet.app.run_options import Run
from jaxnet.errors import UsageError
from jaxnet.options import Count, OnlyWith, Share

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays
    from jaxnet.training.task import GradientTask

    Stage = tuple[GradientTask, Arrays, Arrays, Arrays, dict[str, float]]


@dataclass(frozen=True)
class Ranking:
    """The network that ranks the candidates."""

    by: Literal["auto", "rating", "click"] = "auto"
    """predict the rating, or whether a user takes an item at all; by default ratings where there
    are any"""
    candidates: Count = 50
    """how many of the towers' best items are ranked"""
    embedding: Count = 16
    """the width of each embedding"""
    hidden: tuple[Count, ...] = (64, 32)
    """the width of each hidden layer"""
    dropout: Share = 0.0
    """the dropout rate of hidden layers"""
    epochs: Count = 3
    """the maximum number of epochs"""
    negatives: Annotated[Count, OnlyWith(by=("auto", "click"))] = 4
    """click: random items for each one that was taken"""


def ranking_problem(config: Run, ranking: Ranking, data: Parts) -> Problem:
    """The problem of ranking candidates.

    Args:
        config: how to train.
        ranking: the network, and what it predicts.
        data: the interactions.

    Raises:
        UsageError: ratings are asked for, and there are none.
    """
    by = ranking.by
    if by == "auto":
        by = "click" if data.train.ratings is None else "rating"
    if by == "rating" and data.train.ratings is None:
        raise UsageError(f"--ranking.by rating: {data.train.name} has no ratings")
    users, items = data.train.known_users, data.train.known_items
    size = {name: asdict(ranking)[name] for name in ("embedding", "hidden", "dropout")}
    columns = (*users.column_sizes(data.numbered), *items.column_sizes())
    model = network("recommender:Ranker", {"sizes": columns, **size})
    make = _rating_stage if by == "rating" else _click_stage
    task, train, valid, test, figures = make(config, ranking, data, model)
    return Problem(
        task,
        train,
        valid,
        report=lambda folder, result: Tested({**result.model.evaluate(test), **figures}),
        mappings=data.mappings,
        stage="ranking",
    )


def _rating_stage(config: Run, ranking: Ranking, data: Parts, model: Any) -> Stage:
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


def _click_stage(config: Run, ranking: Ranking, data: Parts, model: Any) -> Stage:
    from jaxnet import losses, metrics
    from jaxnet.data import with_negatives
    from jaxnet.data.interactions.interactions import as_lists
    from jaxnet.training import Supervised

    parts = (data.train, data.valid, data.test)
    # Training knows nothing of what was taken later.
    fit, valid, test = (
        with_negatives(
            part,
            as_lists(*parts[: place + 1]),
            ranking.negatives,
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
