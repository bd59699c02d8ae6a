from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from benchmarks import faults
from benchmarks.disturbed import Job, Step
from benchmarks.faults import FAULTS, LAUNCHER, End, Options, Restart, Row, cells
from benchmarks.restarts import Start, Tally


@pytest.fixture
def job(tmp_path):
    """Two processes that only sleep, after 7 steps of which 4 are saved."""
    sleepers = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) for _ in range(2)
    ]
    for number, sleeper in enumerate(sleepers):
        (tmp_path / f"pid-{number}").write_text(str(sleeper.pid))
    lines = [f"{10 + n} {sleepers[0].pid} {n}\n" for n in range(1, 8)]
    (tmp_path / "steps").write_text("".join(lines) + "18.5 77")  # a line being written
    for name in ("2", "4", "6.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    found = Job(tmp_path, 2, sleepers)
    found.settle = lambda: None  # type: ignore[method-assign]
    yield found
    found.close()
    assert all(sleeper.returncode is not None for sleeper in sleepers)


def test_what_a_job_has_done(job):
    assert job.steps[0] == Step(11.0, job.pid(0), 1)
    assert (job.last_step, job.last_save) == (7, 4)


@pytest.mark.parametrize(
    ("fault", "left"),
    [("kill -9 of a worker", 0), ("kill -9 of process 0", 1), ("kill -9 in mid-save", 0)],
)
def test_a_killed_process_is_not_awaited(fault, left, job):
    def disturb(job):
        alive = FAULTS[fault](job)
        assert job.started[1 - left].wait(timeout=10) == -9
        assert alive == [left] and job.started[left].poll() is None
        job.started[left].terminate()
        return alive

    end = faults.ended(job, disturb)
    assert end.codes == (-15,)
    assert end.lost == 3
    assert end.seconds >= 0


def test_a_stopped_process_stays(job):
    assert FAULTS["SIGSTOP of a worker"](job) == [0]
    assert os.waitpid(job.pid(1), os.WUNTRACED)[0] == job.pid(1)


def test_steps_that_are_taken_again(job):
    steps = job.folder / "steps"
    now = time.monotonic()
    # An earlier start, 99, and this one.
    steps.write_text(f"{now - 9} 99 3\n{now - 1} {job.pid(0)} 7\n")

    def disturb(job):
        threading.Timer(0.3, go_on).start()
        return []

    def go_on():
        with steps.open("a") as file:
            file.write(f"{now + 2} 1 5\n{now + 3} 1 6\n")

    again = faults.restarted(job, disturb)
    assert again.lost == 3  # 5, 6 and 7
    assert again.seconds == pytest.approx(2, abs=1)


def test_a_row_has_medians_and_ranges():
    ends = tuple(End(seconds, (76,), lost) for seconds, lost in ((1.0, 3), (2.0, 5), (6.0, 4)))
    restarts = (Restart(8.0, 9), Restart(10.0, 2))
    assert cells(Row("fault", ends, restarts)) == [
        "fault",
        "2.00 s (1.00 - 6.00)",
        "76",
        "2 - 9",
        "9.00 s (8.00 - 10.00)",
    ]
    assert cells(Row("fault", ends))[-1] == "-"
    assert cells(Row("cable", left_out="needs root"))[1:3] == ["left out", "needs root"]


@pytest.mark.slow
def test_one_round(tmp_path, monkeypatch, capsys):
    """The cheapest row of each kind; what a fault does is tested where it is dealt with."""
    monkeypatch.setattr(faults, "FAULTS", {})
    for others in ("STARTS", "DISKS"):
        monkeypatch.setattr(faults, others, {})
    monkeypatch.setattr(faults, "lacking", lambda: "not now")
    assert faults.main(Options(rounds=1, bound=10.0, save_steps=5, out=tmp_path)) == 0
    written = {
        row["fault"]: row for row in json.loads((tmp_path / "faults.json").read_text())["faults"]
    }
    (asked,) = written["SIGTERM of a worker"]["ends"]
    assert (asked["codes"], asked["lost"]) == ([75, 75], 0)
    assert written[LAUNCHER]["ends"][0]["codes"] == [76, 76]
    assert written["cut cable between hosts"]["left_out"] == "not now"
    assert (tmp_path / "faults.png").exists()
    assert "left out" in capsys.readouterr().out


@pytest.mark.slow
def test_stops_and_restarts(tmp_path, capsys):
    """The same as of a user; the machine is busy enough."""
    options = Options(restarts=3, processes=2, bound=60.0, busy=0, seed=4, out=tmp_path)
    assert faults.main(options) == 0
    written = json.loads((tmp_path / "restarts.json").read_text())
    assert written["stops"] == 3
    assert written["failures"] == []
    assert written["complete"] >= 1
    assert written["different_results"] == 0
    assert "3 stops, 0 of them not in order" in capsys.readouterr().out


def test_what_is_no_end_in_order_counts(tmp_path):
    tally = Tally(2.0, [Start(1, 0.5, (75, 75)), Start(0, 0.2, (-6, 76), "stack")], 1, 0)
    assert (tally.stops, len(tally.failures)) == (2, 1)
    assert tally.to_json()["exit_codes"] == {"[-6, 76]": 1, "[75, 75]": 1}
