"""A process of a job that meets the others and leaves with them, without JAX.

python -m tests.parallel.meeting SECONDS
"""

from __future__ import annotations

import os
import socket
import sys
import time

from jaxnet.parallel.cluster import detect
from jaxnet.parallel.roll_call import Peer, loopback_of, roll_call
from jaxnet.parallel.watchdog import Watch


def main() -> None:
    """Meet, say who is there, stay a while, and leave."""
    cluster = detect()
    if cluster is None:
        sys.exit("alone")
    host = socket.gethostname()
    me = Peer(cluster.process, host, os.getpid(), loopback_of(host))
    peers, _ = roll_call(me, cluster.processes, cluster.coordinator, 60)
    print(cluster.launcher, me.process, host, *(peer.host for peer in peers), flush=True)
    watch = Watch(me, cluster.processes, float(os.environ.get("BOUND", "60")), peers).start()
    time.sleep(float(sys.argv[1]))
    watch.finish()


if __name__ == "__main__":
    main()
