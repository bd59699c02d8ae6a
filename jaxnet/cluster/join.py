"""Several processes, on one host or many, as one program.

`initialize()` finds out whether a launcher started this process as one of several
(`jaxnet.cluster.detect`), brings all of them together and hands over to `jax.distributed`.
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
# The file descriptor of a pipe whose other end `jaxnet.launch` holds.
LAUNCHER = "JAXNET_LAUNCHER"
DEFAULT_PEER_TIMEOUT = 30.0
DEFAULT_START_TIMEOUT = 300.0
# A step may take so many times as long as a peer may be silent, where nothing else is said.
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
    """How many seconds a step may take, by `JAXNET_PROGRESS_TIMEOUT`.

    Raises:
        UsageError: that, or `JAXNET_PEER_TIMEOUT`, is no number of seconds.

    Example:
        >>> patience({}), patience({"JAXNET_PROGRESS_TIMEOUT": "60"})
        (300.0, 60.0)
    """
    usual = PROGRESS_FACTOR * _seconds(environ, PEER_TIMEOUT, DEFAULT_PEER_TIMEOUT)
    return _seconds(environ, PROGRESS_TIMEOUT, usual)


def initialize(environ: Environ = os.environ) -> Watch | None:
    """Join the other processes of this job, if a launcher started several.

    Call it before anything else of JAX; the entrypoints do. A process that is alone imports
    nothing and loses no time.

    Args:
        environ: what the launcher set, and how many seconds to wait: `JAXNET_PEER_TIMEOUT` (30) for
            a peer that gives no sign of life, `JAXNET_START_TIMEOUT` (300) for one to come, and
            `JAXNET_PROGRESS_TIMEOUT` (10 times the first) for one that lives to take a step;
            compiling, saving and the like may last some times as long (`jaxnet.cluster.activity`).

    Returns:
        What watches the others; call its `finish` at the end. None where there is nobody to watch.

    Raises:
        UsageError: the launcher's variables can't be, or the processes weren't started alike.
        PeerError: not all processes came.
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
    with ending.deferring():  # the others have to hear of it
        peers, address = roll_call(me, cluster.processes, cluster.coordinator, start, identity)
    _report([me, *peers])
    watch = Watch(me, cluster.processes, timeout, peers, pipe, patience(environ)).start()
    ending.at_once("joining the other processes", watch.ask)
    _join(cluster, address, timeout)
    return watch


def _join(cluster: Cluster, address: tuple[str, int], timeout: float) -> None:
    """Hand over to JAX, all of whose processes are there."""
    import jax

    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    # JAX's own heartbeat is the second line: by itself it ends the process without naming anyone.
    # That of a live process may come late on a busy machine, so it has ten times as long.
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
    """Process 0 says which hosts would be looked for on themselves."""
    hosts = {peer.host: peer.loopback for peer in peers}
    if peers[0].process != 0 or len(hosts) == 1:
        return
    for host, loopback in hosts.items():
        if loopback:
            log.warning(
                "host %s: its own name stands for %s, where no other host reaches it. On CPUs "
                "the processes connect to that address and never meet: give the name the host's "
                "address on the network, in /etc/hosts or in DNS.",
                host,
                loopback,
            )


def leave(watch: Watch, code: int, *, well: bool) -> None:
    """Leave the job: with all others where all went well, at once where not.

    Args:
        watch: what `initialize` returned.
        code: the exit code of this process.
        well: whether the others have come to their end too, or are going to.
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
