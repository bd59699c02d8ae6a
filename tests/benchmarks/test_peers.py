from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import report
from benchmarks.peers import as_json, contenders, show, show_verdicts, verdicts
from benchmarks.race import Contender, Entry, Lap, Race
from benchmarks.workloads import WORKLOADS


def entry(library: str, *seconds: float, name: str = "") -> Entry:
    laps = tuple(Lap(one, 0.2, 0.0) for one in seconds)
    return Entry(Contender(name or library, library, "module"), Lap(9.0, 0.3, None), 0.9, laps)


RACE = Race(
    WORKLOADS["mlp300"],
    "MNIST",
    (
        entry("jaxnet", 1.0, 2.0, 1.0),
        entry("torch", 1.5, 3.2, 1.4, name="torch quick"),
        entry("torch", 9.0, 9.0, 9.0, name="torch slow"),
        entry("raw_jax", 0.9, 1.8, 0.9),
    ),
    {"keras": "needs keras: pip install -e '.[bench]'"},
)


def test_a_library_is_judged_by_its_best_setting_round_by_round():
    raw, torch = verdicts(RACE)
    assert (raw.framework, raw.ratio, raw.met) == ("raw_jax", pytest.approx(0.9), False)
    assert (torch.best, torch.bar, torch.met) == ("torch quick", 1.45, True)
    assert (torch.low, torch.ratio, torch.high) == pytest.approx((1.4, 1.5, 1.6))


def test_the_json_has_every_round_and_what_it_ran_on(tmp_path):
    head = report.header("peers_mlp300", "seconds per round")
    panels = {"mlp300": {"jaxnet": report.Bar(1.0, 1.0, 2.0, "jaxnet")}}
    report.write({**head, **as_json(RACE)}, panels, tmp_path / "results")
    written = json.loads((tmp_path / "results" / "peers_mlp300.json").read_text())
    assert written["machine"]["cores"] >= 1 and written["machine"]["memory_gib"] > 0
    assert {"cpu", "system"} <= written["machine"].keys()
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= written["versions"].keys()
    assert written["unit"] == "seconds per round" and written["date"]
    assert written["reference"] == "jaxnet" and written["steps_per_round"] == 469
    torch = written["contenders"][1]
    assert [lap["seconds"] for lap in torch["rounds"]] == [1.5, 3.2, 1.4]
    assert torch["ratios"] == pytest.approx([1.5, 1.6, 1.4])
    assert (torch["median"], torch["min"], torch["max"]) == (1.5, 1.4, 3.2)
    assert written["skipped"] == RACE.skipped
    assert (tmp_path / "results" / "peers_mlp300.png").read_bytes().startswith(b"\x89PNG")


def test_the_tables_show_the_ratios_and_who_was_skipped(capsys):
    show(RACE)
    show_verdicts([RACE])
    printed = capsys.readouterr().out
    assert "skipped keras: needs keras" in printed
    assert "mlp300 / torch" in printed and "not met" in printed


@pytest.mark.parametrize("name", WORKLOADS)
def test_contenders_have_names_of_their_own(name):
    names = [one.name for one in contenders(WORKLOADS[name])]
    assert len(set(names)) == len(names)
    perceptron = not (WORKLOADS[name].convolutional or WORKLOADS[name].recurrent)
    assert np.any(["sklearn" in one for one in names]) == perceptron
