"""Two network namespaces as two hosts with a cable between them; Linux, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ADDRESSES = ("10.78.0.1", "10.78.0.2")
# A namespace of its own for the machine's name and for /etc/hosts, in which the names of both hosts
# stand for their addresses: processes are looked for under their host's name.
ENTER = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


def lacking() -> str:
    """Why there can't be two hosts here; empty if there can."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return "needs root"
    absent = [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name, path=PATH)]
    return f"{absent[0]} is absent" if absent else ""


@dataclass(frozen=True)
class Hosts:
    """Two hosts, `host1` and `host2`.

    Attributes:
        file: what they have as /etc/hosts.
        names: of their network namespaces; of the ends of the cable too.
    """

    file: Path
    names: tuple[str, str]

    def on(self, host: int, command: Sequence[str]) -> list[str]:
        """The words that run a command on host 0 or 1."""
        inside = ["nsenter", f"--net=/run/netns/{self.names[host]}", "unshare", "--uts", "--mount"]
        return [*inside, "bash", "-c", ENTER, "run", str(self.file), f"host{host + 1}", *command]

    def cut(self) -> None:
        """Pull the cable."""
        _ip("-n", self.names[0], "link", "set", self.names[0], "down")


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts, as long as the context lasts.

    Raises:
        RuntimeError: they can't be made here.
    """
    file = folder / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{a} host{n}" for n, a in enumerate(ADDRESSES, 1))]
    file.write_text("\n".join(lines) + "\n")
    one, two = (f"jxf{os.getpid()}{end}" for end in "ab")
    try:
        for name in (one, two):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        cable = ("type", "veth", "peer", "name", two, "netns", two)
        _ip("link", "add", one, "netns", one, *cable)
        for name, address in zip((one, two), ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "up")
        yield Hosts(file, (one, two))
    finally:
        for name in (one, two):
            subprocess.run(
                ["ip", "netns", "del", name],
                env={**os.environ, "PATH": PATH},
                stderr=subprocess.DEVNULL,
                check=False,
            )


def _ip(*words: str) -> None:
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(["ip", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
