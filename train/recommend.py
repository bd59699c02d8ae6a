"""Recommend items to users: two towers find candidates, a second network ranks them.

    python -m train.recommend                                  recall@10 0.386, of possible 0.392
    python -m train.recommend --data movielens --data-dir DIR  MovieLens, a folder or the zip
    python -m train.recommend --data csv --data-dir FILE       who chose what, of your own
    python -m train.recommend --help                           all options

The first command needs no download: its data is no real data, but drawn from a two-tower model
that is known, so that its own recall says what can be reached
(`jaxnet.data.interactions.synthetic`). MovieLens has to be fetched by each user
(grouplens.org/datasets/movielens); ml-100k, ml-1m, ml-latest and what looks like them are read.

Candidates are what a user will probably take next. The second network predicts ratings where there
are any, which is another question (a film that is liked by those who see it may be seen by few), so
that its lists find less of what was taken next; otherwise it predicts what is taken, too.

Of each user the last interactions are for testing, those before for validation (by time, or at
random where no times are known). What the towers recommend is what a user does not have yet, of the
items that were seen in training; it is measured among all of them.

The run folder holds one for each stage, candidates/ and ranking/, and

recommendations.csv   what some users get
recall.png            the recall over the length of the list
items.png             the items' vectors in a plane
summary.json          the figures, flat
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from jaxnet import app
from jaxnet.app import cli
from jaxnet.app.interaction_data import INTERACTIONS, Columns, Split, read_parts
from jaxnet.app.ranking import Ranking, ranking_problem
from jaxnet.app.recommenders import Recommendations
from jaxnet.files import write_json
from jaxnet.options import FREE, Count, OnlyWith, Share
from jaxnet.training.early_stopping import EarlyStopping

PROGRAM = "python -m train.recommend"


@dataclass(frozen=True)
class Towers:
    """The size of the two towers."""

    embedding: Count = 16
    """the width of each embedding"""
    hidden: tuple[Count, ...] = (128,)
    """the width of each hidden layer"""
    width: Count = 8
    """the width of the vectors whose dot product is the score"""
    dropout: Share = 0.0
    """the dropout rate of hidden layers"""


@dataclass(frozen=True)
class Config(app.Run):
    """Train a recommender, and leave a run folder with lists, pictures and both networks."""

    DATA, MODELS = INTERACTIONS, ("two_tower",)

    data: str = "known"
    """known for data drawn from a known model, movielens, or csv for a table of your own"""
    data_dir: Annotated[Path | None, OnlyWith(data=("movielens", "csv"))] = None
    """movielens: the folder or the zip file; csv: the file"""
    model: str | None = None
    """two_tower"""
    epochs: Count = 8
    """the maximum number of epochs of the towers"""
    batch_size: Count = 256
    """examples per training step; the items of a batch are each other's negatives"""
    learning_rate: app.LearningRate = 5e-3
    """the peak learning rate"""
    user_ids: bool | None = None
    """whether the towers know users by their ids, and not only by what is told of them; by default
    where nothing else is known"""
    k: Annotated[int, FREE] = 10
    """the number of items to recommend"""
    users: Annotated[tuple[str, ...], FREE] = ()
    """the ids of users to write recommendations for; by default the first five"""
    towers: Towers = Towers()
    ranking: Ranking = Ranking()
    columns: Annotated[Columns, OnlyWith(data="csv")] = Columns()
    split: Split = Split()
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=3)


def problem(config: Config, recommendations: Recommendations | None = None) -> app.Problem:
    """The candidates: what a user takes next, among the items of a batch."""
    from jaxnet import losses
    from jaxnet.models import TwoTower
    from jaxnet.training import Retrieval

    recommendations = recommendations or Recommendations(config, read_parts(config))
    data = recommendations.data
    users, items = data.train.known_users, data.train.known_items
    sizes = users.column_sizes(data.numbered), items.column_sizes()
    log_q = losses.log_frequencies(data.train.items, len(items))
    return app.Problem(
        Retrieval(
            TwoTower(*sizes, **asdict(config.towers)),
            partial(losses.in_batch_softmax, log_q=log_q),
            config.optimizer_for(len(data.train)),
            catalogue=items.columns(),
        ),
        data.train.arrays(data.train.items, data.numbered),
        data.valid.arrays(data.valid.items, data.numbered),
        recommendations.report,
        mappings=data.mappings,
        stage="candidates",
    )


def train(config: Config) -> int:
    """Train both stages as configured, and write the run folder."""
    config = app.completed(config)
    folder, recommendations = app.folder_of(config), Recommendations(config, read_parts(config))
    app.open_run(folder, config, resume=config.resume, may_change=app.changeable(config))
    towers = app.fit_and_report(config, problem(config, recommendations))
    if towers is None:
        return cli.PREEMPTED
    ranked = replace(config, epochs=config.ranking.epochs)
    ranking = app.fit_and_report(
        ranked, ranking_problem(ranked, config.ranking, recommendations.data)
    )
    if ranking is None:
        return cli.PREEMPTED
    figures = recommendations.finish(folder, ranking.model)
    seconds = round(towers.seconds + ranking.seconds, 3)
    write_json(folder / "summary.json", {**figures, "seconds": seconds})
    print(f"results: {folder}")
    return cli.DONE


main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
