"""Configuration from TOML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxnet.app.config import from_mapping, from_toml, to_toml
from jaxnet.errors import UsageError


@dataclass(frozen=True)
class Inner:
    """Inner."""

    width: int = 3
    rate: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    """Outer."""

    path: Path | None = None
    count: int = 1
    scale: float = 1.0
    switch: bool = True
    inner: Inner = Inner()


CHANGED = Outer(Path("a b"), 7, 0.1, False, Inner(5, 1e-30, ("x", "y")))


def test_toml_gives_back_what_was_written(tmp_path):
    for config in (Outer(), CHANGED):
        to_toml(config, tmp_path / "config.toml")
        assert from_toml(Outer, tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, "where: unknown field 'cuont'; did you mean 'count'"),
        ({"inner": {"widht": 1}}, r"unknown field 'widht' in \[inner\]; did you mean 'width'"),
        ({"count": "1"}, "where: count: expected int, got '1'"),
        ({"count": 1.5}, "count: expected int, got 1.5"),
        ({"count": True}, "count: expected int, got True"),
        ({"switch": 1}, "switch: expected bool, got 1"),
        ({"scale": "big"}, "scale: expected float, got 'big'"),
        ({"inner": 3}, "inner: expected a table, got 3"),
        ({"inner": {"names": [1]}}, "inner.names"),
    ],
)
def test_wrong_fields_are_named(values, message):
    with pytest.raises(UsageError, match=message):
        from_mapping(Outer, values, "where")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml: No such file"):
        from_toml(Outer, tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("count = = 3")
    with pytest.raises(UsageError, match=r"bad\.toml: this isn't TOML.*line 1"):
        from_toml(Outer, tmp_path / "bad.toml")


def test_help_and_import_need_no_jax():
    code = (
        "import sys, jaxnet, train.classify\n"
        "assert not {'jax', 'flax', 'matplotlib', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
