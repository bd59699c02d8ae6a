"""Processes without JAX that meet and watch each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, cast

import pytest

from jaxnet.cluster.line import Line, Peer
from jaxnet.cluster.watchdog import LOST_PEER, Watch

# What a process does: it joins the others, says so, and follows the words on its standard input.
PROCESS = """
import sys, time
from jaxnet import ending
ending.start()
from jaxnet.errors import EndedError, PeerError, UsageError
import jaxnet.cluster.rendezvous
from jaxnet.cluster.identity import Identity
from jaxnet.cluster.line import Peer
from jaxnet.cluster.rendezvous import roll_call
from jaxnet.cluster.watchdog import Watch
import os, signal
if "ASKED" in os.environ:
    signal.raise_signal(signal.SIGINT)
    while not ending.requested():  # a thread hears of it, on a busy machine later
        time.sleep(0.001)
identity = Identity(os.environ.get("JOB", ""), (os.environ.get("COMMAND", "train"),), {"jax": "1"})
process, processes, port, start, timeout = (float(word) for word in sys.argv[1:])
me = Peer(int(process), f"host{int(process)}", os.getpid())
jaxnet.cluster.rendezvous.ENDING_SECONDS = float(os.environ.get("ENDING", 10))
try:
    with ending.deferring():
        peers, address = roll_call(me, int(processes), ("127.0.0.1", int(port)), start, identity)
except PeerError as error:
    sys.exit(f"refused: {error}")
except UsageError as error:
    print(f"refused: {error}", file=sys.stderr)
    sys.exit(2)
except EndedError as error:
    print(error, file=sys.stderr)
    sys.exit(75)
watch = Watch(me, int(processes), timeout, peers).start()
ending.at_once("working", watch.ask)
print("met", flush=True)
for line in sys.stdin:
    if line == "finish\\n":
        watch.finish()
        print("finished", flush=True)
        time.sleep(float(os.environ.get("LINGER", 0)))
        watch.close()
        break
    if line == "fail\\n":
        watch.explain()
        watch.fail(1)
        sys.exit(1)
    if line == "hold\\n":  # as a long call into C that keeps Python's lock
        import ctypes
        ctypes.PyDLL(None).usleep(900_000)
else:
    time.sleep(100)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Job:
    """Some of the processes of a job."""

    def __init__(
        self,
        processes: int,
        *started: int,
        start: float = 20.0,
        timeout: float = 20.0,
        **variables: str,
    ):
        self.port = free_port()
        self.processes = processes
        self.limits = (str(start), str(timeout))
        self.running = {
            number: self.start(number, **variables) for number in started or range(processes)
        }

    def start(
        self, number: int, processes: int | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        words = (number, processes or self.processes, self.port)
        return subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, words), *self.limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def __getitem__(self, number: int) -> subprocess.Popen[str]:
        return self.running[number]

    def met(self) -> Job:
        for process in self.running.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "met\n"
        return self

    def say(self, number: int, word: str) -> None:
        pipe = self[number].stdin
        assert pipe is not None
        pipe.write(f"{word}\n")
        pipe.flush()

    def ends(self, number: int) -> tuple[int, str]:
        """Exit code and errors."""
        _, errors = self[number].communicate(timeout=60)
        return self[number].returncode, errors

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


def test_all_finish_together():
    with Job(3) as job:
        job.met()
        job.say(1, "finish")
        job.say(0, "finish")
        time.sleep(0.5)
        assert job[0].poll() is None  # it waits for process 2
        job.say(2, "finish")
        assert [job.ends(number) for number in range(3)] == [(0, "")] * 3


def test_one_that_ends_as_soon_as_it_hears_that_all_are_done_is_not_lost():
    """Process 0 sees its connection closed while it is still telling the others."""
    said: dict[int, list[str]] = {1: [], 2: []}

    class Quick:
        def __init__(self, number: int) -> None:
            self.number = number

        def send(self, **message: Any) -> None:
            said[self.number] += message
            if self.number == 1 and "all_done" in message:
                watch._hear(one)

        def receive(self) -> None:
            return None

    zero, one, two = (Peer(number, "host", number) for number in range(3))
    ends: list[str] = []
    lines: Any = {one: Quick(1), two: Quick(2)}
    watch = Watch(zero, 3, 20.0, lines, end=ends.append)
    watch._count(1)
    watch._count(2)
    watch.finish()
    assert said == {1: ["all_done"], 2: ["all_done"]}
    assert not ends


def test_process_0_is_not_done_before_it_has_told_the_others():
    """What it would close their connections by, when it ends."""
    sent, gate = [], threading.Event()

    class Slow:
        def send(self, **message: Any) -> None:
            gate.wait(10)
            sent.append(message)

    zero, peer = Peer(0, "host0", 1), Peer(1, "host1", 2)
    watch = Watch(zero, 2, 20.0, {peer: cast(Any, Slow())})
    told = threading.Thread(target=watch._count, args=(1,))
    finished = threading.Thread(target=watch.finish)
    finished.start()
    while 0 not in watch._done:
        time.sleep(0.001)
    told.start()
    assert watch._all_done.wait(10)
    finished.join(0.2)
    assert finished.is_alive() and not sent
    gate.set()
    finished.join(10)
    assert not finished.is_alive() and sent == [{"all_done": True}]


def test_what_is_said_last_arrives_though_something_was_left_unread():
    """TCP resets a connection that is closed so, and sends nothing that it still holds back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours = listener.accept()[0]
    zero, peer, lost = (Peer(number, f"host{number}", number) for number in range(3))
    line = Line(ours)
    watch = Watch(zero, 3, 20.0, {peer: line}, end=lambda text: ours.close())
    for _ in range(10):  # from now on TCP acknowledges late, and holds back a second message
        theirs.sendall(b'{"alive": {}}\n')
        line.receive()
        line.send(alive={})
        theirs.recv(4096)
    theirs.sendall(b'{"alive": {}}\n')
    line.send(alive={})
    ending = threading.Thread(target=watch._lose, args=(lost, "died"))
    ending.start()
    ending.join(0.3)
    said = b""
    with theirs, contextlib.suppress(ConnectionError):
        while received := theirs.recv(4096):
            said += received
    assert [json.loads(text) for text in said.splitlines()][1:] == [{"lost": f"{lost} died"}]
    ending.join(10)
    assert not ending.is_alive()


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_that_waits_for_others_to_finish_ends_all(asked):
    with Job(3).met() as job:
        for number in {asked, 1}:
            job.say(number, "finish")
        time.sleep(0.3)
        job[asked].send_signal(signal.SIGTERM)
        ends = [job.ends(number) for number in range(3)]
    assert [code for code, _ in ends] == [75] * 3
    name = f"process {asked} on host host{asked} (pid {job[asked].pid})"
    assert f"{name} was ended by SIGTERM while waiting for the others. Run" in ends[2][1]


def test_a_signal_to_one_after_all_have_finished_changes_nothing():
    with Job(2, LINGER="0.3") as job:
        job.met()
        for number in range(2):
            job.say(number, "finish")
        for number in range(2):
            out = job[number].stdout
            assert out is not None and out.readline() == "finished\n"
            job[number].send_signal(signal.SIGTERM)
        assert [job.ends(number) for number in range(2)] == [(0, "")] * 2


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_is_named_by_all_others(dead):
    with Job(3) as job:
        job.met()
        job[dead].kill()
        killed = time.monotonic()
        for number in {0, 1, 2} - {dead}:
            code, errors = job.ends(number)
            assert code == LOST_PEER
            assert f"process {dead} on host host{dead} (pid {job[dead].pid}) died" in errors
            assert f"error: process {number} on host" in errors
        assert time.monotonic() - killed < 10


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 2])
def test_a_process_that_hangs_is_named_within_the_bound(stopped):
    with Job(3, timeout=3.0) as job:
        job.met()
        time.sleep(0.5)
        job[stopped].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        for number in {0, 1, 2} - {stopped}:
            code, errors = job.ends(number)
            assert code == LOST_PEER
            assert f"process {stopped} on host host{stopped}" in errors
            assert "gave no sign of life for" in errors
        assert time.monotonic() - began < 3.0 + 2.0  # the bound, and a busy machine
        # Woken up, it finds that the others are gone.
        job[stopped].send_signal(signal.SIGCONT)
        assert job.ends(stopped)[0] == LOST_PEER


@pytest.mark.slow
def test_one_that_is_only_slow_is_not_lost():
    with Job(2, timeout=3.0) as job:
        job.met()
        for _ in range(3):
            job.say(1, "hold")
        time.sleep(3.5)
        job.say(0, "finish")
        job.say(1, "finish")
        assert [job.ends(number) for number in range(2)] == [(0, "")] * 2


def test_a_process_that_fails_says_so():
    with Job(3) as job:
        job.met()
        job.say(1, "fail")
        assert job.ends(1) == (1, "")
        for number in (0, 2):
            code, errors = job.ends(number)
            assert code == LOST_PEER
            assert "process 1 on host host1" in errors
            assert "failed, with exit code 1" in errors


@pytest.mark.slow
def test_processes_that_fail_alike_end_each_with_its_own_code():
    with Job(3) as job:
        job.met()
        for number in range(3):
            job.say(number, "fail")
        assert [job.ends(number) for number in range(3)] == [(1, "")] * 3


def test_who_is_missing_at_the_start_is_said():
    with Job(4, 0, 2, start=2.0) as job:
        for number in (0, 2):
            code, errors = job.ends(number)
            assert code == 1
            assert "processes 1, 3 of 4 did not come within 2 s" in errors
            assert "There are process 0 on host host0" in errors


def test_process_0_is_missing():
    with Job(2, 1, start=1.0) as job:
        code, errors = job.ends(1)
        assert code == 1
        assert f"process 1 on host host1 (pid {job[1].pid}) found nobody at 127.0.0.1:" in errors
        assert "within 1 s" in errors


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_before_all_have_met_ends_all(asked):
    others = {0, 1, 2} - {asked}
    with Job(3, *others, start=100.0) as job:
        job.running[asked] = job.start(asked, ASKED="1")
        for number in (0, 1, 2):
            code, errors = job.ends(number)
            assert code == 75, errors
            assert f"process {asked} on host host{asked} (pid {job[asked].pid}) was ended" in errors
            assert "by SIGINT while the processes came together. Run the same" in errors


def test_a_signal_to_one_ends_others_that_never_come_soon():
    with Job(3, 1, start=100.0) as job:
        job.running[0] = job.start(0, ASKED="1", ENDING="0.5")
        assert (job.ends(0)[0], job.ends(1)[0]) == (75, 75)


def test_a_signal_to_one_that_works_ends_all():
    with Job(3).met() as job:
        job[2].send_signal(signal.SIGTERM)
        ends = [job.ends(number) for number in range(3)]
    assert [code for code, _ in ends] == [75] * 3
    assert ends[2][1] == "ended by SIGTERM while working: run the same command again to go on\n"
    name = f"process 2 on host host2 (pid {job[2].pid})"
    assert f"{name} was ended by SIGTERM while working. Run the same command" in ends[1][1]


def test_a_second_one_with_the_same_number_is_refused():
    with Job(3, 0, 1, start=30.0) as job:
        time.sleep(1.0)
        job.running[4] = job.start(1)
        code, errors = job.ends(4)
        assert code == 1
        assert "is there already" in errors
        job.running[2] = job.start(2)
        del job.running[4]
        job.met()


def test_processes_of_other_jobs_are_turned_away():
    with Job(3, 0, 1, start=30.0) as job:
        job.running[4] = job.start(2, processes=5)
        job.running[5] = job.start(2, COMMAND="train --seed 1")
        for number, differs in (
            (4, "there are 5 processes, and process 0 says 3"),
            (5, "its command is 'train --seed 1', and here it is 'train'"),
        ):
            code, errors = job.ends(number)
            assert code == 2
            assert f"process 2 on host host2 (pid {job[number].pid}) wasn't started as" in errors
            assert differs in errors
            del job.running[number]
        job.running[2] = job.start(2)
        job.met()


def test_the_launchers_word_tells_jobs_apart():
    with Job(2, 1) as job:
        job.running[1].kill()
        job.running[1].communicate()
        job.running[0] = job.start(0, JOB="mine")
        job.running[1] = job.start(1, JOB="yours")
        code, errors = job.ends(1)
        assert code == 2
        assert "is of job 'yours', and process 0 on host host0 of 'mine'" in errors
        # Of the same job: that is no stranger, and ends all.
        job.running[1] = job.start(1, JOB="mine", COMMAND="train --seed 1")
        for number in range(2):
            code, errors = job.ends(number)
            assert code == 2
            assert "its command is 'train --seed 1', and here it is 'train'" in errors


@pytest.mark.slow
def test_one_that_comes_again_before_all_are_there_is_taken():
    with Job(3, 0, 1, start=30.0) as job:
        time.sleep(1.0)
        job[1].kill()
        job[1].communicate()
        job.running[1] = job.start(1)
        job.running[2] = job.start(2)
        job.met()


def test_a_stranger_does_no_harm():
    with Job(2, 0, start=30.0) as job:
        whole = {"process": 1, "host": "x", "pid": 1, "loopback": None, "processes": 2}
        identity = {"job": "", "command": ["train"], "versions": 3}
        for said in (
            *(b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"1\n", b"\xff" * 100_000, b""),
            *(b"[" * 20_000 + b"\n", b'{"process": 1, "host": "x", "pid": 1, "loopback": null}\n'),
            json.dumps(whole).encode() + b"\n",
            json.dumps({**whole, **identity}).encode() + b"\n",
            json.dumps({**whole, **identity, "process": "1"}).encode() + b"\n",
            b'{"asked": "process 1 was ended"}\n',
        ):
            stranger = socket.create_connection(("127.0.0.1", _ready(job.port)), timeout=5)
            with stranger, contextlib.suppress(OSError):  # it may hang up before all is said
                stranger.sendall(said)
        job.running[1] = job.start(1)
        job.met()
        job.say(0, "finish")
        job.say(1, "finish")
        assert job.ends(0) == (0, "")  # it didn't even notice


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b'{"port": 1}\n'], ids=str)
def test_a_stranger_in_the_place_of_process_0_is_no_peer(said):
    with socket.create_server(("127.0.0.1", 0)) as stranger, Job(2, 1) as job:
        job.port = stranger.getsockname()[1]
        job.running[1].kill()
        job.running[1].communicate()
        job.running[1] = job.start(1)
        connection, _ = stranger.accept()
        with connection:
            connection.sendall(said)
            code, errors = job.ends(1)
        assert code == 1
        assert f"what answers at 127.0.0.1:{job.port} isn't process 0 of this job" in errors


def _ready(port: int) -> int:
    """The port, as soon as somebody listens there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return port
        time.sleep(0.05)
    raise AssertionError("nobody listens")


def test_a_taken_port_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, Job(2, 1) as job:
        job.port = taken.getsockname()[1]
        job.running[0] = job.start(0)
        code, errors = job.ends(0)
        assert code == 1
        assert f"can't listen at 127.0.0.1:{job.port}: Address already in use" in errors


def test_the_launcher_is_gone():
    """Workers end when the other end of the launcher's pipe does."""
    reading, writing = os.pipe()
    code = (
        "import os, sys, time\n"
        "from jaxnet.cluster.line import Peer\n"
        "from jaxnet.cluster.watchdog import Watch\n"
        f"Watch(Peer(0, 'here', os.getpid()), 1, 30.0, launcher={reading}).start()\n"
        "print('watching', flush=True)\n"
        "time.sleep(60)\n"
    )
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[reading], **options) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.stdout.readline() == b"watching\n"
        assert process.poll() is None
        os.close(writing)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == LOST_PEER
    assert b"the launcher that started it is gone" in errors


def test_a_message_is_one_line_of_json():
    from jaxnet.cluster.line import Line

    here, there = socket.socketpair()
    with here, there:
        line = Line(here)
        there.sendall(b'{"a": 1}\n{"b"')
        assert line.receive() == [{"a": 1}]
        there.sendall(b": 2}\n")
        assert line.receive() == [{"b": 2}]
        line.send(alive=True)
        assert json.loads(there.recv(100)) == {"alive": True}
        there.close()
        assert line.receive() is None
