"""Which releases of JAX may be used: the one list, for `doctor`, `Trainer.fit`, the tests and CI.

pyproject.toml has to repeat it as requirements, and a test compares the two.

Each fault was tried with the reproducer of its issue, on two cores: 0.10.0, 0.10.1, 0.11.0, 0.11.2,
0.12.0 and 0.12.0.1 have neither.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Literal

log = logging.getLogger("jaxnet")

OLDEST = "0.10.1"
"""The oldest release that is tested."""

TRIED: tuple[tuple[tuple[int, int], str], ...] = (((3, 12), "0.12.0.1"), ((3, 11), "0.10.1"))
"""The newest good release that was tried, by the oldest Python that it runs on."""


@dataclass(frozen=True)
class Fault:
    """A release that isn't to be used.

    Attributes:
        version: of jaxlib; jax of the same version goes with it.
        kind: `"wrong"` for wrong numbers, `"slow"` for what takes many times as long.
        what: what goes wrong.
        issue: where it was published: `OWNER/REPOSITORY#NUMBER`.
        platform: the JAX platform that it is wrong on.
    """

    version: str
    kind: Literal["wrong", "slow"]
    what: str
    issue: str
    platform: str = "cpu"


FAULTS = (
    Fault(
        "0.10.2",
        "wrong",
        "computes wrong numbers on processors: a matrix-vector product under vmap, squared and "
        "summed, is wrong from 32,769 rows on",
        "jax-ml/jax#39103",
    ),
    Fault(
        "0.11.1",
        "slow",
        "copies the whole buffer at each small write within a loop, such as a step's metrics "
        "(5 seconds in place of a millisecond for 100,000 steps)",
        "jax-ml/jax#40101",
    ),
)


def fault(jaxlib: str) -> Fault | None:
    """Why a version of jaxlib isn't to be used; None for one that may.

    Example:
        >>> fault("0.10.2").issue, fault("0.10.1")
        ('jax-ml/jax#39103', None)
    """
    return next((each for each in FAULTS if each.version == jaxlib), None)


def requirement(package: str) -> str:
    """What pyproject.toml has to say of `jax`, `jaxlib` or `jax[cuda13]`.

    Example:
        >>> requirement("jax")
        'jax>=0.10.1,!=0.10.2,!=0.11.1'
    """
    return f"{package}>={OLDEST}" + "".join(f",!={each.version}" for each in FAULTS)


def advised(python: str | None = None) -> str:
    """The release to install for a version of Python, by default that of this process.

    Example:
        >>> advised("3.11.7"), advised("3.13.0")
        ('0.10.1', '0.12.0.1')
    """
    running = sys.version_info[:2] if python is None else release(python)
    return next((version for needed, version in TRIED if running >= needed), TRIED[-1][1])


def install(extra: str | None = None, python: str | None = None) -> str:
    """The command that installs the advised release.

    Args:
        extra: that of JAX which the devices need, such as `"cuda13"`.
        python: as in `advised`.
    """
    version = advised(python)
    name = f"'jax[{extra}]=={version}'" if extra else f"jax=={version}"
    return f"pip install {name} jaxlib=={version}"


def release(version: str, parts: int = 2) -> tuple[int, ...]:
    """The first numbers of a version.

    Example:
        >>> release("0.10.2"), release("0.12.0.1", 4)
        ((0, 10), (0, 12, 0, 1))
    """
    return tuple(int(part) for part in version.split(".")[:parts] if part.isdigit())


@cache
def warn(platform: str, jaxlib: str | None = None) -> None:
    """Log a warning, once a process, where jaxlib isn't to be used.

    Args:
        platform: the JAX platform that computes, such as `"cpu"`.
        jaxlib: the version; by default the installed one.
    """
    found = fault(metadata.version("jaxlib") if jaxlib is None else jaxlib)
    if found and found.platform == platform:
        log.warning(
            "jaxlib %s %s (%s). Install another one: %s",
            found.version,
            found.what,
            found.issue,
            install(),
        )
