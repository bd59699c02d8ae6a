"""How long a step takes at best, on machines that need not be at hand.

A roofline (Williams et al. 2009): arithmetic, the device's memory and the network each take a time
that no program can go below, and the longest of them binds. If the three overlap perfectly that is
the time of a step; if not at all it is their sum. Latency, the start of kernels and waiting for
data are left out: figures are bounds, not forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxnet.errors import UsageError
from jaxnet.plan.collectives import Collective


@dataclass(frozen=True)
class Machine:
    """A device, and the networks between devices; bytes, seconds, and each direction by itself.

    Attributes:
        name: for people.
        flops: operations a second by the type that is computed in, without sparsity.
        memory: bytes of a device.
        bandwidth: of its memory.
        near: how many devices the fast network connects: those of a host, or of a TPU pod.
        fast: bytes a second that a device sends to others near to it, in one ring.
        slow: bytes a second that a device sends beyond them.
        source: where the figures are from.
    """

    name: str
    flops: Mapping[str, float]
    memory: float
    bandwidth: float
    near: int
    fast: float
    slow: float
    source: str

    def rate(self, group: tuple[int, ...]) -> float:
        """The bytes a second that each device of a group sends in a ring through all of them.

        A group within reach of the fast network uses that. Beyond it each of the devices that are
        near to each other has a way out of its own, and rings go through all of them side by side,
        as NCCL lays them.

        Example:
            >>> h100 = MACHINES["h100"]
            >>> [h100.rate(tuple(range(0, 64, step))) / 1e9 for step in (1, 4, 8)]
            [400.0, 100.0, 50.0]
        """
        places = {device // self.near for device in group}
        if len(places) == 1:
            return self.fast
        return min(self.fast, len(group) / len(places) * self.slow)

    def seconds(self, collectives: Iterable[Collective]) -> float:
        """How long collectives take, one after the other."""
        return sum(one.moved / self.rate(one.group) for one in collectives)


MACHINES: Mapping[str, Machine] = {
    "h100": Machine(
        name="8 x H100 SXM a host",
        flops={"bf16": 989.4e12, "float32": 494.7e12},
        memory=80e9,
        bandwidth=3.35e12,
        near=8,
        fast=450e9,
        slow=50e9,
        source="NVIDIA H100 data sheet: BF16 1,979 and TF32 989 TFLOPS with sparsity, half without "
        "it; NVLink 900 GB/s in both directions; 400 Gb/s a GPU: DGX H100 data sheet, ConnectX-7",
    ),
    "a100": Machine(
        name="8 x A100 SXM 80 GB a host",
        flops={"bf16": 312e12, "float32": 156e12},
        memory=80e9,
        bandwidth=2.039e12,
        near=8,
        fast=300e9,
        slow=25e9,
        source="NVIDIA A100 80GB data sheet: BF16 312, TF32 156 TFLOPS; NVLink 600 GB/s in both "
        "directions; 200 Gb/s a GPU: DGX A100 data sheet, ConnectX-6",
    ),
    "v5e": Machine(
        name="TPU v5e, pods of 256",
        flops={"bf16": 197e12, "float32": 197e12},
        memory=16e9,
        bandwidth=819e9,
        near=256,
        fast=100e9,
        slow=3.125e9,
        source="Google Cloud, TPU v5e: 400 GB/s in both directions over the 4 ports of a 2-D "
        "torus, of which a ring uses 2; 6.4 Tb/s of data center network a pod",
    ),
    "v5p": Machine(
        name="TPU v5p, pods of 8,960",
        flops={"bf16": 459e12, "float32": 459e12},
        memory=95e9,
        bandwidth=2.765e12,
        near=8960,
        fast=200e9,
        slow=6.25e9,
        source="Google Cloud, TPU v5p: 1,200 GB/s in both directions over the 6 ports of a 3-D "
        "torus, of which a ring uses 2; 50 Gb/s of data center network a chip",
    ),
}
"""By name. `float32` is what JAX's default precision makes of products of float32 matrices there:
TF32 on GPUs, one pass of bfloat16 on TPUs."""


@dataclass(frozen=True)
class Time:
    """Lower bounds of a step's time in seconds.

    Attributes:
        compute: of the arithmetic.
        memory: of the traffic to and from the device's own memory.
        network: of what devices send to each other.
    """

    compute: float
    memory: float
    network: float

    @property
    def binds(self) -> str:
        """What takes longest: `"compute"`, `"memory"` or `"network"`."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))

    @property
    def overlapped(self) -> float:
        """The step, if all three go on at the same time."""
        return max(self.compute, self.memory, self.network)

    @property
    def one_by_one(self) -> float:
        """The step, if nothing overlaps."""
        return self.compute + self.memory + self.network


def step_time(
    machine: Machine,
    flops: float,
    memory_bytes: float,
    collectives: Iterable[Collective],
    precision: str = "float32",
) -> Time:
    """The bounds of a step on one of many like devices.

    Args:
        machine: what it runs on.
        flops: operations of a device in a step.
        memory_bytes: what a device reads from and writes to its memory in a step.
        collectives: those of a step.
        precision: the type that is computed in.

    Raises:
        UsageError: the machine has no figure for the type, or a number is negative.

    Example:
        >>> time = step_time(MACHINES["h100"], 494.7e12, 3.35e12 / 2, [])
        >>> time.compute, time.memory, time.binds
        (1.0, 0.5, 'compute')
    """
    if precision not in machine.flops:
        known = ", ".join(machine.flops)
        raise UsageError(f"{machine.name}: no figure for {precision}; known: {known}")
    if not (math.isfinite(flops) and flops >= 0 and memory_bytes >= 0):
        raise UsageError(f"expected flops and bytes of at least 0, got {flops}, {memory_bytes}")
    return Time(
        compute=flops / machine.flops[precision],
        memory=memory_bytes / machine.bandwidth,
        network=machine.seconds(collectives),
    )
