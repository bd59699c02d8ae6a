"""A configuration from the words of a command line: help, options, and what to say of wrong words.

tyro reads the words. What is ours is the help of an option, which says what reads it
(`jaxnet.options`), and a message that names the option that was probably meant. JAX isn't needed
here, so that `--help` is quick.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from jaxnet.app.config import at_home, from_toml
from jaxnet.errors import UsageError
from jaxnet.options import TOP, OnlyWith, Option, options, shown

C = TypeVar("C")

CONFIG = "--config"
# How alike two names have to be for one to be offered in the place of the other.
ALIKE = 0.7
OFFERED = 3


def from_command_line(config_type: type[C], arguments: Sequence[str], program: str) -> C:
    """The configuration that a command line asks for.

    The order is: the dataclass's defaults, then `--config FILE.toml`, then the other options.

    Args:
        config_type: a frozen dataclass; its docstring and those of its fields become the help.
        arguments: the words after the program's name, `--config FILE.toml` among them or not.
        program: how the program is called; by the command `jaxnet`, `sys.argv[0]` says how.

    Raises:
        UsageError: a word is no option, or the file is wrong. A value of the wrong type ends the
            program with exit code 2, as `cli.run` does for this error.
    """
    import tyro

    if sys.argv[0].startswith(("jaxnet ", "python -m jaxnet ")):
        program = sys.argv[0]
    file, words = _without_file(arguments)
    default = config_type() if file is None else from_toml(config_type, file)
    try:
        chosen, unknown = tyro.cli(
            config_type,
            prog=program,
            args=words,
            default=default,
            description=f"{_first_lines(config_type)}\n\n{CONFIG} FILE.toml takes the values of a "
            "file, such as config.toml of an earlier run; other options go before it.",
            return_unknown_args=True,
            registry=_registry(),
        )
    except _Refused as refused:
        raise refused.error from None
    if unknown:
        raise UsageError(f"{_explained(unknown[0], words, default)} {program} --help lists all.")
    return at_home(chosen)


def _without_file(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file of `--config`, and the other words."""
    files, rest, words = [], [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != CONFIG:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise UsageError(
                f"{CONFIG} needs a file: {CONFIG} FILE.toml, such as config.toml of an earlier run"
            )
        files.append(Path(value))
    if len(files) > 1:
        raise UsageError(f"{CONFIG} takes one file, and here are {' and '.join(map(str, files))}")
    return (files[0] if files else None), rest


# --- the help -----------------------------------------------------------------------------------


def _registry() -> Any:
    """How tyro is to take our dataclasses, and numbers in a row."""
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.struct_rule(_group)
    registry.primitive_rule(_numbers)
    return registry


def _group(info: Any) -> Any:
    """A dataclass as options: with the help that `_help` gives."""
    import tyro
    from tyro.constructors import StructConstructorSpec, StructFieldSpec

    kind = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    hints, docs = typing.get_type_hints(kind, include_extras=True), field_docs(kind)
    specs = []
    for field in dataclasses.fields(kind):
        default = getattr(info.default, field.name)
        about, hint = _help(hints[field.name], docs.get(field.name), default)
        # What stands at the top has no prefix.
        name = "" if TOP in getattr(hints[field.name], "__metadata__", ()) else None
        wanted = Annotated[hints[field.name], tyro.conf.arg(name=name, help_behavior_hint=hint)]
        specs.append(StructFieldSpec(field.name, typing.cast(Any, wanted), default, about))

    def make(**values: Any) -> Any:
        try:
            return kind(**values)
        except UsageError as error:
            raise _Refused(error) from error

    return StructConstructorSpec(make, tuple(specs))


class _Refused(Exception):
    """What a dataclass says of its values, past tyro, which puts any ValueError into a box."""

    def __init__(self, error: UsageError) -> None:
        super().__init__(str(error))
        self.error = error


def _help(hint: Any, doc: str | None, default: Any) -> tuple[str, str]:
    """What an option is, and in brackets what reads it and what it is by default."""
    marks = [str(mark) for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, OnlyWith)]
    if dataclasses.is_dataclass(default):
        about = doc or _first_lines(type(default))
        return (f"{about} ({'; '.join(marks)})" if marks else about), ""
    if default not in (None, (), {}):
        word = {True: "yes", False: "no"}.get(default) if isinstance(default, bool) else None
        marks.append(f"default: {word or shown(default)}")
    return doc or "", f"({'; '.join(marks)})" if marks else ""


def _numbers(info: Any) -> Any:
    """Numbers in a row may have commas between them: `64,32` is `64 32`."""
    from tyro.constructors import PrimitiveConstructorSpec

    parts = typing.get_args(info.type)
    if typing.get_origin(info.type) is not tuple or parts[1:] != (...,):
        return None
    number = getattr(parts[0], "__origin__", parts[0])
    if number not in (int, float):
        return None

    def read(words: list[str]) -> tuple[Any, ...]:
        return tuple(number(word) for word in " ".join(words).replace(",", " ").split())

    name = number.__name__.upper()
    return PrimitiveConstructorSpec(
        "*",
        f"[{name} [{name} ...]]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [*map(str, value)],
    )


def field_docs(kind: type) -> dict[str, str]:
    """What a dataclass says of its fields: below them, or under `Attributes:` in its docstring.

    Example:
        >>> from jaxnet.training import EarlyStopping
        >>> field_docs(EarlyStopping)["min_delta"]
        'the minimum improvement that counts.'
    """
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        docs |= {**_under_attributes(each.__dict__.get("__doc__") or ""), **dict(_below(each))}
    return docs


def _below(kind: type) -> Iterator[tuple[str, str]]:
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # a class without a file
        return
    body = getattr(node, "body", [])
    for field, doc in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            yield ast.unparse(field.target), " ".join(str(ast.literal_eval(doc.value)).split())


def _under_attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _first_lines(kind: type) -> str:
    """The docstring up to where it says what isn't for the command line."""
    text = inspect.cleandoc(kind.__doc__ or "")
    paragraphs = re.split(r"\n\n(?=\w+:\n)", text)[0].split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


# --- wrong words --------------------------------------------------------------------------------


def _explained(word: str, words: Sequence[str], config: Any) -> str:
    """What to say of a word that nothing takes."""
    known = {str(option): option for option in options(config)}
    name, _, value = word.partition("=")
    at = words.index(word)
    if not word.startswith("--"):
        return _stray(word, words[:at], known)
    name = name.replace("_", "-")
    if at + 1 < len(words) and not value and not words[at + 1].startswith("--"):
        value = words[at + 1]
    inside = [option for option in known if option.startswith(f"{name}.")]
    if f"{name}.name" in inside:
        return f"{name} is a group of options; did you mean {f'{name}.name {value}'.strip()}?"
    if inside:
        return f"{name} is a group of options: {', '.join(inside)}."
    near = _near(name, list(known))
    return f"unknown option {name}" + (f"; did you mean {' or '.join(near)}?" if near else ".")


def _stray(word: str, before: Sequence[str], known: Mapping[str, Option]) -> str:
    option = next((each for each in reversed(before) if each.startswith("--")), None)
    if option is not None:
        return f"unexpected word {word!r}: {option.partition('=')[0]} takes no more values."
    example = f", such as --data-dir {word}" if "--data-dir" in known else ""
    return f"unexpected word {word!r}: options begin with --{example}."


def _near(name: str, known: Sequence[str]) -> list[str]:
    """The options that were probably meant.

    Example:
        >>> _near("--lr", ["--layout.data", "--learning-rate", "--optimizer.b1"])
        ['--learning-rate']
        >>> _near("--dropout-rate", ["--learning-rate", "--network.dropout", "--tower.dropout"])
        ['--network.dropout', '--tower.dropout']
    """
    scores = {option: _likeness(name, option) for option in known}
    best = max(scores.values(), default=0)
    if best < ALIKE:
        return []
    near = [option for option, score in scores.items() if score >= best - 0.05]
    return near[:OFFERED]


def _likeness(name: str, option: str) -> float:
    """From 0 to 1, how much a name that there isn't looks like one that there is."""
    name, option = name.lstrip("-"), option.lstrip("-")
    last = option.rpartition(".")[2]
    parts, wanted = last.split("-"), re.split(r"[.-]", name)
    if name == last or (len(parts) > 1 and name == "".join(part[0] for part in parts)):
        return 1.0
    spelt = max(difflib.SequenceMatcher(None, name, each).ratio() for each in (option, last))
    common = len(set(parts) & set(wanted)) / len(set(parts) | set(wanted))
    # A whole word in common says more than letters: --dropout-rate is --network.dropout.
    return max(spelt, 0.7 + 0.2 * common if set(parts) <= set(wanted) else 0.0)
