from __future__ import annotations

import pytest

from jaxnet.errors import UsageError
from jaxnet.plan.collectives import Collective
from jaxnet.plan.roofline import MACHINES, Time, step_time

H100 = MACHINES["h100"]


@pytest.mark.parametrize(
    "group, rate",
    [
        (range(8), 450e9),  # within a host
        (range(16), 400e9),  # 8 ways out of each host
        (range(0, 64, 8), 50e9),  # one of each of 8 hosts
        (range(0, 16, 4), 100e9),  # 2 of each of 2 hosts
        ((7, 8), 50e9),  # neighbours, in two hosts
    ],
)
def test_the_rate_of_a_group_is_that_of_the_narrowest_way_through_it(group, rate):
    assert H100.rate(tuple(group)) == rate


def test_a_step_by_hand():
    # 1 GB all-reduced within a host: 1.75 GB through 450 GB/s, and 1 GB handed on to another host.
    sent = [
        Collective("all-reduce", 10**9, tuple(range(8))),
        Collective("collective-permute", 10**9, (0, 8), 2),
    ]
    time = step_time(H100, 989.4e12 / 4, 3.35e12 / 2, sent, "bf16")
    assert time.compute == pytest.approx(0.25)
    assert time.memory == pytest.approx(0.5)
    assert time.network == pytest.approx(1.75 / 450 + 2 / 50)
    assert (time.binds, time.overlapped) == ("memory", pytest.approx(0.5))
    assert time.one_by_one == pytest.approx(0.75 + 1.75 / 450 + 2 / 50)


def test_what_binds_is_the_longest():
    assert Time(3.0, 2.0, 1.0).binds == "compute"
    assert Time(1.0, 2.0, 3.0).binds == "network"


def test_figures_of_machines_are_of_the_right_size():
    for machine in MACHINES.values():
        assert set(machine.flops) == {"bf16", "float32"} and machine.source
        assert machine.flops["float32"] <= machine.flops["bf16"]
        assert machine.slow < machine.fast < machine.bandwidth < min(machine.flops.values())


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="no figure for fp64; known: bf16, float32"):
        step_time(H100, 1.0, 1.0, [], "fp64")
    with pytest.raises(UsageError, match="at least 0"):
        step_time(H100, -1.0, 1.0, [])
