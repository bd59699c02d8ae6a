"""Machines that aren't at hand, as facts."""

from __future__ import annotations

import pytest

from jaxnet.doctor import checks
from jaxnet.doctor.facts import (
    Arithmetic,
    Cache,
    Device,
    Disk,
    Gpu,
    Hardware,
    Host,
    Jax,
    Launch,
    Names,
    Versions,
    Wrong,
)

LIBRARIES = {"jax": "0.10.1", "jaxlib": "0.10.1", "flax": "0.12.8", "optax": "0.2.8"}
PLAIN = Versions("3.11.7", LIBRARIES)
CUDA = Versions("3.11.7", LIBRARIES, {"jax-cuda12-plugin": "0.10.1", "jax-cuda12-pjrt": "0.10.1"})
CPU = Jax((Device("cpu", "cpu"),))
H100 = Gpu("NVIDIA H100 80GB HBM3", 500 * 2**20, 80 * 2**30)
TWO_GPUS = Hardware((H100, H100), "550.54.15")
SEEN = Device("gpu", "NVIDIA H100 80GB HBM3", 10**9, 60 * 10**9)


def test_versions_that_go_together():
    found = checks.versions(CUDA)
    assert found.level == "ok" and "jax 0.10.1" in found.what and "python 3.11.7" in found.what


@pytest.mark.parametrize(
    "libraries, plugins, level, words, advice",
    [
        ({"optax": None}, {}, "problem", "optax not installed", "pip install optax"),
        ({"jax": "0.9.1", "jaxlib": "0.9.1"}, {}, "problem", "too old", "jax==0.10.1"),
        (
            {"jax": "0.10.2", "jaxlib": "0.10.2"},
            {},
            "problem",
            "wrong numbers on processors",
            "pip install jax==0.10.1 jaxlib==0.10.1",
        ),
        (
            {"jax": "0.10.2", "jaxlib": "0.10.2"},
            {"jax-cuda13-plugin": "0.10.2"},
            "problem",
            "jax-ml/jax#39103",
            "pip install 'jax[cuda13]==0.10.1' jaxlib==0.10.1",
        ),
        ({"jaxlib": "0.11.1"}, {}, "warning", "jax-ml/jax#40101", "jaxlib==0.10.1"),
        ({"jax": "0.11.0"}, {}, "warning", "different releases", "pip install -U jax==0.11.0"),
        (
            {},
            {"jax-cuda13-plugin": "0.10.0"},
            "problem",
            "jax-cuda13-plugin 0.10.0 isn't of the release of jaxlib 0.10.1",
            "pip install -U 'jax[cuda13]==0.10.1'",
        ),
    ],
)
def test_versions_that_do_not(libraries, plugins, level, words, advice):
    found = checks.versions(Versions("3.11.7", {**LIBRARIES, **libraries}, plugins))
    assert found.level == level and words in found.what and advice in found.advice


COMMON = Wrong("jax-ml/jax#39103", "a product", 2e-3)
RARE = Wrong("openxla/xla#49121", "a slice", None, rare=True, right_since="0.12.0")


def on(jaxlib: str, python: str = "3.13.0") -> Versions:
    return Versions(python, {"jax": jaxlib, "jaxlib": jaxlib})


def test_arithmetic_that_is_right():
    found = checks.arithmetic(Arithmetic(14), PLAIN)
    assert found.level == "ok" and "all 14 reproducers" in found.what


def test_arithmetic_that_is_wrong_says_which_version_to_install():
    found = checks.arithmetic(Arithmetic(14, (COMMON, RARE)), on("0.10.2", "3.11.7"))
    assert found.level == "problem" and "wrong numbers from 1 of 14" in found.what
    assert "a product (jax-ml/jax#39103)" in found.what
    assert found.advice == "pip install jax==0.10.1 jaxlib==0.10.1"
    elsewhere = checks.arithmetic(Arithmetic(14, (COMMON,)), on("0.12.0.1"))
    assert elsewhere.level == "problem" and "driver" in elsewhere.advice


def test_a_rare_pattern_that_a_release_is_known_to_get_wrong_is_a_note():
    old = checks.arithmetic(Arithmetic(14, (RARE,)), on("0.11.2"))
    assert old.level == "note" and "a slice (openxla/xla#49121)" in old.what
    assert "jax==0.12.0.1" in old.advice
    assert "pip" not in checks.arithmetic(Arithmetic(14, (RARE,)), on("0.10.1", "3.11.7")).advice
    assert checks.arithmetic(Arithmetic(14, (RARE,)), on("0.12.0.1")).level == "problem"


def test_arithmetic_that_could_not_be_tried():
    found = checks.arithmetic(Arithmetic(error="its process died of SIGABRT"), PLAIN)
    assert found.level == "warning" and "SIGABRT" in found.what


def test_devices():
    two = checks.devices(Jax((SEEN, SEEN)))
    assert two.level == "ok" and "2 x gpu" in two.what and "2 GB of 120 GB in use" in two.what
    assert checks.devices(CPU).what == "1 x cpu (cpu)"
    hung = checks.devices(Jax(error="no answer within 90 seconds"))
    assert hung.level == "problem" and "no answer" in hung.what and hung.advice


def test_a_gpu_without_the_gpu_build_of_jax():
    found = checks.gpu(TWO_GPUS, PLAIN, CPU)
    assert found.level == "problem"
    assert "2 GPUs (NVIDIA H100" in found.what and "without CUDA" in found.what
    assert found.advice == f"pip install 'jax[cuda12]=={LIBRARIES['jax']}'"
    newer = Hardware((H100,), "580.82.07")
    assert checks.gpu(newer, PLAIN, CPU).advice == f"pip install 'jax[cuda13]=={LIBRARIES['jax']}'"


def test_a_gpu_that_jax_leaves_alone():
    hidden = Hardware((H100,), "550.54.15", variables={"JAX_PLATFORMS": "cpu"})
    found = checks.gpu(hidden, CUDA, CPU)
    assert found.level == "problem" and "JAX_PLATFORMS=cpu" in found.what and found.advice


def test_gpus_that_are_used():
    assert checks.gpu(TWO_GPUS, CUDA, Jax((SEEN, SEEN))).level == "ok"
    one = Hardware((H100, H100), "550.54.15", variables={"CUDA_VISIBLE_DEVICES": "1"})
    some = checks.gpu(one, CUDA, Jax((SEEN,)))
    assert some.level == "note" and "uses 1 because of CUDA_VISIBLE_DEVICES=1" in some.what
    assert checks.gpu(Hardware(), PLAIN, CPU).level == "ok"
    assert checks.gpu(Hardware(), CUDA, CPU).level == "note"
    assert checks.gpu(Hardware(), CUDA, Jax((SEEN,))).what == "JAX uses 1 GPU"


def test_tpus():
    found = checks.tpu(Hardware(tpus=4), PLAIN)
    assert (
        found.level == "problem" and found.advice == f"pip install 'jax[tpu]=={LIBRARIES['jax']}'"
    )
    assert checks.tpu(Hardware(tpus=4), Versions("3.11", LIBRARIES, {"libtpu": "1"})).level == "ok"
    assert checks.tpu(Hardware(), PLAIN).level == "ok"


def test_memory_of_gpus_that_others_use():
    busy = Hardware((H100, Gpu("NVIDIA H100", 60 * 2**30, 80 * 2**30)))
    found = checks.gpu_memory(busy)
    assert found.level == "warning" and "GPU 1" in found.what and "64.4 GB of 85.9 GB" in found.what
    assert checks.gpu_memory(TWO_GPUS).level == "ok"
    assert checks.gpu_memory(Hardware((Gpu("NVIDIA GPU"),))).level == "ok"


def test_memory_of_the_host():
    plenty = Host(8, 8, memory=32 * 10**9, available=16 * 10**9)
    assert checks.memory(plenty).level == "ok"
    assert checks.memory(Host(8, 8)).level == "ok"
    little = Host(8, 8, memory=32 * 10**9, available=10**8)
    assert checks.memory(little).level == "warning"
    # In a container there may be less than the machine has.
    job = Host(8, 8, None, 32 * 10**9, 16 * 10**9, limit=2 * 10**9, limit_used=18 * 10**8)
    found = checks.memory(job)
    assert found.level == "warning" and "may use 2 GB, 200 MB of it are free" in found.what


def test_threads():
    assert checks.threads(Host(8, 8)).level == "ok"
    assert checks.threads(Host(8, 2)).level == "note"
    granted = checks.threads(Host(64, 64, quota=4.0))
    assert granted.level == "warning" and "taskset -c 0-3" in granted.advice
    many = checks.threads(Host(8, 4, variables={"OMP_NUM_THREADS": "8"}))
    assert many.level == "warning" and many.advice == "unset OMP_NUM_THREADS"
    assert checks.threads(Host(8, 8, quota=8.0, variables={"OMP_NUM_THREADS": "2"})).level == "ok"


def test_precision():
    assert checks.precision(CPU).level == "ok"
    wide = checks.precision(Jax(CPU.devices, x64=True))
    assert wide.level == "note" and "JAX_ENABLE_X64" in wide.advice
    tf32 = checks.precision(Jax((SEEN,)))
    assert tf32.level == "note" and "TF32" in tf32.what
    assert checks.precision(Jax((SEEN,), matmul_precision="highest")).level == "ok"


def test_the_cache():
    found = checks.cache(Cache("/cache", 3, 2 * 10**6))
    assert (found.level, found.what) == ("ok", "/cache: 3 files, 2 MB")
    assert checks.cache(Cache(None)).level == "note"
    assert checks.cache(Cache("/cache", writable=False)).level == "warning"
    assert checks.cache(Cache("/cache", 10**5, 30 * 10**9)).level == "note"


def test_launchers():
    assert checks.launch(Launch()).what == "none: one process"
    found = checks.launch(Launch("slurm", 8, 3, 2, "node1:62000"))
    assert found.what == "slurm: process 3 of 8 on 2 hosts, which meet at node1:62000"
    half = checks.launch(Launch(variables={"RANK": "0"}))
    assert half.level == "note" and "RANK=0" in half.what
    wrong = checks.launch(Launch(variables={"RANK": "9"}, error="expected a process from 0 to 3"))
    assert wrong.level == "problem" and "RANK=9" in wrong.advice


@pytest.mark.parametrize("address", ["127.0.1.1", "127.0.0.1", "::1"])
def test_a_host_that_others_cannot_reach_by_its_name(address):
    alone, one_host = Launch(), Launch("torchrun", 4, 0, 1)
    several = Launch("slurm", 4, 0, 2)
    levels = [
        checks.names(Names("node7", (address, "10.0.0.7")), launch).level
        for launch in (alone, one_host, several)
    ]
    assert levels == ["note", "warning", "problem"]
    found = checks.names(Names("node7", (address,)), several)
    assert "/etc/hosts" in found.advice and "node7" in found.advice


def test_a_host_that_others_can_reach():
    names = Names("node7", ("10.0.0.7", "fe80::1%eth0"))
    assert checks.names(names, Launch("slurm", 4, 0, 2)).level == "ok"
    unknown = Names("node7", error="Name or service not known")
    assert checks.names(unknown, Launch()).level == "warning"
    assert checks.names(unknown, Launch("slurm", 4, 0, 2)).level == "problem"


def test_the_disk():
    assert checks.disk(Disk("runs", 10**12, 1e9)).what == "runs: 1 TB free, 1 GB a second"
    assert checks.disk(Disk("runs", 10**12, 5e6)).level == "warning"
    assert checks.disk(Disk("runs", 5 * 10**8, 1e9)).level == "warning"
    assert checks.disk(Disk("runs", 10**7)).level == "problem"
    refused = checks.disk(Disk("runs", 10**12, error="Permission denied"))
    assert refused.level == "problem" and "Permission denied" in refused.what
