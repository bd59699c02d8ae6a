"""Initialisation of a job with several processes, on one or many hosts.

`initialize()` detects whether a launcher started this process as one of several
(`jaxnet.cluster.detect`), waits until all have joined, and calls `jax.distributed.initialize`.
"""

from __future__ import annotations

import logging
import os
import socket

from jaxnet import ending
from jaxnet.cluster import preemption_notice
from jaxnet.cluster.addresses import is_loopback, loopback_of
from jaxnet.cluster.detect import Cluster as Cluster
from jaxnet.cluster.detect import Environ, maybe_number
from jaxnet.cluster.detect import detect as detect
from jaxnet.cluster.identity import own_identity
from jaxnet.cluster.line import Peer
from jaxnet.cluster.rendezvous import roll_call
from jaxnet.cluster.watchdog import Watch
from jaxnet.ending import leave_process
from jaxnet.errors import PeerError, UsageError

log = logging.getLogger("jaxnet")

PEER_TIMEOUT = "JAXNET_PEER_TIMEOUT"
PROGRESS_TIMEOUT = "JAXNET_PROGRESS_TIMEOUT"
START_TIMEOUT = "JAXNET_START_TIMEOUT"
# The file descriptor of a pipe from `jaxnet.launch`, to detect its end.
LAUNCHER = "JAXNET_LAUNCHER"
DEFAULT_PEER_TIMEOUT = 30.0
DEFAULT_START_TIMEOUT = 300.0
# The default time limit of a step, as a multiple of the peer timeout.
PROGRESS_FACTOR = 10


def _seconds(environ: Environ, name: str, usual: float) -> float:
    try:
        seconds = float(environ.get(name) or usual)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{name}: expected a number of seconds, got {environ.get(name)!r}")
    return seconds


def patience(environ: Environ = os.environ) -> float:
    """The time limit of a step in seconds, from `JAXNET_PROGRESS_TIMEOUT`.

    Raises:
        UsageError: it, or `JAXNET_PEER_TIMEOUT`, isn't a number of seconds.

    Example:
        >>> patience({}), patience({"JAXNET_PROGRESS_TIMEOUT": "60"})
        (300.0, 60.0)
    """
    usual = PROGRESS_FACTOR * _seconds(environ, PEER_TIMEOUT, DEFAULT_PEER_TIMEOUT)
    return _seconds(environ, PROGRESS_TIMEOUT, usual)


def initialize(environ: Environ = os.environ) -> Watch | None:
    """Join the other processes of this job, if a launcher started several.

    Call it before any other use of JAX; the entrypoints do. A single process imports nothing and
    loses no time.

    Args:
        environ: the launcher's variables, and timeouts in seconds: `JAXNET_PEER_TIMEOUT` (30)
            without a heartbeat of a peer, `JAXNET_START_TIMEOUT` (300) for all processes to join,
            and `JAXNET_PROGRESS_TIMEOUT` (10 times the first) for a live process to take a step;
            compiling, saving and others have multiples of it (`jaxnet.cluster.activity`).

    Returns:
        The watchdog of the other processes; call its `finish` at the end. None without others.

    Raises:
        UsageError: the launcher's variables are invalid, or the processes were started differently.
        PeerError: not all processes joined.
        EndedError: one of them was asked to end meanwhile.
    """
    cluster = detect(environ)
    pipe = maybe_number(environ, LAUNCHER)
    timeout = _seconds(environ, PEER_TIMEOUT, DEFAULT_PEER_TIMEOUT)
    if cluster is None:
        own = Peer(0, socket.gethostname(), os.getpid())
        return None if pipe is None else Watch(own, 1, timeout, launcher=pipe).start()
    host = socket.gethostname()
    me = Peer(cluster.process, host, os.getpid(), loopback_of(host))
    start = _seconds(environ, START_TIMEOUT, DEFAULT_START_TIMEOUT)
    identity = own_identity(cluster.job)
    with ending.deferring():  # the others have to be told first
        peers, address = roll_call(me, cluster.processes, cluster.coordinator, start, identity)
    _report([me, *peers])
    watch = Watch(me, cluster.processes, timeout, peers, pipe, patience(environ)).start()
    ending.at_once("joining the other processes", watch.ask)
    _join(cluster, address, timeout)
    return watch


def _join(cluster: Cluster, address: tuple[str, int], timeout: float) -> None:
    """Initialise `jax.distributed`, once all processes have joined."""
    import jax

    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    # JAX's heartbeat is a fallback: it would end the process without naming the lost one. On a busy
    # machine the heartbeat of a live process may be late, so it has ten times as long.
    patience = int(timeout) + 10
    where = f"{host}:{address[1]}"
    try:
        with preemption_notice.kept():
            jax.distributed.initialize(
                where,
                cluster.processes,
                cluster.process,
                local_device_ids=cluster.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=patience,
                heartbeat_timeout_seconds=10 * patience,
                shutdown_timeout_seconds=patience,
                coordinator_bind_address=where if is_loopback(address[0]) else None,
            )
    except RuntimeError as error:
        raise PeerError(f"jax.distributed at {where}: {str(error).splitlines()[0]}") from error


def _report(peers: list[Peer]) -> None:
    """Warn, in process 0, of hosts whose name resolves to a loopback address."""
    hosts = {peer.host: peer.loopback for peer in peers}
    if peers[0].process != 0 or len(hosts) == 1:
        return
    for host, loopback in hosts.items():
        if loopback:
            log.warning(
                "host %s: its own name resolves to %s, where no other host reaches it. On CPUs "
                "the processes connect to that address and never meet: let the name resolve to the "
                "host's address on the network, in /etc/hosts or in DNS.",
                host,
                loopback,
            )


def leave(watch: Watch, code: int, *, well: bool) -> None:
    """Leave the job: together with all others on success, immediately otherwise.

    Args:
        watch: the watchdog from `initialize`.
        code: the exit code of this process.
        well: whether the other processes finish, too.
    """
    if not watch.peers:
        return
    if not well:
        watch.fail(code)
        leave_process(code)
    watch.finish()
    import jax

    jax.distributed.shutdown()
    watch.close()
