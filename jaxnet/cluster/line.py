"""Connections between the processes of a job: JSON messages, one per line."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

# A message is a short line; whoever sends more isn't one of us.
MOST_BYTES = 1 << 16


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
    """A connection that carries JSON messages, one per line."""

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

    def send_no_more(self) -> None:
        """Tell the other end that nothing follows."""
        with self._sending, suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def drain(self, deadline: float) -> None:
        """Read, and throw away, until the other end sends no more either.

        Args:
            deadline: when to give up, by `time.monotonic`.
        """
        with suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.socket.recv(4096):
                    return

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages received; None if the other end has closed the connection.

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
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("too deep for a message") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("no message")
        return messages
