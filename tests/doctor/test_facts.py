from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from jaxnet.doctor import answers, facts, system
from jaxnet.doctor.answers import Device, Jax, ask
from jaxnet.doctor.facts import Cache, Disk, Hardware, Host, Launch, Names, Versions


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_versions_are_those_that_are_imported():
    import jax

    found = Versions.gather()
    assert found.libraries["jax"] == jax.__version__
    assert set(found.libraries) == set(facts.LIBRARIES)


def test_gpus_that_only_the_driver_shows(tmp_path):
    write(
        tmp_path,
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: 12\n",
    )
    for number in range(2):
        write(
            tmp_path,
            f"proc/driver/nvidia/gpus/0000:{number}/information",
            "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   42\n",
        )
    found = Hardware.gather(tmp_path)
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert (found.driver, found.tpus) == ("550.54.15", 0)


def test_gpus_that_only_device_files_show(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "accel0"):
        write(tmp_path, f"dev/{name}", "")
    found = Hardware.gather(tmp_path)
    assert (len(found.gpus), found.driver, found.tpus) == (2, None, 1)
    assert Hardware.gather(tmp_path / "nothing").gpus == ()


def test_gpus_that_their_tool_shows(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A100-SXM4-80GB, 535.1, 1024, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system.nvidia_smi() == ([("NVIDIA A100-SXM4-80GB", 2**30, 80 * 2**30)], "535.1")
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert system.nvidia_smi() == ([], None)


def test_limits_of_a_job_lie_above_it_too(tmp_path):
    write(tmp_path, "proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:   600 kB\nHugePages: 0\n")
    write(tmp_path, "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    top = "sys/fs/cgroup/slurm"
    write(tmp_path, f"{top}/job_7/step_0/memory.max", "max\n")
    write(tmp_path, f"{top}/job_7/memory.max", "4096\n")
    write(tmp_path, f"{top}/job_7/memory.current", "1024\n")
    write(tmp_path, f"{top}/memory.max", "8192\n")
    write(tmp_path, f"{top}/job_7/cpu.max", "150000 100000\n")
    write(tmp_path, f"{top}/cpu.max", "max 100000\n")
    host = Host.gather(tmp_path)
    assert (host.memory, host.available) == (1024000, 614400)
    assert (host.limit, host.limit_used, host.quota) == (4096, 1024, 1.5)


def test_limits_in_the_first_version_of_cgroups(tmp_path):
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/\n1:name=systemd:/\n")
    # In a container the path is the host's, and the files are at the top.
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "2048\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "512\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    host = Host.gather(tmp_path)
    assert (host.limit, host.limit_used, host.quota) == (2048, 512, None)
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert Host.gather(tmp_path).limit is None


def test_this_host():
    host = Host.gather()
    assert 1 <= host.usable <= host.cores
    names = Names.gather()
    assert names.host and (names.addresses or names.error)


def test_the_cache(tmp_path):
    write(tmp_path, "cache/program", "1234")
    assert Cache.gather(str(tmp_path / "cache")) == Cache(str(tmp_path / "cache"), 1, 4, True)
    assert Cache.gather(str(tmp_path / "none")).files == 0
    assert Cache.gather(None).folder is None


def test_the_disk_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "PROBE_BYTES", 2**20)
    found = Disk.gather(tmp_path / "runs" / "mine")
    assert found.error is None and found.speed and found.free > 0
    assert list(tmp_path.iterdir()) == []
    full = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    assert Disk.gather(tmp_path).speed is None


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(path):
        if path.name == "mine":
            raise PermissionError(13, "Permission denied", str(path))
        return os.path.exists(path)

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(facts, "PROBE_BYTES", 2**20)
    assert Disk.gather(tmp_path / "mine").error is None


def test_launchers():
    assert Launch.gather({"HOME": "/root"}) == Launch()
    environ = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    found = Launch.gather(environ)
    assert (found.launcher, found.process, found.processes) == ("torchrun", 1, 4)
    assert (found.coordinator, found.variables) == ("node1:29500", environ)
    assert Launch.gather({"RANK": "1"}).launcher is None
    wrong = Launch.gather({**environ, "RANK": "9"})
    assert wrong.launcher is None and "expected a process from 0 to 3" in str(wrong.error)


def test_a_jax_that_does_not_answer():
    found, arithmetic = ask(seconds=0.01)
    assert found.error == "no answer within 0 seconds" and arithmetic.error


def test_a_jax_that_dies_of_what_it_computes_has_named_its_devices(tmp_path, monkeypatch):
    device = Device("cpu", "cpu")
    said = json.dumps(asdict(Jax((device,))))
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho '{said}'\nkill -ABRT $$\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(answers.sys, "executable", str(interpreter))
    found, arithmetic = ask()
    assert found.devices == (device,) and found.error is None
    assert "died of SIGABRT" in str(arithmetic.error)


@pytest.mark.slow
def test_a_jax_that_fails(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")
    assert "none_such" in str(ask()[0].error)


@pytest.mark.slow
def test_jax_answers_for_itself(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAXNET_CACHE_DIR", "/somewhere")
    found, arithmetic = ask()
    assert found.error is None and arithmetic.error is None and arithmetic.tried > 10
    assert [device.platform for device in found.devices] == ["cpu"]
    assert found.x64 and found.cache == "/somewhere"


def test_gathering_imports_no_jax():
    code = "import sys, jaxnet.doctor.command; print(json.dumps('jax' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) is False
