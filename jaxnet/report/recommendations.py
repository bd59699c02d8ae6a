"""Tables and pictures of what a recommender recommends."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnet.files import write_atomically
from jaxnet.report.embeddings import plot_plane

if TYPE_CHECKING:
    from jaxnet.data.interactions.interactions import Entities

# Items with a name in the picture.
NAMED = 30


def shown_figures(figures: Mapping[str, float]) -> str:
    """The figures of a method in a line.

    Example:
        >>> shown_figures({"ndcg@10": 0.25, "recall@10": 0.5})
        'recall@10 0.5000   ndcg@10 0.2500'
    """
    return "   ".join(f"{name} {figures[name]:.4f}" for name in sorted(figures, reverse=True))


def write_recommendations(
    path: Path,
    users: Entities,
    items: Entities,
    rows: Iterable[int],
    lists: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Write what some users get, as a CSV table.

    Args:
        path: the file to write.
        users: all users.
        items: all items.
        rows: the numbers of the users to write.
        lists: (users, places) item numbers, the best first, -1 where a list is shorter.
        scores: (users, at least places) what was predicted for them.
    """
    with write_atomically(path) as file:
        table = csv.writer(file)
        table.writerow(["user", "place", "item", "title", "predicted"])
        for user in rows:
            pairs = zip(lists[user], scores[user], strict=False)
            for place, (item, score) in enumerate(pairs, 1):
                if item >= 0:
                    name = (items.ids[item], items.title(item))
                    table.writerow([users.ids[user], place, *name, f"{score:.3f}"])


def draw_items(
    path: Path, items: Entities, vectors: np.ndarray, popularity: np.ndarray, title: str = ""
) -> None:
    """Draw the vectors of items in a plane, with the names of the most popular ones.

    Args:
        path: the picture to write; there is none of fewer than two items.
        items: all items.
        vectors: (items, width).
        popularity: (items,) how often each was taken; those that never were are left out.
        title: what run it is.
    """
    seen = np.flatnonzero(popularity)
    if len(seen) < 2:
        return
    best = np.argsort(-popularity[seen], kind="stable")[:NAMED]
    names = {int(row): items.title(int(seen[row])) for row in best}
    colours = np.log10(popularity[seen])
    plot_plane(vectors[seen], path, colours, "log10 of how often it was taken", names, title)
