"""`python -m train.recommend`, as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from tests.data.test_movielens import write
from train import recommend
from train.recommend import PROGRAM, Config, train

QUICK = "--epochs 2 --ranking.epochs 1 --towers.embedding 4 --towers.hidden 8 --ranking.hidden 8"


def run(*arguments: str | Path) -> int:
    """What the command does, in this process."""
    words = ["--no-progress", *QUICK.split(), *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


@pytest.fixture
def small(monkeypatch):
    """The known model's data with few users."""
    from jaxnet.data import draw_interactions

    pairs = draw_interactions(users=80, items=30, each=15)
    monkeypatch.setitem(recommend.INTERACTIONS, "known", lambda config: pairs)
    return pairs


@pytest.mark.slow
def test_known_data(small, tmp_path, capsys):
    words = ["--run-dir", tmp_path, "--users", "user 3", "user 70"]
    assert run(*words) == cli.DONE
    printed = capsys.readouterr().out
    for name in ("two towers", "known model", "popularity", "ranked"):
        assert name in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["recall@10_known_model"] > summary["recall@10_popularity"]
    assert 0 < summary["recall@10_two_towers"] < 1
    for picture in ("recall.png", "items.png", "candidates/curves.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "recommendations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user"] for row in rows] == ["user 3"] * 10 + ["user 70"] * 10
    pairs = small[0]
    ranking = Bundle.load(tmp_path / "ranking" / "bundle")
    users, items = pairs.known_users, pairs.known_items
    numbers = items.numbers(row["item"] for row in rows)
    assert len(set(numbers[:10])) == 10
    inputs = np.concatenate(
        [users.columns(False)[users.numbers(r["user"] for r in rows)], items.columns()[numbers]],
        axis=1,
    )
    predicted = [float(row["predicted"]) for row in rows]
    np.testing.assert_allclose(ranking.predict(inputs)[:, 0], predicted, atol=2e-3)
    assert predicted[:10] == sorted(predicted[:10], reverse=True)
    vectors = Bundle.load(tmp_path / "candidates" / "bundle").predict(inputs)
    assert [part.shape for part in vectors] == [(20, 8), (20, 8)]

    # The same again is found, and other lists of a finished run take no training.
    logs = [tmp_path / stage / "metrics.jsonl" for stage in ("candidates", "ranking")]
    before = [log.read_bytes() for log in logs]
    lists = (tmp_path / "recommendations.csv").read_bytes()
    assert run(*words) == cli.DONE
    assert (tmp_path / "recommendations.csv").read_bytes() == lists
    assert run("--run-dir", tmp_path, "--users", "user 7", "--k", "3") == cli.DONE
    with (tmp_path / "recommendations.csv").open(newline="") as file:
        assert [row["user"] for row in csv.DictReader(file)] == ["user 7"] * 3
    assert "recall@3_ranked" in json.loads((tmp_path / "summary.json").read_text())
    assert [log.read_bytes() for log in logs] == before


@pytest.mark.slow
def test_movielens(tmp_path):
    """The ratings of a few users, among them an item that only the test part has."""
    folder = write(tmp_path / "ml", "latest")
    rng = np.random.default_rng(0)
    lines = [
        f"{user},{item},{rng.integers(1, 6)},{rng.integers(10**6)}"
        for user in range(30)
        for item in rng.choice(25, 12, replace=False) + 1
    ]
    lines += ["3,99,5,99999999"]
    films = [f"{n},Film {n} ({1980 + n}),Drama|War" for n in (*range(1, 26), 99)]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]))
    own = ["--data", "movielens", "--data-dir", folder, "--users", "3", "--k", "5"]
    assert run(*own, "--run-dir", tmp_path / "run") == cli.DONE
    with (tmp_path / "run" / "recommendations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[0]["title"].startswith("Film ")
    assert "99" not in [row["item"] for row in rows]  # nothing was learnt of it
    summary = json.loads((tmp_path / "run" / "ranking" / "summary.json").read_text())
    assert summary["test_rmse"] > 0 and summary["test_rmse_of_item_means"] > 0


@pytest.mark.slow
def test_clicks_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["who,what"]
    lines += [f"{user},{item}" for user in "abcdefghij" for item in rng.choice(15, 6, False)]
    (tmp_path / "clicks.csv").write_text("\n".join(lines))
    own = ["--data", "csv", "--data-dir", tmp_path / "clicks.csv", "--columns.user", "who"]
    own += ["--columns.item", "what", "--k", "3"]
    assert run(*own, "--run-dir", tmp_path / "run") == cli.DONE
    summary = json.loads((tmp_path / "run" / "ranking" / "summary.json").read_text())
    assert 0 <= summary["test_roc_auc"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "knwn"], "did you mean 'known'?"),
        (["--data", "movielens"], "needs --data-dir"),
        (["--data", "csv"], "needs --data-dir"),
        (["--k", "30"], "expected from 1 to 29, because there are 30 items"),
        (["--users", "nobody"], "got 'nobody'"),
        (["--split.test", "20"], "users with more than"),
    ],
)
def test_wrong_use(arguments, message, small, tmp_path, capsys):
    assert run("--run-dir", tmp_path / "run", *arguments) != cli.DONE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_recall_is_within_two_percent_of_the_known_models_own(tmp_path):
    # Candidates are what counts here: what ranks them is as small as can be.
    words = ["--no-progress", "--run-dir", str(tmp_path), "--ranking.epochs", "1"]
    words += ["--ranking.embedding", "1", "--ranking.hidden", "1"]
    assert cli.run(lambda: train(from_command_line(Config, words, PROGRAM))) == cli.DONE
    summary = json.loads((tmp_path / "summary.json").read_text())
    own = summary["recall@10_known_model"]
    assert summary["recall@10_popularity"] < 0.5 * own
    assert summary["recall@10_two_towers"] > 0.98 * own
