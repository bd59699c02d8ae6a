"""Several processes train as one: the same numbers, and nothing lost when one of them is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxnet.cluster.watchdog import LOST_PEER
from tests.parallel.jobs import (
    ROOT,
    Job,
    assert_same,
    environment,
    result_of,
    saved_steps,
    trained,
    training,
    until_saved,
)

pytestmark = pytest.mark.slow

# A run that lasts long enough to be disturbed, and saves often. Until a SIGTERM has come to all
# processes, seconds pass.
LONG: dict[str, Any] = {"epochs": 40, "every_steps": 2, "sleep": 0.15}
TIMEOUT = {"JAXNET_PEER_TIMEOUT": "4"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    trained(folder, 1, epochs=6)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two processes, undisturbed, as long as the disturbed ones."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder, 2, **{**LONG, "sleep": 0.0})
    return folder


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_two_processes_are_one(axis, alone, tmp_path):
    got = trained(tmp_path, 2, epochs=6, axis=axis)
    assert got["processes"] == 2
    assert_same(got, result_of(alone), 1e-6)
    assert got["test"] == pytest.approx(result_of(alone)["test"], abs=1e-6)


@pytest.mark.parametrize("processes", [1, 3])
def test_what_two_saved_others_go_on_with(processes, alone, tmp_path):
    trained(tmp_path, 2, epochs=3, axis="fsdp")
    assert saved_steps(tmp_path)[-1] == 9
    got = trained(tmp_path, processes, epochs=6, axis="fsdp")
    assert got["processes"] == processes
    assert_same(got, result_of(alone), 1e-6)


def test_a_run_disturbed_in_every_way_comes_to_the_same(whole, tmp_path):
    """Bit for bit: each of these ends the job, and the next start goes on from the last save."""
    for disturb in (
        _terminated(1),
        _killed(0),
        _killed_in_a_save,  # process 1
        _stopped,
    ):
        seen = saved_steps(tmp_path)[-1] if saved_steps(tmp_path) else 0
        with Job(training(tmp_path, **LONG), 2, environ=TIMEOUT) as job:
            until_saved(tmp_path, seen + 4, job)
            began = time.monotonic()
            disturb(job, tmp_path)
            seconds = time.monotonic() - began
        name = getattr(disturb, "__qualname__", "")
        print(f"{name}: {seconds:.2f} s, from step {seen}, saved {saved_steps(tmp_path)[-1]}")
    assert_same(trained(tmp_path, 2, **{**LONG, "sleep": 0.0}), result_of(whole), 0)


def _terminated(number: int) -> Callable[[Job, Path], None]:
    def disturb(job: Job, folder: Path) -> None:
        """A wish to end to one process: all save the same step."""
        job[number].send_signal(signal.SIGTERM)
        assert {code for code, _ in job.ends().values()} == {75}
        result = result_of(folder)
        assert result["stop_reason"] == "preempted"
        assert saved_steps(folder)[-1] == result["last_step"]

    return disturb


def _killed(dead: int) -> Callable[[Job, Path], None]:
    def disturb(job: Job, folder: Path) -> None:
        job[dead].kill()
        _lost(job, dead, "died")

    return disturb


def _killed_in_a_save(job: Job, folder: Path) -> None:
    deadline = time.monotonic() + 100
    while not list((folder / "checkpoints").glob("*tmp*")):
        assert time.monotonic() < deadline
    job[1].kill()
    _lost(job, 1, "died")


def _stopped(job: Job, folder: Path) -> None:
    job[1].send_signal(signal.SIGSTOP)
    _lost(job, 1, "gave no sign of life")


def _lost(job: Job, lost: int, why: str) -> None:
    """The process that is left ends within the bound, and says who is lost."""
    began = time.monotonic()
    _, errors = job[1 - lost].communicate(timeout=100)
    seconds = time.monotonic() - began
    assert job[1 - lost].returncode == LOST_PEER, errors
    assert f"process {lost} on host {os.uname().nodename} (pid {job[lost].pid}) {why}" in errors
    assert seconds < float(TIMEOUT["JAXNET_PEER_TIMEOUT"]) + 1


def test_one_that_never_comes_is_named(tmp_path):
    environ = {"JAXNET_START_TIMEOUT": "3"}
    with Job(training(tmp_path), 3, started=[0, 2], environ=environ) as job:
        ends = job.ends()
    for code, errors in ends.values():
        assert code == LOST_PEER
        assert "process 1 of 3 did not come within 3 s" in errors


def test_processes_that_were_asked_for_something_else_are_named(tmp_path):
    others = {"1": {"seed": 1, "epochs": 5}, "2": {"data": 1, "rate": 0.02}}
    with Job(training(tmp_path, others=others), 3) as job:
        ends = job.ends()
    name = os.uname().nodename
    for code, errors in ends.values():
        assert code == 2, errors
        _, one, two = errors.partition("error: ")[2].splitlines()[:3]
        assert f"process 1 on host {name} (pid {job[1].pid}): seed 1, where process 0" in one
        assert "epochs 5, where process 0" in one
        assert "data" not in one and "learning rate" not in one
        assert f"process 2 on host {name} (pid {job[2].pid}): learning rate 0.02, where" in two
        assert "the training data: its inputs and labels differ" in two
        assert "seed" not in two
    assert not saved_steps(tmp_path)


def test_the_first_one_writes_and_an_error_in_one_process_ends_all(tmp_path):
    command = [
        sys.executable,
        "-c",
        "import sys\n"
        "from pathlib import Path\n"
        "from jaxnet.app import cli\n"
        "from jaxnet.files import write_json\n"
        "def work():\n"
        "    import jax, time\n"
        "    write_json(Path(sys.argv[1]) / f'{jax.process_index()}.json', {})\n"
        "    if jax.process_index() == 1:\n"
        "        while not (Path(sys.argv[1]) / '0.json').exists():\n"
        "            time.sleep(0.01)\n"
        "        raise ZeroDivisionError('mine')\n"
        "    time.sleep(60)\n"
        "sys.exit(cli.run(work))\n",
        str(tmp_path),
    ]
    with Job(command, 2) as job:
        ends = job.ends()
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]
    assert ends[1][0] == 1
    assert "ZeroDivisionError: mine" in ends[1][1]
    assert ends[0][0] == LOST_PEER
    assert "failed, with exit code 1" in ends[0][1]


def test_an_error_while_a_save_is_under_way_ends_all(tmp_path):
    """Process 0's callback fails: both save the same step, and both end by it."""
    with Job(training(tmp_path, epochs=40, fails_at=9), 2, environ=TIMEOUT) as job:
        ends = job.ends(timeout=60)
    assert ends[0][0] == 1
    assert 'No space left on device: "a callback\'s file"' in ends[0][1]
    assert "The callback Report.on_chunk raised this.\nThe run is saved at step " in ends[0][1]
    assert ends[1][0] == LOST_PEER
    assert "error: process 0 failed: [Errno 28] No space left" in ends[1][1]
    assert "The callback Report.on_chunk raised this. The run is saved at step " in ends[1][1]


# More than an error waits for its explanation.
PATIENCE = 6.0


@pytest.mark.parametrize("fault", ["hangs", "fails", "exits", "callback"])
def test_a_process_that_lives_and_gets_no_further_ends_the_job(fault, tmp_path):
    environ = {**TIMEOUT, "JAXNET_PROGRESS_TIMEOUT": str(PATIENCE)}
    options = {"epochs": 10, "every_steps": 2, "fault": "", "others": {"1": {"fault": fault}}}
    guilty = 1
    if fault == "callback":
        options, guilty = {"epochs": 10, "hangs_at": 6}, 0
    with Job(training(tmp_path, **options), 2, environ=environ) as job:
        until_saved(tmp_path, 3, job)
        began = time.monotonic()
        ends = job.ends(timeout=100)
        seconds = time.monotonic() - began
    assert seconds < 2 * PATIENCE + 20  # a busy machine; otherwise it is for ever
    name = f"process {guilty} on host {os.uname().nodename} (pid {job[guilty].pid})"
    other, errors = ends[1 - guilty]
    assert other == LOST_PEER, errors
    assert name in errors
    if fault == "fails":
        assert ends[1][0] == 1 and "ZeroDivisionError: of the source" in ends[1][1]
        assert "out of training after ZeroDivisionError: of the source" in errors
    elif fault == "exits":
        assert ends[1][0] == 0
        assert "out of training after SystemExit: 0" in errors
    else:
        assert ends[guilty][0] == LOST_PEER
        assert "has got no further since" in errors
        doing = "in the callback Report.on_chunk" if fault == "callback" else "waiting for data"
        assert f"{doing}, after step" in errors
        assert "time.sleep(1000)" in errors  # the thread that hangs
        assert "thread MainThread" in errors


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_that_becomes_read_only_ends_the_job(processes, tmp_path):
    """Whoever writes then fails or hangs; a save may last twice as long as a step."""
    folder = str(tmp_path / "checkpoints")
    environ = {**TIMEOUT, "JAXNET_PROGRESS_TIMEOUT": str(PATIENCE)}
    with Job(training(tmp_path, **LONG), processes, environ=environ) as job:
        until_saved(tmp_path, 4, job)
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
            pytest.skip("no mounts here")
        try:
            # While a file is open to be written, the kernel refuses that.
            while subprocess.run(["mount", "-o", "remount,bind,ro", folder]).returncode:
                assert job[0].poll() is None
                time.sleep(0.02)
            began = time.monotonic()
            ends = job.ends(timeout=100)
            seconds = time.monotonic() - began
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    assert {code for code, _ in ends.values()} <= {1, LOST_PEER}
    said = "".join(errors for _, errors in ends.values())
    assert "Read-only file system" in said or ": saving into " in said
    assert seconds < 2 * PATIENCE + 20  # a busy machine


# --- the local launcher -------------------------------------------------------------------------


def launched(*words: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnet.launch", *words, "--", *training(folder, **options)],
        cwd=ROOT,
        env=environment({"TMPDIR": str(folder)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started, in their order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(word) for word in children.split()]


def test_the_launcher_starts_a_job_again_and_it_comes_to_the_same(whole, tmp_path):
    with launched("--processes", "2", folder=tmp_path, **LONG) as launcher:
        job = Job([], 0)
        job.processes = {0: launcher}
        until_saved(tmp_path, 4, job)
        os.kill(workers(launcher)[1], signal.SIGKILL)
        _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert "launch: worker 1 was killed by SIGKILL" in errors
    assert_same(result_of(tmp_path), result_of(whole), 0)


def test_wrong_words_are_said_by_process_0():
    words = ["--processes", "2", "--", sys.executable, "-m", "train.classify", "--epoch", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "jaxnet.launch", *words],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert "unknown option --epoch" in done.stderr


def test_elastic_goes_on_with_fewer(whole, tmp_path):
    words = ("--processes", "3", "--elastic", "--peer-timeout", "4")
    with launched(*words, folder=tmp_path, **LONG) as launcher:
        job, pids = Job([], 0), []
        job.processes = {0: launcher}
        for step in (4, 10):
            until_saved(tmp_path, step, job)
            pids.append(workers(launcher)[2])
            os.kill(pids[-1], signal.SIGKILL)
            while pids[-1] in workers(launcher):
                time.sleep(0.02)
        _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert "going on without it" in errors
    assert result_of(tmp_path)["processes"] == 2
    assert_same(result_of(tmp_path), result_of(whole), 1e-6)
