"""Real launchers of clusters bring processes together, on one host and on two.

They come with Debian's packages slurm-wlm, munge and openmpi-bin, which CI installs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxnet.parallel.watchdog import LOST_PEER

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).parent / "cluster"
MEET = [sys.executable, "-m", "tests.parallel.meeting"]
HERE = socket.gethostname()


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is absent: apt-get install slurm-wlm munge openmpi-bin")
    if os.getuid() != 0:
        pytest.skip("clusters on one machine need root")


def start(words: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    """What a process that ends well printed, sorted."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return sorted(output.splitlines())


@pytest.fixture
def hosts(tmp_path) -> Iterator[Path]:
    """Two network namespaces as two hosts."""
    needs("ip", "nsenter", "unshare")
    folder, script = tmp_path / "hosts", str(CLUSTER / "hosts")
    try:
        made = subprocess.run([script, "up", str(folder)], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        yield folder
    finally:
        subprocess.run([script, "down", str(folder)], check=False)


def on(hosts: Path, host: str, *words: str) -> list[str]:
    return [str(CLUSTER / "hosts"), "run", str(hosts), host, *words]


@pytest.fixture
def slurm(tmp_path) -> Iterator[Path]:
    """The folder of a cluster, which is stopped at the end."""
    needs("slurmctld", "munged")
    yield tmp_path / "slurm"
    subprocess.run([str(CLUSTER / "slurm"), "stop", str(tmp_path / "slurm")], check=False)


def test_mpirun():
    needs("mpirun")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    lines = said(start([*mpirun, *MEET, "0"]))
    assert lines == [f"mpirun 0 {HERE} {HERE}", f"mpirun 1 {HERE} {HERE}"]


def test_srun(slurm):
    subprocess.run([str(CLUSTER / "slurm"), "start", str(slurm)], check=True, timeout=60)
    lines = said(start(["srun", "-n", "2", *MEET, "0"], SLURM_CONF=f"{slurm}/slurm.conf"))
    assert lines == [f"srun 0 {HERE} {HERE}", f"srun 1 {HERE} {HERE}"]


def test_srun_on_two_hosts(hosts, slurm):
    words = [str(CLUSTER / "slurm"), "start", str(slurm), str(hosts)]
    subprocess.run(words, check=True, timeout=60)
    srun = on(hosts, "host1", "srun", "-N", "2", "-n", "2", *MEET, "0")
    lines = said(start(srun, SLURM_CONF=f"{slurm}/slurm.conf"))
    assert lines == ["srun 0 host1 host2", "srun 1 host2 host1"]


def test_torchrun_variables_on_two_hosts(hosts):
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "host1"}
    started = [start(on(hosts, f"host{n + 1}", *MEET, "0"), **told, RANK=f"{n}") for n in range(2)]
    lines = [said(process) for process in started]
    assert lines == [["torchrun 0 host1 host2"], ["torchrun 1 host2 host1"]]


def test_a_cut_cable_ends_both_hosts(hosts):
    told = {"JAX_COORDINATOR_ADDRESS": "host1:23456", "JAX_NUM_PROCESSES": "2", "BOUND": "5"}
    started = [
        start(on(hosts, f"host{n + 1}", *MEET, "100"), **told, JAX_PROCESS_ID=f"{n}")
        for n in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("JAX_COORDINATOR_ADDRESS")
    subprocess.run([str(CLUSTER / "hosts"), "cut", str(hosts)], check=True)
    cut = time.monotonic()
    for number, process in enumerate(started):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == LOST_PEER
        other = 1 - number
        assert f"ends: process {other} on host host{other + 1} (pid " in errors
        assert "gave no sign of life" in errors
    assert time.monotonic() - cut < 5 + 1
