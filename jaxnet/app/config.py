"""Configuration at the edge: a frozen dataclass from a TOML file, and back.

Whatever is unknown or of the wrong type is an error that names the place. The command line is read
by `jaxnet.app.command_line`.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxnet.errors import UsageError
from jaxnet.files import expanded, write_atomically

C = TypeVar("C")


def from_toml(config_type: type[C], path: Path) -> C:
    """The configuration that a TOML file holds; what it leaves out has its default.

    Raises:
        UsageError: the file can't be read, or a field is unknown or of the wrong type.
    """
    try:
        values = tomllib.loads(expanded(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: this isn't TOML: {error}") from error
    return from_mapping(config_type, values, str(path))


def from_mapping(config_type: type[C], values: Mapping[str, Any], where: str) -> C:
    """The configuration that nested tables hold.

    Raises:
        UsageError: a field is unknown or of the wrong type; `where` names the source.
    """
    import cattrs

    _refuse_unknown(config_type, values, where, "")
    try:
        return at_home(_converter().structure(values, config_type))
    except cattrs.BaseValidationError as error:
        lines = cattrs.transform_error(error, format_exception=_describe)
        raise UsageError("\n".join(f"{where}: {_readable(line)}" for line in lines)) from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as nested tables that TOML and JSON can hold; unset fields are left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            named = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {name: plain(v) for name, v in named.items() if v is not None}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(config)


def to_toml(config: Any, path: Path) -> None:
    """Write a configuration from which `from_toml` makes the same one."""
    import tomlkit

    with write_atomically(path) as file:
        file.write(tomlkit.dumps(to_mapping(config)))


def at_home(config: Any) -> Any:
    """The configuration with `~` expanded in every path."""

    def changed(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return at_home(value)
        return expanded(value) if isinstance(value, Path) else value

    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    others = {name: changed(v) for name, v in values.items() if changed(v) != v}
    return dataclasses.replace(config, **others) if others else config


def _converter() -> Any:
    """A converter that takes values as they are: `"3"` is no number and `1` no truth value."""
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)

    def exactly(*accepted: type) -> Any:
        def hook(value: Any, wanted: Any) -> Any:
            if type(value) not in accepted:
                raise TypeError(f"expected {wanted.__name__}, got {value!r}")
            return wanted(value)

        return hook

    converter.register_structure_hook(int, exactly(int))
    converter.register_structure_hook(float, exactly(int, float))
    converter.register_structure_hook(bool, exactly(bool))
    converter.register_structure_hook(str, exactly(str))
    converter.register_structure_hook(Path, lambda value, _: Path(exactly(str)(value, str)))
    return converter


def _refuse_unknown(config_type: Any, values: Any, where: str, table: str) -> None:
    types = typing.get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: {table}: expected a table, got {values!r}")
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            place = f" in [{table}]" if table else ""
            raise UsageError(
                f"{where}: unknown field {name!r}{place}{hint} Known: {', '.join(known)}"
            )
        if dataclasses.is_dataclass(types[name]):
            _refuse_unknown(types[name], value, where, f"{table}.{name}".lstrip("."))


def _describe(error: BaseException, wanted: type | None) -> str:
    return str(error)


def _readable(line: str) -> str:
    """Cattrs writes `message @ $.table.field`; we write `table.field: message`."""
    message, _, place = line.rpartition(" @ $")
    return f"{place[1:]}: {message}" if place else message or line
