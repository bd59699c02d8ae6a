"""The launchers of clusters: each runs the command to the same result as one process.

They come with Debian's packages slurm-wlm, munge and openmpi-bin, which CI installs.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxnet.cluster.watchdog import LOST_PEER
from tests.parallel.jobs import ROOT, environment

pytestmark = pytest.mark.slow

CLUSTER = Path(__file__).parent / "cluster"
# Convolutions add up in another order in halves of a batch, and a step of Adam divides by it.
TOLERANCE = 1e-6


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is absent: apt-get install slurm-wlm munge openmpi-bin")
    if os.getuid() != 0:
        pytest.skip("clusters on one machine need root")


def command(folder: Path, *more: str) -> list[str]:
    words = ["--data", "digits", "--model", "mlp", "--epochs", "2", "--no-progress"]
    optimizer = ["--optimizer.name", "momentum", "--learning-rate", "0.01"]
    run = [sys.executable, "-m", "train.classify", *words, *optimizer, *more]
    return [*run, "--run-dir", str(folder)]


def done(words: list[str], **variables: str) -> str:
    """Run a command to its good end, and return what it printed."""
    finished = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def history(folder: Path) -> dict[str, list[float]]:
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def assert_equal(folder: Path, other: Path) -> None:
    got, expected = history(folder), history(other)
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], TOLERANCE, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The result of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done(command(folder))
    return folder


@pytest.fixture
def hosts(tmp_path) -> Iterator[Path]:
    """Two network namespaces as two hosts."""
    needs("ip", "nsenter", "unshare")
    folder = tmp_path / "hosts"
    script = str(CLUSTER / "hosts")
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


def start_slurm(folder: Path, *hosts: str) -> None:
    words = [str(CLUSTER / "slurm"), "start", str(folder), *hosts]
    subprocess.run(words, check=True, timeout=60)


def test_the_local_launcher(alone, tmp_path):
    words = ["-m", "jaxnet.launch", "--processes", "2", "--", *command(tmp_path / "run")]
    output = done([sys.executable, *words])
    assert output.count("test_accuracy") == 1
    assert_equal(tmp_path / "run", alone)


def test_mpirun(alone, tmp_path):
    needs("mpirun")
    output = done(
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *command(tmp_path / "run")]
    )
    assert output.count("test_accuracy") == 1
    assert_equal(tmp_path / "run", alone)


def test_srun(alone, slurm, tmp_path):
    start_slurm(slurm)
    srun = ["srun", "-n", "2", *command(tmp_path / "run")]
    output = done(srun, SLURM_CONF=f"{slurm}/slurm.conf")
    assert output.count("test_accuracy") == 1
    assert_equal(tmp_path / "run", alone)
    left_over = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost"}
    refused = subprocess.run(
        ["srun", "-n", "2", *command(tmp_path / "other")],
        cwd=ROOT,
        env=environment({"SLURM_CONF": f"{slurm}/slurm.conf", **left_over}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert refused.returncode == 2
    assert "unset WORLD_SIZE RANK, or SLURM_STEP_NUM_TASKS SLURM_PROCID" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_srun_on_two_hosts(alone, hosts, slurm, tmp_path):
    start_slurm(slurm, str(hosts))
    srun = ["srun", "-N", "2", "-n", "2", *command(tmp_path / "run")]
    output = done(on(hosts, "host1", *srun), SLURM_CONF=f"{slurm}/slurm.conf")
    assert output.count("test_accuracy") == 1
    assert_equal(tmp_path / "run", alone)


def start_on(hosts: Path, process: int, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        on(hosts, f"host{process + 1}", *words),
        cwd=ROOT,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def jax_variables(process: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": "host1:23456",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process),
    }


def torchrun_variables(process: int) -> dict[str, str]:
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "host1"}
    return {**told, "RANK": str(process)}


@pytest.mark.parametrize("variables", [jax_variables, torchrun_variables], ids=["jax", "torchrun"])
def test_two_hosts(variables, alone, hosts, tmp_path):
    words = command(tmp_path / "run")
    started = [start_on(hosts, process, *words, **variables(process)) for process in range(2)]
    outputs = []
    for process in started:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        outputs.append(output.count("test_accuracy"))
    assert outputs == [1, 0]
    assert_equal(tmp_path / "run", alone)


def test_a_cut_cable_ends_both_hosts(tmp_path, hosts):
    bound = {"JAXNET_PEER_TIMEOUT": "5"}
    words = command(tmp_path / "run", "--epochs", "5000", "--early-stopping.patience", "5000")
    started = [start_on(hosts, n, *words, **jax_variables(n), **bound) for n in range(2)]
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "history.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run([str(CLUSTER / "hosts"), "cut", str(hosts)], check=True)
    cut = time.monotonic()
    for number, process in enumerate(started):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == LOST_PEER, errors
        other = 1 - number
        assert f"process {other} on host host{other + 1}" in errors
    assert time.monotonic() - cut < 5 + 1
