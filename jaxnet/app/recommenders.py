"""What a recommender recommends: candidates of two towers, ranked by a second network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.interaction_data import Parts
from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title
from jaxnet.app.run_report import print_table

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.training import FitResult, Trained

TOWERS, RANKED, KNOWN, POPULARITY = "two towers", "ranked", "known model", "popularity"
# Where the recall is drawn.
KS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, eq=False)
class Found:
    """What each method recommends.

    Attributes:
        lists: (users, places) item numbers, the best first, by the name of the method.
        vectors: (items, width), of the towers.
    """

    lists: Mapping[str, np.ndarray]
    vectors: np.ndarray


@dataclass(eq=False)
class Recommendations:
    """The lists of recommended items of a run, and what is told of them.

    Attributes:
        config: with `k`, the length of a list, `users` to write lists for, and
            `ranking.candidates`.
        data: the interactions.
        found: the candidates, as soon as there are any.
    """

    config: Any
    data: Parts
    found: Found | None = None

    def report(self, folder: Path, result: FitResult) -> Tested:
        """Find the candidates of each user; how good they are."""
        self.found = self._find(result.model)
        return Tested(self._measure(self.found.lists[TOWERS]))

    def finish(self, folder: Path, ranking: Trained) -> dict[str, float]:
        """Rank the candidates, measure every method, and write lists and pictures."""
        from jaxnet import retrieval
        from jaxnet.report.plots import plot_lines
        from jaxnet.report.recommendations import (
            draw_items,
            shown_figures,
            write_recommendations,
        )

        config, data, found = self.config, self.data, self.found
        assert found is not None
        users, items = data.train.known_users, data.train.known_items
        candidates = found.lists[TOWERS][:, : max(config.k, config.ranking.candidates)]
        columns = users.columns(data.numbered)
        ranked, scores = retrieval.rerank(ranking.predict, candidates, columns, items.columns())
        methods = {**found.lists, RANKED: ranked}
        figures = {name: self._measure(lists) for name, lists in methods.items()}
        print_table({name: shown_figures(values) for name, values in figures.items()})
        shown = users.numbers(config.users or users.ids[:5])
        path = folder / "recommendations.csv"
        write_recommendations(path, users, items, shown, ranked[:, : config.k], scores)
        ks = [k for k in KS if k <= next(iter(found.lists.values())).shape[1]]
        curves = {name: self._recall(lists, ks) for name, lists in found.lists.items()}
        path, above = folder / "recall.png", title(folder)
        plot_lines(curves, ks, path, "length of the list", "recall", above)
        draw_items(folder / "items.png", items, found.vectors, data.train.popularity(), above)
        return {
            f"{key}_{name.replace(' ', '_')}": value
            for name, values in figures.items()
            for key, value in values.items()
        }

    def _find(self, model: Trained) -> Found:
        import numpy as np

        from jaxnet import retrieval

        data, items = self.data, self.data.train.known_items
        columns = data.train.known_users.columns(data.numbered)
        users, vectors = retrieval.tower_vectors(model.predict, columns, items.columns())
        popularity = data.train.popularity().astype(np.float32)
        methods = {TOWERS: (users, vectors)}
        if data.known is not None:
            methods[KNOWN] = (data.known.users, data.known.items)
        methods[POPULARITY] = (np.ones((len(users), 1), np.float32), popularity[:, None])
        longest = min(max(*KS, self.config.k, self.config.ranking.candidates), len(items))
        # An item that nobody took in training has a vector that means nothing.
        options = {"excluded": data.had, "sellable": popularity > 0}
        lists = {
            name: retrieval.recommend(*pair, longest, **options)[0]
            for name, pair in methods.items()
        }
        return Found(lists, vectors)

    def _measure(self, lists: np.ndarray) -> dict[str, float]:
        from jaxnet import retrieval

        return retrieval.measure(lists, self.data.test.of_users(), (self.config.k,))

    def _recall(self, lists: np.ndarray, ks: list[int]) -> list[float]:
        from jaxnet import retrieval

        measured = retrieval.measure(lists, self.data.test.of_users(), ks)
        return [measured[f"recall@{k}"] for k in ks]
