"""Addresses at which the processes of a job can meet."""

from __future__ import annotations

import ipaddress
import socket

from jaxnet.errors import PeerError


def listen(address: tuple[str, int]) -> socket.socket:
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


def free_port(host: str) -> int:
    """A free port at that address."""
    with listen((host, 0)) as listener:
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
    """The loopback address that a host name resolves to, or None.

    Example:
        >>> loopback_of("127.0.1.1"), loopback_of("192.0.2.1")
        ('127.0.1.1', None)
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except OSError:
        return None
    return next((a for a in found if a.startswith("127.") or a == "::1"), None)
