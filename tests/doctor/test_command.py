from __future__ import annotations

import json
import sys

import pytest

from jaxnet import __main__ as jaxnet_main
from jaxnet.app import cli
from jaxnet.doctor import command
from jaxnet.doctor.facts import (
    Arithmetic,
    Cache,
    Device,
    Disk,
    Facts,
    Gpu,
    Hardware,
    Host,
    Jax,
    Launch,
    Names,
    Versions,
)

LIBRARIES = dict.fromkeys(("jax", "jaxlib", "flax", "optax"), "0.10.1")


def machine(**others) -> Facts:
    facts = {
        "versions": Versions("3.11.7", LIBRARIES),
        "hardware": Hardware(),
        "jax": Jax((Device("cpu", "cpu"),)),
        "arithmetic": Arithmetic(14),
        "host": Host(2, 2),
        "cache": Cache("/cache"),
        "launch": Launch(),
        "names": Names("here", ("10.0.0.1",)),
        "disk": Disk("runs", 10**12, 1e9),
    }
    return Facts(**{**facts, **others})


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command on a machine, and gives its exit code and what it printed."""

    def run(facts: Facts, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(Facts, "gather", lambda folder: facts)
        monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxnet", "doctor", *arguments])
        code = jaxnet_main.main()
        return code, capsys.readouterr().out

    return run


def test_a_sound_machine(run):
    code, out = run(machine())
    assert code == cli.DONE
    assert "none: one process" in out and out.endswith("13 ok\n")


def test_a_problem_is_an_exit_code_with_the_command_that_helps(run):
    code, out = run(machine(hardware=Hardware((Gpu("NVIDIA H100"),), "550.1")))
    assert code == cli.FAILED
    assert "pip install 'jax[cuda12]==" in out and "1 problem" in out


def test_a_warning_is_none(run):
    assert run(machine(disk=Disk("runs", 10**12, 1e6)))[0] == cli.DONE


def test_json_holds_findings_and_facts(run):
    code, out = run(machine(hardware=Hardware(tpus=4)), "--json")
    report = json.loads(out)
    assert code == cli.FAILED
    assert [each["topic"] for each in report["findings"] if each["level"] == "problem"] == ["TPU"]
    assert report["facts"]["hardware"]["tpus"] == 4
    assert all(each["level"] in command.STYLES for each in report["findings"])


def test_the_commands_of_jaxnet(monkeypatch, capsys):
    def main(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxnet", *words])
        return jaxnet_main.main()

    assert main() == cli.DONE
    assert "jaxnet doctor" in capsys.readouterr().out
    assert main("--version") == cli.DONE
    assert capsys.readouterr().out.strip()
    assert main("doctr") == cli.WRONG_USAGE
    assert "did you mean 'doctor'?" in capsys.readouterr().err
