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

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import LearningRate, Run, lookup_data, started
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Range, Share, settled
from jaxnet.training.early_stopping import EarlyStopping

from .ranking import Data, Ranking, fit_ranking

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import GroundTruth, Interactions
    from jaxnet.training import Retrieval, Trained


PROGRAM = "python -m train.recommend"
TOWERS, RANKED, KNOWN, POPULARITY = "two towers", "ranked", "known model", "popularity"
# Where the recall is drawn.
KS = (1, 2, 5, 10, 20, 50)
# Items with a name in the picture.
NAMED = 30


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
    """the share of hidden units left out in training"""


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV file."""

    user: str = "user"
    """the users' ids"""
    item: str = "item"
    """the items' ids"""
    rating: str | None = None
    """ratings, if there are any"""
    time: str | None = None
    """times, as numbers, if they are known"""


@dataclass(frozen=True)
class Split:
    """What to test with."""

    by: Literal["auto", "time", "random"] = "auto"
    """which interactions of a user are the last; by default by time where times are known"""
    valid: Annotated[int, Range()] | None = None
    """how many of each user's interactions to watch; by default 1, of known data 5"""
    test: Annotated[int, Range()] | None = None
    """how many of each user's interactions to test with; by default 1, of known data 5"""


@dataclass(frozen=True)
class Config(Run):
    """Train a recommender, and leave a run folder with lists, pictures and both networks."""

    data: str = "known"
    """known for data drawn from a known model, movielens, or csv for a table of your own"""
    data_dir: Annotated[Path | None, OnlyWith(data=("movielens", "csv"))] = None
    """movielens: the folder or the zip file; csv: the file"""
    model: str | None = None
    """two_tower"""
    epochs: Count = 8
    """how often the towers go through the training data, at most"""
    batch_size: Count = 256
    """examples a step, among whose items the towers learn to choose"""
    learning_rate: LearningRate = 5e-3
    """the largest learning rate"""
    user_ids: bool | None = None
    """whether the towers know users by their ids, and not only by what is told of them; by default
    where nothing else is known"""
    k: int = 10
    """how many items to recommend"""
    users: tuple[str, ...] = ()
    """the ids of users to write recommendations for; by default the first five"""
    towers: Towers = Towers()
    ranking: Ranking = Ranking()
    columns: Annotated[Columns, OnlyWith(data="csv")] = Columns()
    split: Split = Split()
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=3)


def _known(config: Config) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import draw_interactions

    return draw_interactions(seed=config.seed)


def _movielens(config: Config) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import load_movielens
    from jaxnet.data.at_hand import at_hand

    path = config.data_dir or at_hand("movielens", "movielens.zip")
    if path is None:
        raise UsageError("--data movielens needs --data-dir, the folder or the zip file of a set")
    return load_movielens(path), None


def _csv(config: Config) -> tuple[Interactions, GroundTruth | None]:
    from jaxnet.data import read_interactions

    if config.data_dir is None:
        raise UsageError("--data csv needs --data-dir, a CSV file")
    names = config.columns
    return read_interactions(
        config.data_dir, names.user, names.item, names.rating, names.time
    ), None


DATA: Mapping[str, Callable[[Config], tuple[Interactions, GroundTruth | None]]] = {
    "known": _known,
    "movielens": _movielens,
    "csv": _csv,
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train both stages as configured, and write the run folder."""
    lookup_data(config.data, DATA)
    lookup(config.model or "two_tower", {"two_tower": None}, "model")
    config = settled(replace(config, model="two_tower"))
    folder = run_folder.located(config, "two_tower")
    config = replace(config, run_dir=folder)

    from jaxnet.files import write_json

    data = _read(config)
    may_change = run_folder.changeable(config)
    run_folder.prepare(folder, config, resume=config.resume, may_change=may_change)
    towers = fit(
        folder / "candidates",
        config,
        _retrieval(config, data),
        data.train.arrays(data.train.items, data.numbered),
        data.valid.arrays(data.valid.items, data.numbered),
        mappings=data.mappings,
    )
    if towers is None:
        return cli.PREEMPTED
    found = _find(config, data, towers.model)
    run_folder.finish(folder / "candidates", towers, _measure(config, data, found.lists[TOWERS]))
    ranking = fit_ranking(folder / "ranking", config, config.ranking, data)
    if ranking is None:
        return cli.PREEMPTED
    figures = _finish(folder, config, data, found, ranking.model)
    seconds = round(towers.seconds + ranking.seconds, 3)
    write_json(folder / "summary.json", {**figures, "seconds": seconds})
    print(f"results: {folder}")
    return cli.DONE


def _read(config: Config) -> Data:
    from jaxnet.data import leave_last_out

    pairs, known = DATA[config.data](config)
    count = len(pairs.known_items)
    if not 1 <= config.k < count:
        raise UsageError(f"--k: expected from 1 to {count - 1}, because there are {count} items")
    numbered = config.user_ids
    if numbered is None:
        numbered = not pairs.known_users.sizes
    if not numbered and not pairs.known_users.sizes:
        raise UsageError("--no-user-ids: nothing else is known of the users of this data")
    # A user that isn't there is told now, and not after training.
    pairs.known_users.numbers(config.users)
    split, usual = config.split, 5 if known is not None else 1
    by = split.by if split.by != "auto" else ("random" if pairs.times is None else "time")
    valid = usual if split.valid is None else split.valid
    test = usual if split.test is None else split.test
    return Data(*leave_last_out(pairs, valid, test, by, config.seed), numbered, known)


def _retrieval(config: Config, data: Data) -> Retrieval:
    from jaxnet import losses
    from jaxnet.models import TwoTower
    from jaxnet.training import Retrieval

    users, items, size = data.train.known_users, data.train.known_items, config.towers
    log_q = losses.log_frequencies(data.train.items, len(items))
    return Retrieval(
        TwoTower(
            users.column_sizes(data.numbered),
            items.column_sizes(),
            embedding=size.embedding,
            hidden=size.hidden,
            width=size.width,
            dropout=size.dropout,
        ),
        partial(losses.in_batch_softmax, log_q=log_q),
        config.optimizer_for(len(data.train)),
        catalogue=items.columns(),
    )


@dataclass(frozen=True, eq=False)
class Found:
    """What each method recommends.

    Attributes:
        lists: (users, places) item numbers, the best first, by the name of the method.
        vectors: (items, width), of the towers.
    """

    lists: Mapping[str, np.ndarray]
    vectors: np.ndarray


def _find(config: Config, data: Data, model: Trained) -> Found:
    import numpy as np

    from jaxnet import retrieval

    items = data.train.known_items
    columns = data.train.known_users.columns(data.numbered)
    users, vectors = retrieval.tower_vectors(model.predict, columns, items.columns())
    popularity = data.train.popularity().astype(np.float32)
    methods = {TOWERS: (users, vectors)}
    if data.known is not None:
        methods[KNOWN] = (data.known.users, data.known.items)
    methods[POPULARITY] = (np.ones((len(users), 1), np.float32), popularity[:, None])
    longest = min(max(*KS, config.k, config.ranking.candidates), len(items))
    # An item that nobody took in training has a vector that means nothing.
    options = {"excluded": data.had, "sellable": popularity > 0}
    lists = {
        name: retrieval.recommend(*pair, longest, **options)[0] for name, pair in methods.items()
    }
    return Found(lists, vectors)


def _measure(config: Config, data: Data, lists: np.ndarray) -> dict[str, float]:
    from jaxnet import retrieval

    return retrieval.measure(lists, data.test.of_users(), (config.k,))


def _finish(
    folder: Path, config: Config, data: Data, found: Found, ranking: Trained
) -> dict[str, float]:
    """Rank the candidates, measure every method, and write lists and pictures."""
    from jaxnet import retrieval

    candidates = found.lists[TOWERS][:, : max(config.k, config.ranking.candidates)]
    columns = data.train.known_users.columns(data.numbered)
    ranked, scores = retrieval.rerank(
        ranking.predict, candidates, columns, data.train.known_items.columns()
    )
    methods = {**found.lists, RANKED: ranked}
    figures = {name: _measure(config, data, lists) for name, lists in methods.items()}
    run_folder.print_table({name: _line(values) for name, values in figures.items()})
    _write_lists(folder / "recommendations.csv", config, data, ranked, scores)
    _draw(folder, data, found)
    return {
        f"{key}_{name.replace(' ', '_')}": value
        for name, values in figures.items()
        for key, value in values.items()
    }


def _line(figures: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {figures[name]:.4f}" for name in sorted(figures, reverse=True))


def _write_lists(
    path: Path, config: Config, data: Data, ranked: np.ndarray, scores: np.ndarray
) -> None:
    """What some users get, as a table."""
    from jaxnet.files import write_atomically

    users, items = data.train.known_users, data.train.known_items
    shown = users.numbers(config.users or users.ids[:5])
    with write_atomically(path) as file:
        table = csv.writer(file)
        table.writerow(["user", "place", "item", "title", "predicted"])
        for user in shown:
            pairs = zip(ranked[user, : config.k], scores[user], strict=False)
            for place, (item, score) in enumerate(pairs, 1):
                if item >= 0:
                    name = (items.ids[item], items.title(item))
                    table.writerow([users.ids[user], place, *name, f"{score:.3f}"])


def _draw(folder: Path, data: Data, found: Found) -> None:
    """The recall over the length of the list, and the items in a plane."""
    import numpy as np

    from jaxnet import retrieval
    from jaxnet.report.plots import plot_lines, plot_plane

    relevant, items = data.test.of_users(), data.train.known_items
    ks = [k for k in KS if k <= next(iter(found.lists.values())).shape[1]]
    curves = {}
    for name, lists in found.lists.items():
        measured = retrieval.measure(lists, relevant, ks)
        curves[name] = [measured[f"recall@{k}"] for k in ks]
    title = run_folder.title(folder)
    plot_lines(curves, ks, folder / "recall.png", "length of the list", "recall", title)
    popularity = data.train.popularity()
    seen = np.flatnonzero(popularity)
    if len(seen) > 1:
        best = np.argsort(-popularity[seen], kind="stable")[:NAMED]
        names = {int(row): items.title(int(seen[row])) for row in best}
        colours = np.log10(popularity[seen])
        path = folder / "items.png"
        plot_plane(
            found.vectors[seen], path, colours, "log10 of how often it was taken", names, title
        )


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
