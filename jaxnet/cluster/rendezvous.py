"""The roll call: all processes of a job meet before anything else.

Process 0 listens at the coordinator's address and every other process connects to it and says who
it is, so that whoever doesn't come is known by name. The connections stay: over them the processes
watch each other (`jaxnet.cluster.watchdog`).
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jaxnet import ending
from jaxnet.cluster.addresses import free_port, listen
from jaxnet.cluster.identity import Identity
from jaxnet.cluster.line import Line, Peer
from jaxnet.errors import EndedError, PeerError, UsageError

# How often to try to reach process 0, which may start later.
RETRY_SECONDS = 0.1
CONNECT_SECONDS = 1.0
# From here on, process 0 says for whom it is waiting.
PATIENT_SECONDS = 10.0
# After it turned away a process that may be another job's, process 0 waits so long for the right
# one.
REFUSED_SECONDS = 30.0
# Where one was asked to end, so long the others may take to come and hear of it.
ENDING_SECONDS = 10.0

_ELSEWHERE = "Choose another port, with JAX_COORDINATOR_ADDRESS=HOST:PORT"
_ALIKE = (
    "Start all processes of a job alike; if this is another job's, choose another port, with "
    "JAX_COORDINATOR_ADDRESS=HOST:PORT; and if the commands of one job have to differ, set "
    "JAXNET_JOB to the same word for all of them"
)

_ANY = Identity()


def roll_call(
    me: Peer,
    processes: int,
    address: tuple[str, int],
    start_timeout: float,
    identity: Identity = _ANY,
) -> tuple[dict[Peer, Line], tuple[str, int]]:
    """Bring all processes of a job together.

    Args:
        me: this process.
        processes: how many there are.
        address: where process 0 listens.
        start_timeout: how many seconds to wait for the others.
        identity: by which the processes of this job know each other.

    Returns:
        The connections, to all others in process 0 and to process 0 in the others, and the address
        for JAX's own service, on a port that process 0 found free.

    Raises:
        PeerError: not all came, and the message says who is missing; or process 0 can't listen.
        UsageError: they weren't started alike, or this one belongs to another job.
        EndedError: a process was asked to end; the others hear of it.
    """
    if me.process == 0:
        peers = _Call(me, processes, identity, start_timeout).answered(address)
        port = free_port(address[0])
        for line in peers.values():
            line.send(port=port, host=me.host, pid=me.pid)
        return peers, (address[0], port)
    return _answer(me, processes, address, start_timeout, identity)


@dataclass
class _Call:
    """Process 0's part: listen until all others have said who they are.

    Attributes:
        me: process 0.
        processes: how many there are.
        identity: that of this job.
        start_timeout: how many seconds to wait for the others.
        peers: who is there.
        refused: who was turned away, and may have been meant, by number: in what it differed.
        asked: which process was asked to end, by which signal, in words.
    """

    me: Peer
    processes: int
    identity: Identity
    start_timeout: float
    peers: dict[Peer, Line] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    asked: str = ""
    _refused_at: float = 0.0

    def answered(self, address: tuple[str, int]) -> dict[Peer, Line]:
        """All others, in the order of their numbers."""
        deadline = time.monotonic() + self.start_timeout
        patient = time.monotonic() + PATIENT_SECONDS
        with listen(address) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ, None)
            while absent := _absent(self.peers, self.processes):
                self.asked = self.asked or _asked(self.me)
                if self.asked:
                    deadline = min(deadline, time.monotonic() + ENDING_SECONDS)
                self._check(absent, deadline)
                if patient and time.monotonic() > patient:
                    patient = 0.0
                    self._say(f"{self.me} is waiting for {_numbers(absent)} of {self.processes}")
                for key, _ in selector.select(0.5):
                    if key.data is None:
                        with suppress(OSError):  # gone again
                            line = Line(listener.accept()[0])
                            selector.register(line.socket, selectors.EVENT_READ, line)
                    elif not self._introduced(key.data):
                        selector.unregister(key.fileobj)
                        key.data.socket.close()
        if self.asked:
            self._end_all()
        return dict(sorted(self.peers.items()))

    def _check(self, absent: list[int], deadline: float) -> None:
        """Give up where those that are absent won't come any more."""
        now = time.monotonic()
        if self.asked and now > deadline:
            self._end_all()
        wrong = [self.refused[number] for number in absent if number in self.refused]
        if wrong and now > min(deadline, self._refused_at + REFUSED_SECONDS):
            self._end(UsageError("; ".join(wrong)))
        if now > deadline:
            self._end(PeerError(_missing(self.me, self.peers, self.processes, self.start_timeout)))

    def _end(self, error: PeerError | UsageError) -> NoReturn:
        for line in self.peers.values():
            line.send(refused=str(error), usage=isinstance(error, UsageError))
        raise error

    def _end_all(self) -> NoReturn:
        """All end because one was asked to."""
        for line in self.peers.values():
            line.send(asked=self.asked)
        raise _ended(self.me, self.asked)

    def _introduced(self, line: Line) -> bool:
        """Note who has connected; False for somebody who isn't wanted or is gone again."""
        try:
            messages = line.receive()
            if messages is None:  # it may come again
                for peer in [peer for peer, its in self.peers.items() if its is line]:
                    del self.peers[peer]
                return False
            if line in self.peers.values():
                self._hear(messages)
                return True
            if not messages:
                return True
            peer, its_processes, its = _introduction(messages[0])
        except (ValueError, KeyError, TypeError, AttributeError):
            return False  # no process of jaxnet
        if self.identity.knows(its) and its.job != self.identity.job:
            where = f"process 0 on host {self.me.host}"
            text = (
                f"{peer} is of job {its.job!r}, and {where} of {self.identity.job!r}. {_ELSEWHERE}"
            )
            line.send(refused=text, usage=True)
            return False
        if peer.process in {other.process for other in self.peers}:
            known = next(other for other in self.peers if other.process == peer.process)
            line.send(refused=f"{known} is there already, and {peer} came as the same one")
            return False
        found = self.identity.differences(its)
        if its_processes != self.processes or not 0 < peer.process < self.processes:
            found.append(
                f"it says that there are {its_processes} processes, and process 0 says "
                f"{self.processes}"
            )
        if found:
            self._refuse(peer, line, found, sure=self.identity.knows(its))
            return False
        self.peers[peer] = line
        self._hear(messages)
        return True

    def _hear(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """What one that is known says: that it was asked to end."""
        for message in messages:
            self.asked = self.asked or str(message.get("asked", ""))

    def _refuse(self, peer: Peer, line: Line, found: list[str], sure: bool) -> None:
        """Turn away a process that wasn't started as this one was.

        Args:
            peer: who it is.
            line: the connection to it.
            found: in what it differs.
            sure: whether it is of this job. Otherwise it may be of another one, and the right one
                may come yet.
        """
        text = f"{peer} wasn't started as {self.me} was: {'; '.join(found)}. "
        text += "Start all processes of a job alike" if sure else _ALIKE
        line.send(refused=text, usage=True)
        if sure:
            self._end(UsageError(text))
        if peer.process not in self.refused:
            self._say(f"turned away: {text}")
        self.refused[peer.process], self._refused_at = text, time.monotonic()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _introduction(message: Mapping[str, Any]) -> tuple[Peer, int, Identity]:
    """Who somebody says it is, the number of processes that it knows of, and its job.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it isn't a process of jaxnet.
    """
    peer = Peer(**{name: message[name] for name in Peer._fields})
    numbers = peer.process, peer.pid, message["processes"]
    if not all(type(number) is int for number in numbers) or not isinstance(peer.host, str):
        raise TypeError("no process of jaxnet")
    return peer, message["processes"], Identity.from_json(message)


def _answer(
    me: Peer, processes: int, address: tuple[str, int], start_timeout: float, identity: Identity
) -> tuple[dict[Peer, Line], tuple[str, int]]:
    """Another process: find process 0, say who this is, and wait until all are there."""
    deadline = time.monotonic() + start_timeout
    line = Line(_connect(me, address, deadline, start_timeout))
    # What it was asked before comes along: process 0 may hear no more when all have come.
    said = _asked(me)
    line.send(**me._asdict(), processes=processes, **identity.to_json(), asked=said)
    where = f"{address[0]}:{address[1]}"
    deadline = time.monotonic() + ENDING_SECONDS if said else deadline
    # Process 0 waits as long as this one, and knows better who is missing.
    while time.monotonic() < deadline + PATIENT_SECONDS:
        if not said and (asked := _asked(me)):
            line.send(asked=asked)
            said, deadline = asked, time.monotonic() + ENDING_SECONDS
        try:
            messages = line.receive()
            if messages is None:
                raise PeerError(f"{me}: process 0 at {where} ended before all processes had come")
            answers = [_reply(message, me) for message in messages]
        except (ValueError, KeyError, TypeError):
            raise PeerError(
                f"{me}: what answers at {where} isn't process 0 of this job. Another program "
                "listens there: choose another port, with JAX_COORDINATOR_ADDRESS=HOST:PORT"
            ) from None
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            zero, port = answer
            return {zero: line}, (address[0], port)
    if said:
        raise _ended(me, said)
    raise PeerError(f"{me}: process 0 at {where} answered, and then said nothing more")


def _reply(message: Mapping[str, Any], me: Peer) -> tuple[Peer, int] | Exception:
    """What process 0 says to one that came: its own name and the port for JAX, or why not."""
    if "asked" in message:
        return _ended(me, message["asked"])
    if "refused" in message:
        refusal = UsageError if message.get("usage") else PeerError
        return refusal(f"{me} ends: {message['refused']}")
    return Peer(0, message["host"], message["pid"]), int(message["port"])


def _connect(
    me: Peer, address: tuple[str, int], deadline: float, start_timeout: float
) -> socket.socket:
    while True:
        try:
            return socket.create_connection(address, timeout=CONNECT_SECONDS)
        except OSError as error:
            if asked := _asked(me):
                deadline = min(deadline, time.monotonic() + ENDING_SECONDS)
            if asked and time.monotonic() > deadline:
                raise _ended(me, asked) from error
            if time.monotonic() > deadline:
                host, port = address
                raise PeerError(
                    f"{me} found nobody at {host}:{port} within {start_timeout:.0f} s: "
                    f"{error.strerror or error}. Process 0 should listen there: look whether it "
                    f"was started, and whether this host may reach port {port} of {host}"
                ) from error
            time.sleep(RETRY_SECONDS)


def _asked(me: Peer) -> str:
    """That this process was asked to end, if it was."""
    name = ending.requested()
    return f"{me} was ended by {name} while the processes came together" if name else ""


def _ended(me: Peer, asked: str) -> EndedError:
    again = ending.AGAIN.capitalize()
    return EndedError(f"{me} ends: {asked}. {again}")


def _absent(peers: Mapping[Peer, Line], processes: int) -> list[int]:
    return sorted(set(range(1, processes)) - {peer.process for peer in peers})


def _numbers(processes: list[int]) -> str:
    """Example: `process 2`, `processes 2, 3, 5`."""
    return f"process{'es' * (len(processes) > 1)} {', '.join(map(str, processes))}"


def _missing(me: Peer, peers: Mapping[Peer, Line], processes: int, start_timeout: float) -> str:
    there = ", ".join(map(str, [me, *sorted(peers)]))
    absent = _absent(peers, processes)
    return (
        f"{_numbers(absent)} of {processes} did not come within {start_timeout:.0f} s. "
        f"There are {there}. Look at what the missing {'ones' if len(absent) > 1 else 'one'} "
        "printed, and whether its host may reach this one"
    )
