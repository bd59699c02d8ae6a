"""The roll call: all processes of a job meet before anything else.

Process 0 listens at the coordinator's address and every other process connects to it and says who
it is, so that whoever doesn't come is known by name. The connections stay: over them the processes
watch each other (`jaxnet.parallel.watchdog`).
"""

from __future__ import annotations

import ipaddress
import json
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from jaxnet.errors import PeerError

# A message is a short line; whoever sends more isn't one of us.
MOST_BYTES = 1 << 16
# How often to try to reach process 0, which may start later.
RETRY_SECONDS = 0.1
CONNECT_SECONDS = 1.0
# From here on, process 0 says for whom it is waiting.
PATIENT_SECONDS = 10.0


class Peer(NamedTuple):
    """A process as its peers know it.

    Attributes:
        process: its number in the job.
        host: the name of its machine.
        pid: its number on that machine.
        loopback: the address that its host's own name stands for, if that is a loopback address.
    """

    process: int
    host: str
    pid: int
    loopback: str | None = None

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host} (pid {self.pid})"


class Line:
    """JSON messages over a connection, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        # A peer that reads nothing must not hold up the one that writes.
        connection.settimeout(1.0)
        self.socket = connection
        self._received = b""
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Send a message; that it can't arrive is found out by whoever listens."""
        with self._sending, suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None where the other end is gone.

        Raises:
            ValueError: that is no message.
        """
        try:
            received = self.socket.recv(4096)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not received:
            return None
        *lines, self._received = (self._received + received).split(b"\n")
        if len(self._received) > MOST_BYTES:
            raise ValueError("too long for a message")
        return [dict(json.loads(line)) for line in lines]


def roll_call(
    me: Peer, processes: int, address: tuple[str, int], start_timeout: float
) -> tuple[dict[Peer, Line], tuple[str, int]]:
    """Bring all processes of a job together.

    Args:
        me: this process.
        processes: how many there are.
        address: where process 0 listens.
        start_timeout: how many seconds to wait for the others.

    Returns:
        The connections, to all others in process 0 and to process 0 in the others, and the address
        for JAX's own service, on a port that process 0 found free.

    Raises:
        PeerError: not all came, and the message says who is missing; or process 0 can't listen.
    """
    if me.process == 0:
        peers = _call(me, processes, address, start_timeout)
        port = _free_port(address[0])
        for line in peers.values():
            line.send(port=port, host=me.host, pid=me.pid)
        return peers, (address[0], port)
    return _answer(me, processes, address, start_timeout)


def _call(
    me: Peer, processes: int, address: tuple[str, int], start_timeout: float
) -> dict[Peer, Line]:
    """Process 0: listen until all others have said who they are."""
    deadline, patient = time.monotonic() + start_timeout, time.monotonic() + PATIENT_SECONDS
    peers: dict[Peer, Line] = {}
    with _listen(address) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ, None)
        while len(peers) < processes - 1:
            if time.monotonic() > deadline:
                text = _missing(me, peers, processes, start_timeout)
                for line in peers.values():
                    line.send(refused=text)
                raise PeerError(text)
            if patient and time.monotonic() > patient:
                patient = 0.0
                names = _numbers(_absent(peers, processes))
                print(f"{me} is waiting for {names} of {processes}", file=sys.stderr, flush=True)
            for key, _ in selector.select(0.5):
                if key.data is None:
                    line = Line(listener.accept()[0])
                    selector.register(line.socket, selectors.EVENT_READ, line)
                elif not _introduced(key.data, peers, processes):
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
    return dict(sorted(peers.items()))


def _introduced(line: Line, peers: dict[Peer, Line], processes: int) -> bool:
    """Note who has connected; False for somebody who isn't wanted or is gone again."""
    try:
        messages = line.receive()
        if messages is None:  # it may come again
            for peer in [peer for peer, its in peers.items() if its is line]:
                del peers[peer]
            return False
        if not messages:
            return True
        said = messages[0]
        peer = Peer(**{name: said[name] for name in Peer._fields})
        number = int(peer.process)
    except (ValueError, KeyError, TypeError):
        return False
    known = next((other for other in peers if other.process == number), None)
    if known is not None:
        line.send(refused=f"{known} is there already, and {peer} came as the same one")
        return False
    if said["processes"] != processes or not 0 < number < processes:
        line.send(
            refused=f"{peer} says that there are {said['processes']} processes, and process 0 "
            f"says {processes}. Start all of them with the same numbers"
        )
        return False
    peers[peer] = line
    return True


def _answer(
    me: Peer, processes: int, address: tuple[str, int], start_timeout: float
) -> tuple[dict[Peer, Line], tuple[str, int]]:
    """Another process: find process 0, say who this is, and wait until all are there."""
    deadline = time.monotonic() + start_timeout
    line = Line(_connect(me, address, deadline, start_timeout))
    line.send(**me._asdict(), processes=processes)
    where = f"{address[0]}:{address[1]}"
    # Process 0 waits as long as this one, and knows better who is missing.
    while time.monotonic() < deadline + PATIENT_SECONDS:
        try:
            messages = line.receive()
        except ValueError:
            raise PeerError(
                f"{me}: what answers at {where} isn't process 0 of this job. Another program "
                "listens there: choose another port, with JAX_COORDINATOR_ADDRESS=HOST:PORT"
            ) from None
        if messages is None:
            raise PeerError(f"{me}: process 0 at {where} ended before all processes had come")
        for message in messages:
            if "refused" in message:
                raise PeerError(f"{me} ends: {message['refused']}")
            if "port" in message:
                zero = Peer(0, message["host"], message["pid"])
                return {zero: line}, (address[0], message["port"])
    raise PeerError(f"{me}: process 0 at {where} answered, and then said nothing more")


def _connect(
    me: Peer, address: tuple[str, int], deadline: float, start_timeout: float
) -> socket.socket:
    while True:
        try:
            return socket.create_connection(address, timeout=CONNECT_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                host, port = address
                raise PeerError(
                    f"{me} found nobody at {host}:{port} within {start_timeout:.0f} s: "
                    f"{error.strerror or error}. Process 0 should listen there: look whether it "
                    f"was started, and whether this host may reach port {port} of {host}"
                ) from error
            time.sleep(RETRY_SECONDS)


def _listen(address: tuple[str, int]) -> socket.socket:
    """A listening socket; one for this machine alone where the address is a loopback one."""
    host, port = address
    try:
        if is_loopback(host):
            return socket.create_server((str(loopback_of(host)), port))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise PeerError(
            f"process 0 can't listen at {host}:{port}: {error.strerror or error}. Another job may "
            "be there: choose another port in JAX_COORDINATOR_ADDRESS"
        ) from error


def _free_port(host: str) -> int:
    with _listen((host, 0)) as listener:
        return listener.getsockname()[1]


def is_loopback(host: str) -> bool:
    """Whether an address means the machine itself on every machine.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("192.0.2.1")
        (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def loopback_of(host: str) -> str | None:
    """The loopback address that a host's name stands for, if it does.

    Example:
        >>> loopback_of("127.0.1.1"), loopback_of("192.0.2.1")
        ('127.0.1.1', None)
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except OSError:
        return None
    return next((a for a in found if a.startswith("127.") or a == "::1"), None)


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
