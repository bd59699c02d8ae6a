"""Races of toy contenders, which import nothing heavy, and one of the real ones."""

from __future__ import annotations

import os
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import race
from benchmarks.peers import contenders
from benchmarks.race import ROOT, Contender
from benchmarks.workloads import WORKLOADS, Workload
from jaxnet.cluster.detect import detect

TOY = """
    import threading, time
    from benchmarks.workloads import Contestant

    def setup(workload, data, options):
        used = time.process_time()
        if options.get("spins"):
            def spin():
                while True:
                    pass
            threading.Thread(target=spin, daemon=True).start()

        def train(round_index):
            nonlocal used
            print("noise on stdout")
            idle = time.process_time() - used
            if options.get("fails") and round_index == 2:
                raise ValueError("out of luck")
            with open(options["journal"], "a") as journal:
                journal.write(options["initial"])
            time.sleep(float(options.get("sleeps", 0)))
            used = time.process_time()
            return idle

        return Contestant(train, lambda: 0.5)
"""
TINY = replace(WORKLOADS["mlp300"], examples=640, batch_size=64)


@pytest.fixture
def toy(tmp_path: Path):
    """Makes toy contenders, which write their initial into the journal when they train."""
    (tmp_path / "toy.py").write_text(textwrap.dedent(TOY))

    def make(initial: str, **options: str) -> Contender:
        options = {"initial": initial, "journal": str(tmp_path / "journal"), **options}
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        return Contender(initial, initial, "toy", options, {"PYTHONPATH": path})

    return make


def run(*racers: Contender, rounds: int = 3, workload: Workload = TINY) -> race.Race:
    return race.run(workload, racers, rounds, synthetic=(workload.examples, 100))


def test_contenders_take_turns_after_each_has_warmed_up(toy, tmp_path):
    result = run(toy("A"), toy("B"), toy("C"))
    assert (tmp_path / "journal").read_text() == "ABC" * 4
    assert [len(entry.laps) for entry in result.entries] == [3, 3, 3]


def test_a_round_lasts_as_long_as_the_contender_says(toy):
    result = run(toy("A", sleeps="0.2"), toy("B", sleeps="0.1"))
    slow, fast = result.entries
    assert min(slow.seconds) >= 0.2 and min(fast.seconds) >= 0.1
    assert result.best("B") is fast


def test_an_idle_contender_uses_no_processor(toy):
    spinner, _ = run(toy("A", spins="yes"), toy("B", sleeps="0.5")).entries
    assert max(lap.loss for lap in spinner.laps) < 0.1


def test_the_processes_of_a_job_train_together(toy, tmp_path):
    together = replace(toy("A", sleeps="0.1"), processes=2)
    result = run(together, toy("B"), rounds=2)
    assert (tmp_path / "journal").read_text() == "AAB" * 3
    assert [len(entry.laps) for entry in result.entries] == [2, 2]
    assert min(result.entries[0].seconds) >= 0.1


def test_the_processes_of_a_job_find_each_other():
    assert race.job_variables(1) == [{}]
    first, second = (detect(variables) for variables in race.job_variables(2))
    assert first and second
    assert first.coordinator == second.coordinator
    assert (first.process, second.process, second.processes) == (0, 1, 2)
    assert second.local_devices == (1,)


def test_a_contender_that_fails_ends_the_race_with_its_words(toy):
    with pytest.raises(RuntimeError, match=r"(?s)B failed:.*ValueError: out of luck"):
        run(toy("A"), toy("B", fails="yes"))


def test_a_contender_whose_library_is_absent_is_skipped_with_the_extra(toy):
    result = run(toy("A"), replace(toy("B"), requires=("no_such_library",)))
    assert [entry.contender.name for entry in result.entries] == ["A"]
    assert result.skipped == {"B": "needs no_such_library: pip install -e '.[bench]'"}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["jaxnet", "raw_jax", "keras", "torch", "sklearn"])
def test_every_library_learns(library):
    first = next(one for one in contenders(TINY) if one.framework == library)
    if first.missing():
        pytest.skip(f"needs {first.missing()}: the extra [bench]")
    (entry,) = run(first).entries
    losses = [entry.warm_up.loss, *(lap.loss for lap in entry.laps)]
    assert losses[0] < 3.5
    assert entry.accuracy > 0.3
    if library != "jaxnet":  # its rounds are runs of their own
        assert losses[3] < losses[0] / 2
